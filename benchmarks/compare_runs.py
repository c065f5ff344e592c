"""Several training runs on the same held-out clips: UAR with intervals, and paired differences from a first one.

    python benchmarks/compare_runs.py COLD.json --run grpo=GRPO_0.json --run grpo=GRPO_1.json --run sft=SFT_0.json

Reads what `eval_default.py` wrote. Runs with the same name are seeds of one recipe: their UAR is averaged clip draw by
clip draw, so an interval is over clips, and the spread over seeds stands beside it. Differences are paired: both sides
see the same drawn clips. What a file does not have (`--mode`) is said and left out.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from omni.emotions import EKMAN7
from omni.metrics import interval, resample, uar

MODES = {"think": "think labels", "no-think": "no-think labels"}


def draws(runs: list[dict], key: str) -> tuple[float, list[float], np.ndarray]:
    """Mean UAR of some runs, that of each, and the mean over bootstrap draws of clips (resamples,)."""
    truth = np.array(runs[0]["truth"])
    labels = [np.array(run[key]) for run in runs]

    def mean(drawn: np.ndarray) -> float:
        return float(np.mean([uar(truth[drawn].tolist(), said[drawn].tolist(), EKMAN7) for said in labels]))

    each = [uar(truth.tolist(), said.tolist(), EKMAN7) for said in labels]
    return float(np.mean(each)), each, resample(mean, len(truth))


def measured(path: Path) -> dict:
    """The held-out part of a file; one line says what to do if it does not tell its clips."""
    if not path.is_file():
        raise SystemExit(f"There is no file {path}. Write it with eval_default.py.")
    found: dict = json.loads(path.read_text()).get("held-out actors", {})
    if "sha256" not in found:
        raise SystemExit(f"{path} does not say which clips it is about. Write it again with eval_default.py.")
    for mode, key in MODES.items():
        if key not in found:
            typer.echo(f"{path} has no {mode} answers and is left out there.", err=True)
    return found


def row(name: str, runs: list[dict], first: dict) -> list[str]:
    """A line of the table for each way of answering."""
    lines = []
    for mode, key in MODES.items():
        runs_of = [run for run in runs if key in run]
        if not runs_of:
            continue
        value, each, drawn = draws(runs_of, key)
        low, high = interval(drawn)
        cells = [f"{value:.3f} ({low:.3f} to {high:.3f})", " ".join(f"{x:.3f}" for x in each)]
        cells.append("" if runs_of == [first] or key not in first else against(first, key, value, drawn))
        cells.append(claims([run["claims"] for run in runs_of]) if mode == "think" else "")
        lines.append(f"| {name} | {mode} | {' | '.join(cells)} |")
    return lines


def against(first: dict, key: str, value: float, drawn: np.ndarray) -> str:
    """The paired difference from the first run."""
    base, _, base_drawn = draws([first], key)
    low, high = interval(drawn - base_drawn)
    return f"{value - base:+.3f} ({low:+.3f} to {high:+.3f})"


def claims(found: list[dict]) -> str:
    """Mean precision and number of the claims of some runs."""
    return f"{np.mean([c['precision'] for c in found]):.3f}, {np.mean([c['per rationale'] for c in found]):.2f}"


def main(
    cold: Path, run: Annotated[list[str], typer.Option(help="NAME=FILE, what eval_default.py wrote; may repeat")]
) -> None:
    """Print a Markdown table."""
    first = measured(cold)
    recipes = defaultdict(list)
    for entry in run:
        name, path = entry.split("=", 1)
        recipes[name].append(measured(Path(path)))
        if any(recipes[name][-1][key] != first[key] for key in ("sha256", "truth")):
            raise SystemExit(f"{path} is about other clips or labels than {cold}. Write both from one TEST.jsonl.")
    lines = [
        "| recipe | answers | UAR (95 %) | each seed | against the first (95 %, paired) | claims: precision, number |"
    ]
    lines += ["|---|---|---|---|---|---|", *row("cold start", [first], first)]
    for name, runs in recipes.items():
        lines += row(name, runs, first)
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
