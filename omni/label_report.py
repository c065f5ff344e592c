"""The page of `omni label --report`: what a table holds, for somebody who has to trust it or to mend it.

    rows ─► labels, confidence ─► the least certain clips with pictures, sound, probabilities, reasons ─► slow, failed

One HTML file: no scripts, nothing fetched (its own policy forbids both), pictures inside. The least certain clips come
first since they are the ones to look at, those without confidence last; in an open vocabulary, which has none, the
first ones do. Pictures and sound are read again from the clips, which must still lie where they were; a clip that does
not is shown without them. Text of models, of manifests and of file names is escaped.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from .clip import Clip
from .errors import ClipError
from .journal import Row
from .label_progress import duration, errors
from .report import STYLE

CARDS, SLOW, FAILED, SHOWN_LABELS = 24, 10, 200, 30  # how many are shown
FRAMES, HEIGHT = 4, 96  # of a strip of pictures; px
COLUMNS, TALL = 240, 48  # of a waveform; px
BINS = 10  # of the confidence
INSIDE = ' style="fill:#fff"'  # of a number on its bar
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
EXTRA_STYLE = (
    "section{margin-top:2em}h2{font-size:1.1em;border-bottom:1px solid #ddd}p{max-width:60em}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(26em,1fr));gap:1.5em}"
    "article{border:1px solid #ddd;padding:1em;overflow-wrap:anywhere}h3{font-size:1em;margin:0 0 .5em}"
    ".strip img{height:96px;margin-right:2px}.wave{fill:#247;background:#f4f6f8;width:100%;height:48px}"
    "meter{width:10em}td.n{text-align:right}.bar{fill:#247}text{font:12px system-ui,sans-serif;fill:#222}"
    ".warn{background:#fff3cd;padding:.5em 1em}blockquote{margin:.5em 0;color:#444}"
)
NOTICE = (
    "Labels say what a face and a voice show in a clip, not what the person feels. The reasons are generated text and "
    "may be wrong. Confidence is a score of the model; see the model card before taking it for a probability."
)


def report(rows: Sequence[Row], paths: Sequence[Path], read: Callable[[Path], Clip]) -> str:
    """The page.

    Args:
        rows: of the table.
        paths: where the clip of each row lies.
        read: gives the pictures and the sound of a clip.
    """
    good = [row for row in rows if row["status"] == "ok"]
    bad = [row for row in rows if row["status"] == "error"]
    title = f"Labels of {len(rows)} clips"
    parts = [
        _head(rows, good, bad),
        _section("Labels", _distribution(good)),
        _section("Confidence", _histogram([row["confidence"] for row in good if row["confidence"] is not None])),
        _section(*_cards(rows, paths, read)),
        _section("Slowest", _slowest(rows)),
        _section("Failed", _failed(bad)),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title>'
        f"<style>{STYLE}{EXTRA_STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>\n"
    )


def _head(rows: Sequence[Row], good: Sequence[Row], bad: Sequence[Row]) -> str:
    if not rows:
        return "<p>There are no clips.</p>"
    seconds = sum(row["seconds"] for row in rows)
    first = rows[0]
    warning = f'<p class="warn">{errors(len(bad))}: {len(good)} of {len(rows)} clips have an answer.</p>' if bad else ""
    facts = [
        f"Model {first['model']} ({first['model_sha256'][:12] or 'no hash'}), "
        f"{'with' if first['think'] else 'without'} reasons, seed {first['seed']}, omni {first['omni_version']}.",
        f"{duration(seconds)} of reading and answering, {seconds / len(rows):.1f} s a clip.",
        NOTICE,
    ]
    return warning + "".join(f"<p>{escape(fact)}</p>" for fact in facts)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content or '<p>None.</p>'}</section>"


def _distribution(rows: Sequence[Row]) -> str:
    counts = Counter(row["label"] or "no label" for row in rows)
    for name in (name for row in rows for name in row["labels"] or ()):
        counts[name] += 0  # a label that no clip has is worth knowing
    found = counts.most_common(SHOWN_LABELS)
    rest = len(counts) - len(found)
    shares = [(name, count / len(rows), f"{count} ({count / len(rows):.0%})") for name, count in found]
    return _bars(shares) + (f"<p>and {rest} more</p>" if rest else "")


def _bars(bars: Iterable[tuple[str, float, str]]) -> str:
    """A table of names with a bar each and a word beside it."""
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td><meter value="{share:.4f}"></meter></td><td class="n">{escape(word)}</td></tr>'
        for name, share, word in bars
    )
    return f"<table>{lines}</table>" if lines else ""


def _histogram(values: Sequence[float]) -> str:
    """How many answers lie in each tenth of confidence, as SVG."""
    if not values:
        return ""
    counts = np.histogram(values, BINS, (0.0, 1.0))[0]
    wide, tall = 40, 120
    columns = "".join(
        f'<rect class="bar" x="{i * wide + 2}" y="{tall - h:.1f}" width="{wide - 4}" height="{h:.1f}"/>'
        f'<text x="{(i + 0.5) * wide}" y="{tall - h + 12 if h > 20 else tall - h - 4:.1f}" text-anchor="middle"'
        f"{INSIDE if h > 20 else ''}>{count}</text>"
        f'<text x="{(i + 0.5) * wide}" y="{tall + 16}" text-anchor="middle">{(i + 0.5) / BINS:.2f}</text>'
        for i, count in enumerate(counts)
        for h in [tall * count / max(counts) * 0.9]
    )
    size = f'width="{BINS * wide}" height="{tall + 20}"'
    return f'<svg {size} role="img" aria-label="Answers by confidence">{columns}</svg>'


def _cards(rows: Sequence[Row], paths: Sequence[Path], read: Callable[[Path], Clip]) -> tuple[str, str]:
    """Title and content of the clips that are shown in full: each content and question once."""
    distinct = {
        (row["sha256"], row["question"]): (row, path)
        for row, path in reversed(list(zip(rows, paths, strict=True)))
        if row["status"] == "ok"
    }
    shown = list(reversed(distinct.values()))
    has_confidence = any(row["confidence"] is not None for row, _ in shown)
    if has_confidence:
        shown.sort(key=lambda pair: (pair[0]["confidence"] is None, pair[0]["confidence"]))
    cards = "".join(_card(row, path, read) for row, path in shown[:CARDS])
    title = "Least certain" if has_confidence else "Clips"
    return f"{title} ({min(len(shown), CARDS)} of {len(shown)})", cards and f'<div class="cards">{cards}</div>'


def _card(row: Row, path: Path, read: Callable[[Path], Clip]) -> str:
    probabilities = sorted((row["labels"] or {}).items(), key=lambda item: -item[1])
    score = "" if row["confidence"] is None else f" {row['confidence']:.2f}"
    notes = {
        "Asked": row["question"],
        "Heard": row["transcript"],
        "Warnings": ", ".join(row["warnings"]),
        "Form": None if row["well_formed"] else "the model's text was not well-formed",
    }
    lines = "".join(f"<br><small>{name}: {escape(text)}</small>" for name, text in notes.items() if text)
    thought = f"<blockquote>{escape(row['thought'])}</blockquote>" if row["thought"] else ""
    return (
        f"<article><h3>{escape(row['label'] or 'no label')}{score}</h3>{_media(path, read)}{thought}"
        f"{_bars((name, p, f'{p:.2f}') for name, p in probabilities)}"
        f"<small>{escape(row['clip'])}</small>{lines}</article>"
    )


def _media(path: Path, read: Callable[[Path], Clip]) -> str:
    """Pictures and sound of a clip, or why there are none."""
    try:
        clip = read(path)
    except ClipError as err:
        return f"<p><small>{escape(str(err))}</small></p>"
    strip = "" if clip.frames is None else f'<div class="strip">{"".join(map(_picture, _some(clip.frames)))}</div>'
    return strip + ("" if clip.wave is None else _waveform(clip.wave))


def _some(frames: np.ndarray) -> np.ndarray:
    """Up to `FRAMES` of (T, H, W, 3), evenly over the clip."""
    places = np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int)
    return np.stack([frames[place] for place in places])


def _picture(frame: np.ndarray) -> str:
    image, file = Image.fromarray(frame), io.BytesIO()
    width = min(max(1, round(image.width * HEIGHT / image.height)), 4 * HEIGHT)
    image.resize((width, HEIGHT)).save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _waveform(wave: np.ndarray) -> str:
    """The peaks of (L,) samples as SVG, full scale at the edges."""
    columns = np.array_split(wave, min(COLUMNS, len(wave)))
    peaks = [min(1.0, float(np.abs(column).max())) * TALL / 2 for column in columns]
    upper = [f"{x},{TALL / 2 - peak:.1f}" for x, peak in enumerate(peaks)]
    lower = [f"{x},{TALL / 2 + peak:.1f}" for x, peak in reversed(list(enumerate(peaks)))]
    box = f'viewBox="0 0 {len(peaks)} {TALL}" preserveAspectRatio="none"'
    return f'<svg class="wave" {box} role="img" aria-label="Sound"><polygon points="{" ".join(upper + lower)}"/></svg>'


def _slowest(rows: Sequence[Row]) -> str:
    slow = sorted(rows, key=lambda row: -row["seconds"])[:SLOW]
    return _table(
        ("clip", "seconds", "length of the clip"),
        ((row["clip"], f"{row['seconds']:.1f}", _length(row["duration_s"])) for row in slow),
    )


def _length(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.1f} s"


def _failed(rows: Sequence[Row]) -> str:
    cells = ((row["clip"], row["error"]["code"], row["error"]["message"]) for row in rows[:FAILED])
    rest = len(rows) - FAILED
    return _table(("clip", "code", "what to do"), cells) + (f"<p>and {rest} more</p>" if rest > 0 else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{names}</tr>{lines}</table>" if lines else ""
