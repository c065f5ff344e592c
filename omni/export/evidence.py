"""What an export needs of a row beside its columns: its clip's place, its evidence with times, text fit for XML.

A time of evidence that is null (nothing was measured) stands for the whole clip. A denial is named as one: "No frown."
is "no brow_down".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..journal import Row

NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


class Span(NamedTuple):
    """A cue that a rationale names, from `start` to `end` in seconds; `name` is what a timeline shows."""

    modality: str
    name: str
    verdict: str
    sentence: str
    start: float
    end: float


def spans(row: Row) -> Iterator[Span]:
    """The evidence of a row, in its order.

    >>> cue = {"sentence": "A smile.", "modality": "video", "cue": "smile", "polarity": 1, "verdict": "supported"}
    >>> next(spans({"duration_s": 2.0, "evidence": [cue | {"t0": 0.5, "t1": None}]}))
    Span(modality='video', name='smile', verdict='supported', sentence='A smile.', start=0.5, end=2.0)
    """
    for item in row["evidence"] or ():
        start = 0.0 if item["t0"] is None else float(item["t0"])
        end = float(row["duration_s"] if item["t1"] is None else item["t1"])
        name = item["cue"] or item["modality"]
        name = name if item["polarity"] > 0 else f"no {name}"
        yield Span(item["modality"], name, item["verdict"], item["sentence"], start, max(start, end))


def chosen(row: Row) -> str | None:
    """The label of a row; None where the model gave none or abstained, so that it is none of those to choose from.

    >>> chosen({"label": "uncertain", "labels": {"sad": 0.6, "fear": 0.4}})
    """
    return row["label"] if row["labels"] is None or row["label"] in row["labels"] else None


def clip_path(row: Row, root: Path) -> Path:
    """The absolute path of a row's clip; a relative one starts from root. Links stay what they are."""
    return Path(os.path.normpath(root / row["clip"]))


def xml_text(text: str) -> str:
    """Text without the characters that XML cannot hold.

    >>> xml_text("a\\x00b")
    'a b'
    """
    return NO_XML.sub(" ", text)
