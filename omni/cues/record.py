"""One measured cue: what, of whom, from when to when, how much. And how a curve becomes such events.

{modality, person, t0, t1, apex, cue, value, unit, strength}

value ▁▂▅▇▇▅▂▁      an event is a run above half of the limit that reaches the limit:
        ┌──────┐      t0 its onset, apex its highest value, t1 its offset
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

HOLD = 0.5  # share of the limit above which an event goes on: the usual half-height, and no flicker about the limit


@dataclass(frozen=True)
class CueRecord:
    """A cue of a clip.

    Attributes:
        modality: "face" or "voice".
        person: number of the person, from 0, whom the cue is of; None for the voice, and where no face is.
        t0, t1: seconds from the start of the clip.
        cue: what it is: "AU12 lip corner puller", "AU51 head turn left", "pitch", "pause" …
        value: how much, in `unit`; of an event at its apex.
        unit: of the value.
        strength: value against the limit at which the cue counts as there: 1 is just there, 2 is twice that.
        apex: seconds at which an event is strongest; None for what has no apex.
    """

    modality: str
    person: int | None
    t0: float
    t1: float
    cue: str
    value: float
    unit: str
    strength: float
    apex: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, numbers to the third decimal."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


class Event(NamedTuple):
    """A run of a curve: indices of its first, its highest and its last value."""

    onset: int
    apex: int
    offset: int


def events(values: np.ndarray, limit: float) -> Iterator[Event]:
    """The runs of values (T,) above half of the limit that reach it; NaN ends a run.

    >>> list(events(np.array([0.1, 0.6, 1.2, 0.7, 0.1, 0.6]), limit=1.0))
    [Event(onset=1, apex=2, offset=3)]
    """
    above = np.nan_to_num(values, nan=-np.inf) >= HOLD * limit
    edges = np.flatnonzero(np.diff(np.pad(above.astype(np.int8), 1)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        apex = int(start + values[start:end].argmax())
        if values[apex] >= limit:
            yield Event(int(start), apex, int(end) - 1)
