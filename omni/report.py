"""`omni report RUN`: the curves of a training run and samples of what it wrote, as one HTML file without scripts.

RUN/trainer_state.json  (or that of its last checkpoint)  ─► curves ─┐
RUN/completions.jsonl   (GRPO)                            ─► table  ─┴► RUN/report.html
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

from .errors import OmniError

CURVES = {  # name in the log → title; rewards by part are added as rewards/NAME/mean
    "reward": "Reward",
    "reward_std": "Reward, spread",
    "frac_reward_zero_std": "Share of groups with no signal",
    "rows_without_signal": "Share of rows left out",
    "completions/mean_length": "Tokens of a completion, mean",
    "completions/clipped_ratio": "Share of completions cut off",
    "kl": "KL to the reference",
    "entropy": "Entropy of a token",
    "loss": "Loss",
    "grad_norm": "Norm of the gradient",
    "learning_rate": "Learning rate",
    "step_time": "Seconds a step",
}
WIDTH, HEIGHT, SAMPLES = 320, 120, 40
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;color:#222}h1{font-size:1.3em}"
    ".grid{display:flex;flex-wrap:wrap;gap:1.2em}figure{margin:0}figcaption{font-weight:600}small{color:#666}"
    "path.raw{stroke:#bcd;fill:none}path.mean{stroke:#247;fill:none;stroke-width:2}"
    "table{border-collapse:collapse;margin-top:2em}td,th{border-bottom:1px solid #ddd;padding:.3em .6em;"
    "text-align:left;vertical-align:top}"
)


def report(run: Path) -> Path:
    """Write `report.html` into the folder of a run and return its path.

    Raises:
        OmniError: the folder holds no run, or a damaged file.
    """
    history = read_history(run)
    names = [*CURVES, *sorted({name for row in history for name in row if re.fullmatch(r"rewards/.+/mean", name)})]
    figures = [_figure(name, points) for name in names if len(points := _points(history, name)) > 1]
    title = escape(run.resolve().name)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{len(history)} records, last step {history[-1]['step']}. Thin: every record; thick: mean "
        f'of nine.</p><div class="grid">{"".join(figures)}</div>{_table(run / "completions.jsonl")}</html>'
    )
    path = run / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def read_history(run: Path) -> list[dict]:
    """What the trainer logged: one record a logging step.

    Raises:
        OmniError: there is none, or its file is damaged.
    """
    saved = sorted(run.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    whole = run / "trainer_state.json"
    paths = [whole] if whole.exists() else saved[-1:]
    history = []
    for path in paths:
        with _undamaged(path):
            history = list(json.loads(path.read_text(encoding="utf-8"))["log_history"])
    if not history:
        raise OmniError(f"{run} holds no training run (trainer_state.json). Give the output_dir of a run.", code="run")
    return history


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Around the reading of a file of a run."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as err:
        raise OmniError(f"{path} is damaged ({err!r}). Copy it again, or delete it.", code="run") from err


def _points(history: Sequence[dict], name: str) -> list[tuple[float, float]]:
    rows = ((row["step"], row[name]) for row in history if isinstance(row.get(name), int | float))
    return [(float(step), float(value)) for step, value in rows if math.isfinite(value)]


def _figure(name: str, points: list[tuple[float, float]]) -> str:
    values = [value for _, value in points]
    mean, low, high = smooth(values), min(values), max(values)
    paths = "".join(
        f'<path class="{kind}" d="{_line([s for s, _ in points], line, low, high)}"/>'
        for kind, line in (("raw", values), ("mean", mean))
    )
    title = CURVES.get(name) or f"Reward: {name.split('/')[1].removesuffix('_reward')}"
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">{paths}</svg><br>'
        f"<small>{low:.3g} to {high:.3g}, at the end {mean[-1]:.3g}</small></figure>"
    )


def _line(steps: Sequence[float], values: Sequence[float], low: float, high: float) -> str:
    """SVG path of a curve, the first point at the left edge and the highest at the upper one."""
    wide, tall = (steps[-1] - steps[0]) or 1.0, (high - low) or 1.0
    place = (
        f"{4 + (step - steps[0]) / wide * (WIDTH - 8):.1f},{4 + (high - value) / tall * (HEIGHT - 8):.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    return "M" + " L".join(place)


def smooth(values: Sequence[float], width: int = 9) -> list[float]:
    """Centred moving mean, narrower at the edges.

    >>> smooth([0.0, 3.0, 0.0], 3)
    [1.5, 1.0, 1.5]
    """
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _table(path: Path) -> str:
    """The newest completions with their rewards."""
    if not path.exists():
        return ""
    with _undamaged(path):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        cells = [_cells(json.loads(line)) for line in lines[-SAMPLES:]]
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in cells)
    head = "".join(f"<th>{name}</th>" for name in ("step", "clip", "label", "completion", "rewards", "advantage"))
    return f"<table><tr>{head}</tr>{body}</table>"


def _cells(row: dict) -> list:
    rewards = (f"{name.removesuffix('_reward')} {_number(value)}" for name, value in row["rewards"].items())
    clip, advantage = Path(row["clip"]).name, _number(row["advantage"])
    return [row["step"], clip, row["label"], row["completion"], ", ".join(rewards), advantage]


def _number(value: float | None) -> str:
    return "not applicable" if value is None or math.isnan(value) else f"{value:.2f}"
