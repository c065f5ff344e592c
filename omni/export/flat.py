"""A flat .csv for statistics: a line for each row, a column for each label's probability.

    clip,question,label,confidence,p_angry,…,rationale,evidence,modalities,duration_s,transcript,warnings,model,sha256

Lists are joined with "; ", a cue of the evidence reads "smile (video, 0.50-1.20 s, supported)", a denial "no smile
(…)". Text that a spreadsheet would run as a formula gets a ' in front, as in the tables of `omni label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..journal import Row, csv_text
from ..label_table import csv_cell
from .evidence import spans


def csv_file(rows: Sequence[Row], root: Path) -> bytes:
    """The rows as UTF-8 with a header; clips stay named as the table names them."""
    labels = list(dict.fromkeys(label for row in rows for label in row["labels"] or ()))
    lines = [_line(row, labels) for row in rows]
    table = [list(lines[0]), *([csv_cell(value) for value in line.values()] for line in lines)]
    return csv_text(table).encode(errors="replace")


def _line(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    probabilities = row["labels"] or {}
    told = (f"{cue.name} ({cue.modality}, {cue.start:.2f}-{cue.end:.2f} s, {cue.verdict})" for cue in spans(row))
    return {
        **{name: row[name] for name in ("clip", "question", "label", "confidence")},
        **{f"p_{label}": probabilities.get(label) for label in labels},
        "rationale": row["thought"],
        "evidence": "; ".join(told),
        "modalities": "; ".join(row["modalities"]),
        "duration_s": row["duration_s"],
        "transcript": row["transcript"],
        "warnings": "; ".join(row["warnings"]),
        "model": row["model"],
        "sha256": row["sha256"],
    }
