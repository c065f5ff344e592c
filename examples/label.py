"""Label a folder of clips into a table: python examples/label.py [FOLDER [TABLE.csv]]"""

import sys

from omni.label import label

folder = sys.argv[1] if len(sys.argv) > 1 else "examples/clips"
table = sys.argv[2] if len(sys.argv) > 2 else "labels.csv"
summary = label([folder], table, labels="angry,happy,sad,neutral")
print(f"{summary.ok} labelled, {summary.errors} errors: {table}")
