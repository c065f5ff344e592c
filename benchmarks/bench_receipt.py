"""What a receipt costs beside the plain answer, on the default model.

    python benchmarks/bench_receipt.py [CLIP…] [--json]

The plain answer is all of `omni ask` after the model is loaded: reading the clip, towers, text, label probabilities.
The receipt comes on top of it. CPU-seconds of this process; the first clip is asked twice, the first time uncounted.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from omni.faithfulness import receipt_of
from omni.generate import as_features, reason
from omni.loading import load

CLIPS = [Path(__file__).parent.parent / "examples" / "clips" / f"{name}.mp4" for name in ("conflict", "happy", "sad")]


def main(
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP…")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Measure both."""
    model, processor = load("default")
    chosen, plain, more = clips or CLIPS, 0.0, 0.0
    for number, path in enumerate([chosen[0], *chosen]):
        start = time.process_time()
        clip = as_features(model, processor, [processor.read(path)])[0]
        answer = reason(model, processor, clip)
        answered = time.process_time()
        receipt_of(model, processor, clip, answer)
        if number:
            plain, more = plain + answered - start, more + time.process_time() - answered
    ratio = (plain + more) / plain
    count = len(chosen)
    typer.echo(f"answer {plain / count:.2f} CPU-s, with its receipt {(plain + more) / count:.2f}: {ratio:.2f} times")
    if as_json:
        typer.echo(json.dumps({"clips": count, "plain": plain / count, "receipt": more / count, "ratio": ratio}))


if __name__ == "__main__":
    typer.run(main)
