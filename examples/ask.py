"""Ask about one clip, and see what the answer rests on: python examples/ask.py [CLIP]"""

import sys

from omni import load, reason

model, processor = load("default")
answer = reason(model, processor, sys.argv[1] if len(sys.argv) > 1 else "examples/clips/conflict.mp4")
print(answer.thought)
for claim in answer.evidence:
    print(f"  {claim.verdict}: {claim.modality}, {claim.cue}")
print(f"{answer.label} {answer.confidence:.2f}")
