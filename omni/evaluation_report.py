"""The page of `omni eval`: the content of metrics.json as one HTML file without scripts, pictures as inline SVG.

Everything shown is in metrics.json (`omni.evaluation.measure`); nothing is computed here but places and colours.
Text of models and of manifests is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .grounding import NAMES as NAMED_SHARES
from .report import STYLE

CELL, MARGIN = 44, 96  # px of a cell of the confusion matrix, and of the names beside it
NAME_LENGTH = 13  # characters that fit into the margin
PLOT = 260  # px of the sides of the calibration curve
EXTRA_STYLE = (
    "section{margin-top:2em}h2{font-size:1.1em;border-bottom:1px solid #ddd}h3{font-size:1em}p{max-width:60em}"
    "td.n,th.n{text-align:right}svg text{font:12px system-ui,sans-serif;fill:#222}svg text.on-dark{fill:#fff}"
    ".cell{fill:#247}.frame{fill:none;stroke:#999}.even{stroke:#999;stroke-dasharray:4 4}.bar{fill:#bcd}.dot{fill:#247}"
    ".warn{background:#fff3cd;padding:.5em 1em}"
)
NAMES = {"war": "WAR", "uar": "UAR", "f1_weighted": "weighted F1", "f1_macro": "macro F1"}
Metrics = dict[str, Any]


def page(metrics: Metrics) -> str:
    """The whole page."""
    title = f"Evaluation of {', '.join(metrics['models'])}"
    parts = [
        _head(metrics),
        _summary(metrics["runs"]),
        _comparisons(metrics["comparisons"]),
        *(
            _model(name, [run for run in metrics["runs"] if run["model"] == name], metrics)
            for name in metrics["models"]
        ),
        _reasons(metrics["runs"]),
        _wheels(metrics),
        _mappings(metrics),
        _failures(metrics),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}{EXTRA_STYLE}</style><h1>{escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def _head(metrics: Metrics) -> str:
    space = metrics["labels"]
    labels = f"{space['name']}: {', '.join(space['labels'])}" if space else "none, an open vocabulary"
    failed = metrics["failed"]
    warning = (
        f'<p class="warn">{failed} of {metrics["clips"]} clips could not be read or answered. They count as wrong '
        "answers and are listed at the end.</p>"
        if failed
        else ""
    )
    asked = [f"“{one['question']}” ({one['clips']})" for one in metrics["questions"] if one["question"]]
    lines = [
        metrics["protocol_says"],
        f"Manifest {metrics['manifest']}, {metrics['clips']} clips{_left_out(metrics)}. Labels: {labels}."
        + (f" Questions in place of the model's own: {', '.join(asked)}." if asked else ""),
        f"In brackets 95 % intervals: bootstrap over clips, {metrics['bootstrap']['resamples']} resamples, seed "
        f"{metrics['bootstrap']['seed']}; of shares Wilson's. Clips of one person are not independent, so the "
        f"intervals are narrower than they should be. omni {metrics['omni_version']}.",
    ]
    return warning + "".join(f"<p>{escape(line)}</p>" for line in lines)


def _left_out(metrics: Metrics) -> str:
    return {None: "", "audio": ", without their sound", "video": ", without their picture"}[metrics["without"]]


def _summary(runs: Sequence[Metrics]) -> str:
    head = [
        *("model", "mode", "clips", "WAR", "UAR", "weighted F1", "WAR, written", "UAR, written", "ECE", "Brier"),
        *("unparsable", "no label of the space", "bad form", "s a clip"),
    ]
    rows = []
    for run in runs:
        written, curve = run["written"] or {}, run["calibration"] or {}
        values = [run.get("war"), run.get("uar"), run.get("f1_weighted"), written.get("war"), written.get("uar")]
        values += [curve.get("ece"), curve.get("brier"), run["unparsable"], run["unknown"], run["malformed"]]
        cells = [run["model"], run["mode"], run["clips"], *map(_value, values), f"{run['seconds_a_clip']:.2f}"]
        rows.append(cells)
    return _section("Summary", _table(head, rows, words=2))


def _comparisons(comparisons: Sequence[Metrics]) -> str:
    if not comparisons:
        return ""
    head = [
        *("model", "clips", "WAR", "UAR", "weighted F1", "same answer"),
        *("both right", "only thinking right", "only at once right", "neither right"),
    ]
    counts = ("both_right", "only_think_right", "only_no_think_right", "neither_right")
    rows = [
        [one["model"], one["clips"], *(_value(one[name], "+") for name in ("war", "uar", "f1_weighted"))]
        + [_value(one["same_answer"]), *(one[name] for name in counts)]
        for one in comparisons
    ]
    text = "<p>Differences, thinking less answering at once, over the same clips: above 0 thinking helps.</p>"
    return _section("Think against no-think", text + _table(head, rows, words=1))


def _model(name: str, runs: Sequence[Metrics], metrics: Metrics) -> str:
    """Pictures and recalls of one model, its modes side by side."""
    space = metrics["labels"]
    if not space:
        return ""
    pictures = "".join(
        f"<figure><figcaption>{escape(run['mode'])}</figcaption>{confusion_picture(run['confusion'], space['labels'])}"
        f"<br>{_curves(run['calibration']) if run['calibration'] else 'No label probabilities.'}</figure>"
        for run in runs
    )
    first = runs[0]["recall"]
    head = ["class", "clips", *(f"recall, {run['mode']}" for run in runs)]
    recalls = [[label, first[label]["clips"], *(_value(run["recall"][label]) for run in runs)] for label in first]
    return _section(
        name,
        f'<div class="grid">{pictures}</div><h3>Recall of each class</h3>{_table(head, recalls, words=1)}'
        + "".join(_mistakes(run) for run in runs),
    )


def confusion_picture(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Counts n_jk of clips of class j called k as SVG, darker for a larger share of the row; last column: no label."""
    wide, tall = MARGIN + CELL * (len(labels) + 1), MARGIN + CELL * len(labels)
    parts: list[str] = []
    for j, row in enumerate(counts):
        for k, count in enumerate(row):
            share = count / max(1, sum(row))
            x, y = MARGIN + k * CELL, MARGIN + j * CELL
            parts.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill-opacity="{share:.3f}"/>'
                f'<rect class="frame" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>'
                + (_text(x + CELL / 2, y + CELL / 2 + 4, count, "middle", share > 0.5) if count else "")
            )
    short = [label if len(label) <= NAME_LENGTH else f"{label[: NAME_LENGTH - 1]}…" for label in labels]
    for j, label in enumerate(short):
        parts.append(_text(MARGIN - 6, MARGIN + j * CELL + CELL / 2 + 4, label, "end"))
    for k, label in enumerate([*short, "no label"]):
        middle = MARGIN + k * CELL + CELL / 2
        turned = f'transform="rotate(-45 {middle} {MARGIN - 8})"'
        parts.append(f"<g {turned}>{_text(middle, MARGIN - 8, label, 'start')}</g>")
    return _svg(wide + MARGIN // 2, tall + 2, "Confusion matrix: true classes in rows, answers in columns", parts)


def calibration_picture(calibration: Metrics) -> str:
    """The share of right answers against the confidence as SVG; on the diagonal a model is as sure as it is right."""

    def at(x: float, y: float) -> tuple[float, float]:
        return 40 + x * PLOT, 10 + (1 - y) * PLOT

    most = max(one["clips"] for one in calibration["bins"])
    (left, low), (right, high) = at(0, 0), at(1, 1)
    parts = [f'<rect class="frame" x="{left}" y="{high}" width="{PLOT}" height="{PLOT}"/>']
    for one in calibration["bins"]:
        (x0, y1), (x1, y0) = at(one["low"], one["right"]), at(one["high"], 0)
        parts.append(f'<rect class="bar" x="{x0:.1f}" y="{y1:.1f}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}"/>')
    parts.append(f'<line class="even" x1="{left}" y1="{low}" x2="{right}" y2="{high}"/>')
    for one in calibration["bins"]:
        x, y = at(one["confidence"], one["right"])
        said = f"{one['clips']} clips, confidence {one['confidence']:.2f}, right {one['right']:.2f}"
        radius = 2 + 5 * (one["clips"] / most) ** 0.5
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{said}</title></circle>')
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(at(tick, 0)[0], low + 16, tick, "middle") + _text(left - 4, at(0, tick)[1] + 4, tick, "end"))
    parts.append(_text(left + PLOT / 2, low + 32, "confidence; the height is the share that is right", "middle"))
    caption = f"ECE {_value(calibration['ece'])}, Brier {_value(calibration['brier'])}"
    return _svg(PLOT + 60, PLOT + 50, "Calibration curve", parts) + f"<br><small>{caption}</small>"


def _curves(calibration: Metrics) -> str:
    return f"{calibration_picture(calibration)}<br>{risk_picture(calibration)}"


def risk_picture(calibration: Metrics) -> str:
    """The share of wrong answers among the surest clips against how many these are, as SVG."""
    points = [(40 + one["coverage"] * PLOT, 10 + (1 - one["risk"]) * PLOT) for one in calibration["risk_coverage"]]
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<rect class="frame" x="40" y="10" width="{PLOT}" height="{PLOT}"/>']
    parts.append(f'<polyline fill="none" stroke="#247" stroke-width="2" points="{places}"/>')
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(40 + tick * PLOT, PLOT + 26, tick, "middle"))
        parts.append(_text(36, 14 + (1 - tick) * PLOT, tick, "end"))
    parts.append(_text(40 + PLOT / 2, PLOT + 42, "share of clips answered, surest first; height: wrong", "middle"))
    caption = f"AURC {_value(calibration['aurc'])}"
    return _svg(PLOT + 60, PLOT + 50, "Risk-coverage curve", parts) + f"<br><small>{caption}</small>"


def _mistakes(run: Metrics) -> str:
    if not run["mistakes"]:
        return ""
    head = ["clip", "truth", "answer", "confidence", "heard", "thought"]
    rows = [
        [one["clip"], one["truth"], one["label"], f"{one['confidence']:.2f}", one["transcript"] or "", one["thought"]]
        for one in run["mistakes"]
    ]
    return f"<h3>Surest mistakes, {escape(run['mode'])}</h3>{_table(head, rows, words=len(head))}"


def _reasons(runs: Sequence[Metrics]) -> str:
    head = ["model", "mode", "checked against", *NAMED_SHARES.values(), "claims", "answers"]
    rows = [
        [run["model"], run["mode"], f"{way} cues", *(_value(found[name]) for name in NAMED_SHARES)]
        + [found["claims"], found["answers"]]
        for run in runs
        for way, found in (run["reasons"] or {}).items()
        if found
    ]
    if not rows:
        return ""
    text = (
        "<p>What the reasons say of face and voice, claim by claim. Groundedness: supported of the claims that can be "
        "checked. Contradicted: of all claims. Hallucinated sense: of the clips that lack a sense, those whose reasons "
        "claim something of it. Coverage: of the senses that the clips have, those of which the reasons claim "
        "something. Known cues are those of synthetic actors; measured ones err, docs/cues.md says how often.</p>"
    )
    return _section("Reasons", text + _table(head, rows, words=3))


def _wheels(metrics: Metrics) -> str:
    head = [
        *("model", "mode", "score", "F", "precision", "recall", "words an answer, mean", "words of the truth, mean"),
        *("clips", "left out", "asked without a list"),
    ]
    rows = []
    for run in metrics["runs"]:
        for name in ("published", "strict"):
            one = (run["open"] or {}).get(name)
            if one:
                values = [one[key] for key in ("f1", "precision", "recall", "mean_length", "mean_true_length")]
                row = [run["model"], run["mode"], name, *(f"{value:.3f}" for value in values)]
                rows.append([*row, one["clips"], one["left_out"], run["open"]["asked_openly"]])
    if not rows:
        return ""
    text = (
        f"<p>Emotion-wheel scores of an open vocabulary, on the wheels {escape(metrics['wheels'])}. “Published” is the "
        "formula of MER2025 and AffectGPT, in which unknown words and synonyms are free and clips whose true words are "
        "unknown leave the test set; with other wheels than the official five it is not comparable with published "
        "numbers. “Strict” closes these holes. Long lists earn more in the published score: read F beside the mean "
        "length.</p>"
    )
    return _section("Open vocabulary", text + _table(head, rows, words=3))


def _mappings(metrics: Metrics) -> str:
    rows = [[one["where"], one["word"], one["label"], one["clips"]] for one in metrics["mappings"]]
    parts = _table(["of the", "word", "counted as", "times"], rows, words=3) if rows else "<p>No word was mapped.</p>"
    if metrics["unknown_words"]:
        words = ", ".join(f"{one['word']} ({one['clips']})" for one in metrics["unknown_words"])
        parts += f"<p>Answers that are no label of the space, the most frequent first: {escape(words)}.</p>"
    return _section("Words counted as labels", parts)


def _failures(metrics: Metrics) -> str:
    if not metrics["failures"]:
        return ""
    keys = ("clip", "model", "mode", "code", "message")
    rows = [[one[key] for key in keys] for one in metrics["failures"]]
    return _section("Clips that could not be read or answered", _table([*keys], rows, words=len(keys)))


def _value(value: Metrics | None, sign: str = "") -> str:
    """A number with its interval.

    >>> _value({"value": 0.5, "low": 0.25, "high": 0.75}), _value(None)
    ('0.500 [0.250, 0.750]', '–')
    """
    if value is None:
        return "–"
    return f"{value['value']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], words: int) -> str:
    """A table whose first so many columns hold words, the others numbers."""

    def line(tag: str, cells: Sequence[object]) -> str:
        kinds = ("" if i < words else ' class="n"' for i in range(len(cells)))
        return "".join(f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table><tr>{line('th', head)}</tr>{body}</table>"


def _svg(wide: float, tall: float, says: str, parts: Sequence[str]) -> str:
    return f'<svg width="{wide}" height="{tall}" role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: object, anchor: str, on_dark: bool = False) -> str:
    kind = ' class="on-dark"' if on_dark else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(text))}</text>'
