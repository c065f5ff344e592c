"""What a timeline is made of: readings of windows, passages between changes, changes, people, sentences.

    {clip, sha256, duration_s, window_s, hop_s, modalities, people, windows, changes, segments, summary, warnings}

Times are seconds from the start of the clip. `person` is a number where several people are told apart, else None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..evidence import Evidence


@dataclass(frozen=True)
class Reading:
    """What the model says of one window, of one person.

    Attributes:
        index: of the window; rows of several people share it.
        t0, t1: where it lies.
        label: the most probable one; None where there was nothing to go by.
        confidence: its probability.
        labels: label → probability, summing to one.
        modalities: what the model had to go by, of ("video", "audio").
        person: whose face it was.
        speaker: where there are several people, who speaks: a person, "unknown", or None if nobody does.
        transcript: the words as the model was told them.
        warnings: of this window: `no_face`, `unfamiliar_face`, `sound_cut`.
    """

    index: int
    t0: float
    t1: float
    label: str | None
    confidence: float | None
    labels: Mapping[str, float] | None
    modalities: tuple[str, ...]
    person: int | None = None
    speaker: int | str | None = None
    transcript: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def middle(self) -> float:
        return (self.t0 + self.t1) / 2


@dataclass(frozen=True)
class Change:
    """A place where the probabilities change.

    Attributes:
        t: between the middles of the windows before and after.
        before, after: labels of the passages; they may be the same, more or less sure.
        windows: the last before and the first after it.
        distance: Hellinger distance of the mean distributions, 0 … 1.
    """

    t: float
    person: int | None
    before: str
    after: str
    windows: tuple[int, int]
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the words `from` and `to`."""
        row = _plain(asdict(self))
        return {"t": row["t"], "person": self.person, "from": self.before, "to": self.after} | {
            name: row[name] for name in ("windows", "distance")
        }


@dataclass(frozen=True)
class Passage:
    """Windows of one person between two changes.

    Attributes:
        windows: their indices.
        label: the most probable one in the mean.
        confidence: its mean probability.
        labels: mean probabilities.
        surest: the window in which the label is most probable.
        thought: the model's reasons in that window; "" if none were asked for.
        evidence: the claims of the thought, checked.
    """

    t0: float
    t1: float
    person: int | None
    windows: tuple[int, ...]
    label: str
    confidence: float
    labels: Mapping[str, float]
    surest: int
    thought: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Person:
    """Somebody in the clip.

    Attributes:
        t0, t1: from the first to the last window.
        windows: how many.
        label, labels: mean over them.
        speaks: indices of the windows in which this person is the one who speaks.
    """

    person: int
    t0: float
    t1: float
    windows: int
    label: str | None
    labels: Mapping[str, float] | None
    speaks: tuple[int, ...]


@dataclass(frozen=True)
class Sentence:
    """A sentence of the summary and the windows that it rests on, which lie between t0 and t1."""

    text: str
    windows: tuple[int, ...]
    t0: float
    t1: float
    person: int | None = None


@dataclass(frozen=True, eq=False)
class Strip:
    """What the plot shows beside the probabilities.

    Attributes:
        pictures: seconds and a small picture (H, W, 3) each, at most 24.
        wave: lowest and highest sample of each of at most 2000 equal stretches, (2, B); B is 0 without sound.
    """

    pictures: Sequence[tuple[float, np.ndarray]] = ()
    wave: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))


@dataclass(frozen=True, eq=False)
class Timeline:
    """A clip read window by window.

    Attributes:
        labels: the label space.
        people: where several are told apart; else empty.
        strip: for the plot alone, not in `to_dict`.
    """

    clip: str
    sha256: str
    duration_s: float
    window_s: float
    hop_s: float
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    people: tuple[Person, ...]
    windows: tuple[Reading, ...]
    changes: tuple[Change, ...]
    segments: tuple[Passage, ...]
    summary: tuple[Sentence, ...]
    warnings: tuple[str, ...]
    strip: Strip

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, numbers to the fourth decimal."""
        rows = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "strip"}
        lists = {name: [_plain(asdict(one)) for one in rows[name]] for name in ("people", "windows", "segments")}
        lists |= {"changes": [change.to_dict() for change in self.changes]}
        return _plain(rows | lists | {"summary": [asdict(one) for one in self.summary]})


def _plain(value: Any) -> Any:
    """Tuples as lists, numbers to the fourth decimal."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
