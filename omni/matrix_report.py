"""The technical matrix as Markdown, JSON and a picture.

    rows of a run ─► described: columns from the classes, and the paired test against concat ─► markdown, svg, as_json

The paired test: the difference of UAR to `concat` with the same treatment of the language model, both on the same
resampled test clips, 95 % interval. Eleven mechanisms are compared, so one interval in twenty lies beside zero by
chance; `verdict` says so.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from .emotions import label_space
from .fusion import MECHANISMS
from .journal import replace_file
from .matrix import DECODERS, Matrix, key_of
from .metrics import interval, resample_classes

CONTROL = "concat"
NONE = "–"
WORDS = {"lora": "LoRA", "frozen": "frozen"}
LINE, LEFT, WIDE, CELL = 24, 250, 320, 78  # pixels: height of a row, width of names, of the dots, of a change
CHANGES = ("without sound", "without picture", "noise", "another clip's sound")  # in the picture
FULL = 0.4  # change of UAR that has the strongest colour
FONT = "font-family='sans-serif' font-size='12'"


def as_json(found: Matrix) -> dict[str, Any]:
    """All of a run as JSON values."""
    return {"facts": found.facts, "verdict": verdict(found), "rows": described(found), "missing": missing(found)}


def write(found: Matrix, folder: Path) -> None:
    """Write matrix.md, matrix.json and matrix.svg."""
    texts = {"md": markdown(found), "json": json.dumps(as_json(found), indent=1), "svg": svg(found)}
    for suffix, text in texts.items():
        replace_file(folder / f"matrix.{suffix}", text.encode() + b"\n")


def described(found: Matrix) -> list[dict[str, Any]]:
    """Rows with what the classes say of them and the paired test, grouped by stage and without the single answers."""
    rows = {key_of(row): row for row in found.rows}
    space = label_space(found.facts["labels"])
    seed = found.facts["seed"]
    drawn = {k: resample_classes(found.truth, row["predicted"], space, seed=seed).uar for k, row in rows.items()}
    out = []
    for (name, decoder), row in rows.items():
        kind = MECHANISMS[name]
        columns = {c: getattr(kind, c) for c in ("stage", "attention", "depth", "source", "fidelity")}
        low, high = interval(drawn[name, decoder])
        measured = {k: v for k, v in row.items() if k not in ("predicted", "run")}
        control = rows.get((CONTROL, decoder))
        against = None
        if control is not None and name != CONTROL:
            least, most = interval(drawn[name, decoder] - drawn[CONTROL, decoder])
            against = {"value": round(row["uar"] - control["uar"], 4), "low": round(least, 4), "high": round(most, 4)}
        out.append(columns | measured | {"uar_interval": [round(low, 4), round(high, 4)], "against_concat": against})
    return sorted(out, key=lambda r: (DECODERS.index(r["language_model"]), list(MECHANISMS).index(r["mechanism"])))


def missing(found: Matrix) -> list[str]:
    """Rows of the whole matrix that this run does not have."""
    there = {key_of(row) for row in found.rows}
    return [f"{m} ({WORDS[d]})" for d in DECODERS for m in MECHANISMS if (m, d) not in there]


def verdict(found: Matrix) -> str:
    """Whether anything beats `concat`, in a sentence for each treatment of the language model."""
    return " ".join(_verdict(decoder, described(found)) for decoder in DECODERS)


def _verdict(decoder: str, rows: list[dict[str, Any]]) -> str:
    compared = [r for r in rows if r["language_model"] == decoder and r["against_concat"]]
    where = f"With the language model {'frozen' if decoder == 'frozen' else 'under LoRA'}"
    if not compared:
        return f"{where}, nothing was compared."
    better = [f"`{r['mechanism']}`" for r in compared if r["against_concat"]["low"] > 0]
    worse = [f"`{r['mechanism']}`" for r in compared if r["against_concat"]["high"] < 0]
    ends = f"; {', '.join(worse)} {'falls' if len(worse) == 1 else 'fall'} behind it" if worse else ""
    if not better:
        return f"{where}, nothing beats `{CONTROL}`{ends} (of {len(compared)} compared)."
    verb = "beats" if len(better) == 1 else "beat"
    return (
        f"{where}, {', '.join(better)} {verb} `{CONTROL}`{ends} (of {len(compared)} compared, one in twenty by chance)."
    )


# ---- Markdown ----


def markdown(found: Matrix) -> str:
    """The matrix as tables, grouped by stage."""
    rows = described(found)
    lora = [r for r in rows if r["language_model"] == "lora"]
    frozen = {r["mechanism"]: r for r in rows if r["language_model"] == "frozen"}
    kinds = ["stage", "mechanism", "attention", "depth", "source", "fidelity"]
    costs = ["parameters", "own", "width", "tokens", "ms a clip", "training MB", "CPU-s"]
    lines = [_table([*kinds, *costs], [_kind(r) + _cost(r) for r in lora])]
    heads = ["mechanism", "WAR", "UAR", "UAR less concat", "frozen: UAR", "frozen: less concat", "modality gap"]
    lines.append(_table(heads, [_accuracy(r, frozen.get(r["mechanism"])) for r in lora]))
    names = list(dict.fromkeys(name for r in lora for name in r["changes"]))
    tail = ["gate–counterfactual", "deletion against lot"]
    lines.append(_table(["mechanism", *names, *tail], [_changes(r, names) for r in lora]))
    left = missing(found)
    lines += [verdict(found), *([f"Rows that are missing: {', '.join(left)}."] if left else [])]
    return "\n\n".join(lines)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _kind(r: dict[str, Any]) -> list[str]:
    return [r["stage"], f"`{r['mechanism']}`", r["attention"], r["depth"], r["source"], r["fidelity"]]


def _cost(r: dict[str, Any]) -> list[str]:
    sizes = [f"{r['parameters']:,}", f"{r['own_parameters']:,}", str(r["width"]), str(r["tokens"])]
    return [*sizes, f"{r['ms_a_clip']:.1f}", f"{r['training_mb']:.0f}", str(r["cpu_seconds"])]


def _accuracy(r: dict[str, Any], frozen: dict[str, Any] | None) -> list[str]:
    low, high = r["uar_interval"]
    other = [f"{frozen['uar']:.3f}", _estimate(frozen["against_concat"])] if frozen else [NONE, NONE]
    gap = NONE if r["modality_gap"] is None else f"{r['modality_gap']:.2f}"
    uar = f"{r['uar']:.3f} ({low:.3f}–{high:.3f})"
    return [f"`{r['mechanism']}`", f"{r['war']:.3f}", uar, _estimate(r["against_concat"]), *other, gap]


def _changes(r: dict[str, Any], names: list[str]) -> list[str]:
    changes = [f"{r['changes'][name]:+.3f}" if name in r["changes"] else NONE for name in names]
    agreement = NONE if r["agreement"] is None else f"{r['agreement']:+.2f}"
    return [f"`{r['mechanism']}`", *changes, agreement, _estimate(r["deletion"])]


def _estimate(found: dict[str, float] | None) -> str:
    return NONE if found is None else f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


# ---- the picture ----


def svg(found: Matrix) -> str:
    """UAR of every mechanism with its interval (LoRA filled, frozen hollow), and its changes as coloured cells."""
    rows = described(found)
    lora = [r for r in rows if r["language_model"] == "lora"]
    frozen = {r["mechanism"]: r for r in rows if r["language_model"] == "frozen"}
    ends = [end for r in rows for end in r["uar_interval"]]
    low, high = min(ends), max(ends)

    def x(value: float) -> float:
        return LEFT + 20 + (value - low) / max(high - low, 1e-6) * (WIDE - 40)

    width, height = LEFT + WIDE + CELL * len(CHANGES) + 20, 60 + LINE * len(lora) + 40
    parts = [f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' {FONT}>"]
    parts += ["<rect width='100%' height='100%' fill='white'/>", *_heads()]
    control = next((r for r in lora if r["mechanism"] == CONTROL), None)
    if control:
        at, end = x(control["uar"]), 52 + LINE * len(lora)
        parts.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='48' y2='{end}' stroke='#999' stroke-dasharray='3'/>")
    for i, r in enumerate(lora):
        y = 60 + LINE * i
        stage = r["stage"] if i == 0 or lora[i - 1]["stage"] != r["stage"] else ""
        parts += [_text(8, y, stage, "#777"), _text(90, y, r["mechanism"])]
        if r["mechanism"] in frozen:
            parts.append(_dot(frozen[r["mechanism"]], x, y + 5, "white"))
        parts += [_dot(r, x, y - 2, "#1f5fa8"), *(_cell(r, k, y) for k in range(len(CHANGES)))]
    y = 60 + LINE * len(lora) + 16
    parts += [_text(LEFT + 20, y, f"{low:.2f}", "#777"), _text(LEFT + WIDE - 45, y, f"{high:.2f}", "#777")]
    return "\n".join([*parts, "</svg>"])


def _heads() -> list[str]:
    heads = [_text(LEFT + 20, 30, "UAR, 95 % interval: LoRA filled, language model frozen hollow")]
    return heads + [_text(LEFT + WIDE + k * CELL, 22 + 14 * (k % 2), name, "#777") for k, name in enumerate(CHANGES)]


def _text(x: float, y: float, text: str, colour: str = "black") -> str:
    return f"<text x='{x}' y='{y + 4}' fill='{colour}'>{escape(text)}</text>"


def _dot(r: dict[str, Any], x: Any, y: float, fill: str) -> str:
    low, high = (x(end) for end in r["uar_interval"])
    line = f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y}' y2='{y}' stroke='#1f5fa8'/>"
    return f"{line}<circle cx='{x(r['uar']):.1f}' cy='{y}' r='4' fill='{fill}' stroke='#1f5fa8'/>"


def _cell(r: dict[str, Any], k: int, y: float) -> str:
    change = r["changes"][CHANGES[k]]
    colour = "#c0392b" if change < 0 else "#2e8b57"
    left, strength = LEFT + WIDE + k * CELL, min(1.0, abs(change) / FULL)
    box = f"<rect x='{left}' y='{y - 10}' width='{CELL - 6}' height='{LINE - 4}' fill='{colour}' "
    return f"{box}fill-opacity='{strength:.2f}'/>{_text(left + 18, y, f'{change:+.2f}')}"
