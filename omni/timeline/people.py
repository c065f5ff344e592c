"""Who is in the picture, where, and who speaks: faces followed through a clip of any length.

    pictures ─► one in a while; all of them as long as there are several people ─► faces, followed as in `cues/face.py`
             ─► sights: time, person, box, mouth

    speaker of a window   r_p = correlation of person p's parted lips and dropped jaw (AU25 + AU26) with the level of
                          the sound; the highest, if it is at least R, and MARGIN above all others; else "unknown"

Sights are kept for the present window alone; of each person the last face stays. A person is in a window if seen in a
third of the looks. After a cut nobody knows who is who: whoever is where somebody was takes the number.

A voice from outside the picture is nobody's here, and two who speak at once mostly leave it unknown. `docs/timeline.md`
has how often the rule names somebody, and how often it is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..clip import RATE, Clip
from ..cues.face import BLOCK, SIDE, Face, faces_of, matched
from ..cues.reader import reader
from ..cues.voice import HOP, VOICED_AT_LEAST, analyse, summary
from ..faces import MARGIN as CANVAS
from ..faces import FaceTower
from .summary import UNKNOWN

LOOKS = 8  # per window while there is one person, as many as the model sees
SHARE = 1 / 3  # of the looks in a window; fewer are chance, or somebody passing by
AROUND = 2.4  # sides of a face: enough around it for the face tower to find it, and little of the neighbours
FRAMES = 10  # of a mouth, below which nothing is said about it
STILL = 0.04  # deviation of a mouth below which it does not speak
FLOOR_DB = 30.0  # below the loud parts, where `voice.py` calls it no speech
R, MARGIN = 0.3, 0.4  # a wrong name is worse than none
AFTER_S = 1.0  # that one look at a single face does not end the close looks at several
NEARBY = 5  # 10 ms frames of the sound on either side of a look


class Sight(NamedTuple):
    """A face at a time: box (left, top, right, bottom) in pixels of the picture, and how open the mouth is."""

    time: float
    person: int
    box: np.ndarray
    mouth: float


class People:
    """The people of a clip as it goes by.

    Args:
        tower: finds faces.
        every: seconds between looks while there is one person.
    """

    def __init__(self, tower: FaceTower, every: float) -> None:
        self.tower, self.every = tower, every
        self.last: list[np.ndarray] = []  # of each person, the box on the canvas
        self.sights: list[Sight] = []
        self.looks: list[float] = []
        self.waiting: list[tuple[float, np.ndarray]] = []
        self.next, self.several = 0.0, 0.0  # when to look again; when there were several, and the start counts as such

    def watch(self, time: float, picture: np.ndarray) -> None:
        """Take the next picture (H, W, 3)."""
        if time > self.several + AFTER_S and time < self.next - 1e-6:
            return
        self.next = time + self.every
        self.waiting.append((time, picture))
        if len(self.waiting) == BLOCK:
            self._look()

    def between(self, t0: float, t1: float) -> list[int]:
        """The people of a window; what was before it is forgotten."""
        self._look()
        self.sights = [sight for sight in self.sights if sight.time >= t0]
        self.looks = [time for time in self.looks if time >= t0]
        there = [sight.person for sight in self.sights if sight.time < t1 or t1 == t0]
        least = max(min(2, len(self.looks)), SHARE * len(self.looks))
        return sorted({person for person in there if there.count(person) >= least})

    def around(self, person: int, t0: float, clip: Clip) -> Clip:
        """The pictures of a window that starts at t0, cut out around one of its people."""
        assert clip.frames is not None
        mine = [sight for sight in self.sights if sight.person == person]
        times = np.array([sight.time for sight in mine])
        side = AROUND * float(np.median([max(_size(sight.box)) for sight in mine]))
        near = [mine[int(np.abs(times - t0 - time).argmin())] for time in clip.times]
        cut = [_square(frame, sight.box, side) for frame, sight in zip(clip.frames, near, strict=True)]
        return replace(clip, frames=np.stack(cut))

    def speaker(self, present: Sequence[int], t0: float, wave: np.ndarray | None) -> int | str | None:
        """Who of those present in a window that starts at t0 speaks: a person, "unknown", or None without a voice."""
        frames = None if wave is None else analyse(wave)
        if frames is None or summary(frames).voiced < VOICED_AT_LEAST:
            return None
        level = np.clip(frames.level - frames.loud, -FLOOR_DB, 0.0)
        found = {person: self._follows(person, t0, level) for person in present}
        best = max(found, key=lambda person: found[person])
        others = [r for person, r in found.items() if person != best]
        return best if found[best] >= R and found[best] - max(others, default=-1.0) >= MARGIN else UNKNOWN

    def _follows(self, person: int, t0: float, level: np.ndarray) -> float:
        """The correlation r of a mouth with the level of the sound (F,); 0 for one that is still or hardly seen."""
        mine = [sight for sight in self.sights if sight.person == person and sight.time - t0 < len(level) * HOP / RATE]
        places = [round((sight.time - t0) * RATE / HOP) for sight in mine]
        mouth = np.array([sight.mouth for sight in mine])
        heard = np.array([level[max(i - NEARBY, 0) : i + NEARBY + 1].mean() for i in places])
        if len(mine) < FRAMES or mouth.std() < STILL or heard.std() < 1e-6:
            return 0.0
        return float(np.corrcoef(mouth, heard)[0, 1])

    def _look(self) -> None:
        """Find and follow the faces of the pictures that wait."""
        if not self.waiting:
            return
        times, pictures = zip(*self.waiting, strict=True)
        self.waiting = []
        height, width = pictures[0].shape[:2]
        for time, found in zip(times, faces_of(self.tower, np.stack(pictures)), strict=True):
            faces = sorted(found, key=lambda face: float(face.box[0]))  # newcomers are numbered from the left
            self.looks.append(time)
            known = matched(self.last, faces)
            for place, face in enumerate(faces):
                person = known.get(place, len(self.last))
                self.last[person : person + 1] = [face.box]
                self.sights.append(Sight(time, person, _in_picture(face.box, height, width), _mouth(face)))
            self.several = time if len(faces) > 1 else self.several


def _mouth(face: Face) -> float:
    """How open a mouth is: the intensities of AU25 and AU26, added."""
    read = reader()
    values = read.face(np.asarray(face.detail, np.float64))
    return float(sum(values[read.units.index(unit)] for unit in ("AU25", "AU26")))


def _in_picture(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box on the canvas of `letterbox`, in pixels of the picture.

    >>> _in_picture(np.array([29.0, 29.0, 144.2, 144.2]), 100, 100).round().tolist()
    [0.0, 0.0, 50.0, 50.0]
    """
    scale = SIDE * (1 - 2 * CANVAS) / max(height, width)
    left, top = ((SIDE - max(1, round(side * scale))) // 2 for side in (width, height))
    return (box - np.array([left, top, left, top])) / scale


def _size(box: np.ndarray) -> tuple[float, float]:
    return float(box[2] - box[0]), float(box[3] - box[1])


def _square(frame: np.ndarray, box: np.ndarray, side: float) -> np.ndarray:
    """The square of a side about the centre of a box, (S, S, 3); grey beyond the picture."""
    size = max(2, round(side))
    left, top = (round(float(box[i] + box[i + 2] - size) / 2) for i in (0, 1))
    cut = np.full((size, size, 3), 128, np.uint8)
    part = frame[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    y, x = max(-top, 0), max(-left, 0)
    cut[y : y + part.shape[0], x : x + part.shape[1]] = part[: size - y, : size - x]
    return cut
