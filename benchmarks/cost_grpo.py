"""Seconds of a GRPO step as a function of clips, answers and tokens: measured on a grid, fitted, tried on other points.

    python benchmarks/cost_grpo.py --threads 1 [--json]

Our step of `bench_grpo.py` alone, on the default model, with answers that run to their full length. U clips with
prompts of P tokens, G answers of at most C tokens to each, N nodes in the tree of the answers (docs/grpo.md):

    sampling          = f + a U P + b N + c C     f: weights are packed anew; c: each word waits for all of them
    policy, reference = f + a U P + b N           forward and backward pass, or a forward pass alone

The coefficients are CPU-seconds of the machine at hand. Their worth is the error on the points that were not fitted.
"""

import json
from typing import Annotated

import numpy as np
import torch
import typer
from bench_grpo import default_layout, our_step  # beside this script

from omni.emotions import EKMAN7
from omni.loading import trains_in_bf16
from omni.rollout import Sampling
from omni.shared_prompt import Tree

FITTED = ((2, 4, 8), (2, 8, 24), (4, 8, 8), (4, 8, 48), (4, 4, 96), (8, 4, 24), (8, 8, 12), (4, 16, 24), (8, 16, 8))
TRIED = ((3, 8, 64), (6, 8, 16), (4, 12, 32), (8, 8, 32))


def measure(model, processor, media, clips: int, group: int, length: int) -> dict[str, float]:
    """CPU-seconds of one step and what they should depend on; the second of two steps counts."""
    texts = [processor.prompt(None, EKMAN7, think=True, modalities=clip.modalities) for clip in media[:clips]]
    advantages = torch.linspace(-1, 1, clips * group)
    sampling = Sampling(length, (), never=tuple(model.config.placeholders.values()))
    for _ in range(2):
        *written, _, phases = our_step(model, processor, media[:clips], texts, group, sampling, advantages)
    prompt = processor.ask(media[:clips], texts)["input_ids"].numel()
    return {
        "once": 1,
        "UP": prompt,
        "N": len(Tree(*written, torch.arange(clips).repeat_interleave(group)).token),
        "C": length,
        "sampling": phases.cpu["sampling"],
        "policy": phases.cpu["policy, forward"] + phases.cpu["policy, backward"],
        "reference": phases.cpu["reference"],
    }


def main(threads: int = 1, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Measure the grid, fit, and try the rest."""
    torch.set_num_threads(threads)
    dtype = "bfloat16" if trains_in_bf16() else "float32"
    model, processor, media = default_layout(max(u for u, _, _ in FITTED + TRIED), dtype, None)
    torch.manual_seed(0)
    points = {point: measure(model, processor, media, *point) for point in FITTED + TRIED}
    terms = {
        "sampling": ("once", "UP", "N", "C"),
        "policy": ("once", "UP", "N"),
        "reference": ("once", "UP", "N"),
    }
    result: dict = {"dtype": dtype, "threads": threads, "milliseconds": {}, "points": []}
    for part, names in terms.items():
        known = [points[point] for point in FITTED]
        rows = np.array([[p[name] for name in names] for p in known], float)
        cost = np.array([p[part] for p in known])
        found, *_ = np.linalg.lstsq(rows / cost[:, None], np.ones(len(cost)))  # relative errors count alike
        result["milliseconds"][part] = dict(zip(names, (1e3 * found).round(2).tolist(), strict=True))
        for p in points.values():
            p[f"{part}, fitted"] = round(float(np.dot(found, [p[name] for name in names])), 2)
    for point, p in points.items():
        total, fitted = (sum(p[part + end] for part in ("sampling", "policy")) for end in ("", ", fitted"))
        result["points"].append({"clips, answers, tokens": point, "tried": point in TRIED, **p})
        typer.echo(f"{point!s:14} measured {total:6.2f}  fitted {fitted:6.2f}{'  tried' if point in TRIED else ''}")
    typer.echo(f"milliseconds: {result['milliseconds']}")
    if as_json:
        typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
