"""From readings of windows to passages, changes and sentences; by rule, so that each sentence points at its windows.

    readings of one person ─► `changes.segments` ─► passages, with mean probabilities ─► changes between them
                                                                                     └► sentences

A change lies midway between the middles of the windows before and after. Windows with nothing to go by belong to no
passage and end the one before, if they leave time that no other window tells of; a sentence names them. Means of
probabilities are those of overlapping windows, not of seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from .changes import Segment, segments
from .record import Change, Passage, Person, Reading, Sentence

UNKNOWN = "unknown"
STANDS_OUT = 0.5  # mean probability below which no label is said to stand out
EPSILON = 1e-6  # s, of rounding
WORTH = 0.15  # mean probability of a second label that is named beside the first


def by_person(readings: Sequence[Reading]) -> dict[int | None, list[Reading]]:
    """The readings of each person, those of windows without anybody under None."""
    people = sorted({one.person for one in readings}, key=lambda person: (person is None, person))
    return {person: [one for one in readings if one.person == person] for person in people}


def passages(readings: Sequence[Reading], overlap: float) -> list[Passage]:
    """The passages of one person."""
    known = [one for one in readings if one.labels is not None]
    if not known:
        return []
    names = list(known[0].labels or ())
    rows = np.array([[(one.labels or {})[name] for name in names] for one in known])  # (n, K)
    found = []
    for first, last in _runs(known, segments(rows, overlap)):
        part, mean = known[first : last + 1], rows[first : last + 1].mean(0)
        best = int(mean.argmax())
        before = _between(known[first - 1], part[0]) if first else None
        after = _between(part[-1], known[last + 1]) if last + 1 < len(known) else None
        found.append(
            Passage(
                t0=part[0].t0 if before is None else before,
                t1=part[-1].t1 if after is None else after,
                person=part[0].person,
                windows=tuple(one.index for one in part),
                label=names[best],
                confidence=float(mean[best]),
                labels=dict(zip(names, map(float, mean), strict=True)),
                surest=part[int(rows[first : last + 1, best].argmax())].index,
            )
        )
    return found


def _runs(known: Sequence[Reading], stretches: Iterable[Segment]) -> Iterator[Segment]:
    """Stretches, parted where no window tells of the time between two."""
    for first, last in stretches:
        holes = [i for i in range(first, last) if known[i + 1].t0 > known[i].t1 + EPSILON]
        yield from map(Segment, [first, *(i + 1 for i in holes)], [*holes, last])


def _between(before: Reading, after: Reading) -> float | None:
    """Where one passage becomes the next; None if there are other windows between them."""
    return (before.middle + after.middle) / 2 if after.index == before.index + 1 else None


def changes(found: Sequence[Passage], readings: Sequence[Reading]) -> list[Change]:
    """The changes between the passages of one person; where there is nothing between two, none can be told."""
    middle = {one.index: one.middle for one in readings}
    rows = []
    for a, b in _touching(found):
        last, first = a.windows[-1], b.windows[0]
        roots = [np.sqrt(np.array(list(one.labels.values()))) for one in (a, b)]
        distance = float(np.linalg.norm(roots[0] - roots[1]) / np.sqrt(2))
        at = (middle[last] + middle[first]) / 2
        rows.append(Change(at, a.person, a.label, b.label, (last, first), distance))
    return rows


def _touching(found: Sequence[Passage]) -> list[tuple[Passage, Passage]]:
    return [(a, b) for a, b in pairwise(found) if b.t0 <= a.t1 + EPSILON]


def people(readings: Sequence[Reading]) -> list[Person]:
    """Everybody who was told apart."""
    found = []
    for person, mine in by_person(readings).items():
        if person is not None:
            rows = [one.labels for one in mine if one.labels is not None]
            mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else None
            label = max(mean, key=mean.__getitem__) if mean else None
            speaks = tuple(one.index for one in mine if one.speaker == person)
            found.append(Person(person, mine[0].t0, mine[-1].t1, len(mine), label, mean, speaks))
    return found


def sentences(readings: Sequence[Reading], found: Sequence[Passage]) -> Iterator[Sentence]:
    """The summary: what there was of each person, passage by passage, who spoke, and where there was nothing."""
    for person, mine in by_person(readings).items():
        own = [one for one in found if one.person == person]
        if own:
            yield _whole(person, mine, own)
        for passage in own:
            yield from _passage(passage, mine)
    yield from _speakers(readings)
    empty = [one for one in readings if one.labels is None]
    if empty:
        yield _sentence(f"Nothing to go by, no face and no voice, in {_count(empty)}.", empty)


def _whole(person: int | None, mine: Sequence[Reading], own: Sequence[Passage]) -> Sentence:
    known = [one for one in mine if one.labels is not None]
    counted = Counter(one.label for one in known).most_common(3)
    said = ", ".join(f"{label} in {count}" for label, count in counted)
    turns = len(_touching(own))
    how = "no change" if not turns else f"{turns} change{'s' * (turns > 1)}"
    return _sentence(f"{_who(person)}{_count(known)}: {said}; {how}.", known, person)


def _passage(passage: Passage, mine: Sequence[Reading]) -> Iterator[Sentence]:
    """The passage, and the reasons in its surest window."""
    place = passage.windows, passage.t0, passage.t1, passage.person
    (first, p), *others = sorted(passage.labels.items(), key=lambda item: -item[1])
    second = [f"{label} {q:.2f}" for label, q in others[:1] if q >= WORTH]
    said = f"{first} ({', '.join([f'{p:.2f}', *second])})"
    said = said if p >= STANDS_OUT else f"no label stands out, {said}"
    yield Sentence(f"{_who(passage.person)}{clock(passage.t0)}–{clock(passage.t1)} {said}.", *place)
    if passage.thought:
        (one,) = [one for one in mine if one.index == passage.surest]
        checked = Counter(claim.verdict for claim in passage.evidence)
        claims = f" ({checked['supported']} of {len(passage.evidence)} claims supported)" if passage.evidence else ""
        text = f"{_who(passage.person)}{clock(one.t0)}–{clock(one.t1)}, surest: “{passage.thought}”{claims}"
        yield _sentence(text, [one], passage.person)


def _speakers(readings: Sequence[Reading]) -> Iterator[Sentence]:
    heard: dict[int | str, list[Reading]] = {}
    for one in {one.index: one for one in readings}.values():
        if one.speaker is not None:
            heard.setdefault(one.speaker, []).append(one)
    for speaker, rows in sorted(heard.items(), key=lambda item: str(item[0])):
        if speaker == UNKNOWN:
            yield _sentence(f"Who speaks cannot be told in {_count(rows)}.", rows)
        else:
            assert isinstance(speaker, int)
            yield _sentence(f"Person {speaker} speaks in {_count(rows)}.", rows, speaker)


def _sentence(text: str, rows: Sequence[Reading], person: int | None = None) -> Sentence:
    return Sentence(text, tuple(one.index for one in rows), rows[0].t0, rows[-1].t1, person)


def _who(person: int | None) -> str:
    return "" if person is None else f"Person {person}, "


def _count(rows: Sequence[Reading]) -> str:
    return f"{len(rows)} window{'s' * (len(rows) > 1)}"


def clock(seconds: float) -> str:
    """
    >>> clock(0), clock(72.5), clock(3725)
    ('0:00', '1:12.5', '1:02:05')
    """
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    end = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{end}" if hours else f"{minutes}:{end}"


def ranges(windows: Sequence[int]) -> str:
    """
    >>> ranges([0, 1, 2, 5, 7, 8])
    '0–2, 5, 7–8'
    """
    runs: list[list[int]] = []
    for index in windows:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def row_text(one: Reading, names: Mapping[str, object]) -> str:
    """A line of the table: when, of whom, what."""
    when = f"{clock(one.t0)}–{clock(one.t1)}"
    who = "" if one.person is None else f"person {one.person}"
    told = "–" if one.label is None else f"{one.label} {one.confidence:.2f}"
    width = max(map(len, names)) + 5
    notes = [f"speaks: {one.speaker}" if one.speaker is not None else "", *one.warnings]
    return f"{one.index:4d}  {when:15} {who:9} {told:{width}} {', '.join(note for note in notes if note)}".rstrip()
