"""`omni timeline`: a long clip, window by window, and what is told of it.

    path ─► windows.py ─► one `Clip` a window ─► people.py: with several people one around each ─► towers ─► p(label)
         └► thumbnails, envelope of the sound                                                         (no thinking)
    rows of p(label) ─► summary.py ─► passages, changes, sentences;  thinking: reasons, of each passage's surest one

Label probabilities are those of `omni ask --no-think`: the same prompt, the same calibration. What a window was made of
is let go when its row exists. Reasons are written afterwards, in a second walk through the file.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..answer import Answer
from ..clip import RATE, Clip, Limits
from ..cues.face import face_tower
from ..emotions import EKMAN7, LabelSpace, label_space
from ..errors import ModelError, OmniError
from ..features import ClipFeatures
from ..generate import (
    LABEL_AT,
    as_features,
    ask_text,
    build_inputs,
    reason_batch,
    score_labels,
    temperature_of,
    warned,
)
from .people import LOOKS, People
from .record import Passage, Reading, Strip, Timeline
from .streams import LOOK_S
from .summary import by_person, changes, passages, people, ranges, row_text, sentences
from .windows import HOP_S, LIMITS, WINDOW_S, Window, Windows

TOGETHER = 8  # windows that go through the model at once
PICTURES, HIGH = 24, 64  # of the strip: how many, px
STRETCHES = 2000  # of its wave
Progress = Callable[[float], None]  # seconds of the clip that are done


class _Asked(NamedTuple):
    """What the model is asked about: pictures, and where they are of one of several people the sound apart."""

    window: Window
    person: int | None
    speaker: int | str | None
    clip: Clip
    sound: Clip | None = None


def read_timeline(
    model,
    processor,
    clip: str | os.PathLike[str] | Windows,
    *,
    window: float = WINDOW_S,
    hop: float = HOP_S,
    labels: LabelSpace | Sequence[str] | str = EKMAN7,
    think: bool = False,
    limits: Limits = LIMITS,
    progress: Progress | None = None,
) -> Timeline:
    """Read a clip of any length window by window.

    Args:
        clip: a path, or its `Windows`, whose window and hop count then.
        window: seconds.
        hop: seconds from one window to the next, at most `window`.
        labels: the label space over which probabilities are given.
        think: also write reasons, for the surest window between two changes.
        progress: told how many seconds of the clip are done; reasons are a second walk through it, told on top.

    Raises:
        OmniError: window and hop do not go together, or the clip cannot be read.
        ModelError: if the model puts out NaN.
    """
    space = label_space(labels)
    windows = clip if isinstance(clip, Windows) else Windows(clip, window=window, hop=hop, limits=limits)
    strip, tower, warnings = _Strip(windows.duration), None, windows.warnings[:0]
    if windows.picture or windows.demuxer == "image":
        try:
            tower = face_tower()
        except ModelError:  # of a model with a vision tower of its own the wheels need not be there
            warnings = ("people_not_followed",)
    readings: list[Reading] = []
    waiting: list[_Asked] = []
    for each in _asked(windows, processor, tower):
        strip.take(each[0].window)
        waiting += each
        if len(waiting) >= TOGETHER:
            readings += _read(model, processor, waiting, space)
            waiting = []
            if progress:
                progress(each[0].window.t1)
    readings += _read(model, processor, waiting, space) if waiting else []
    names = _numbers(readings)
    readings = [
        replace(one, person=names.get(one.person), speaker=names.get(one.speaker, one.speaker)) for one in readings
    ]
    overlap = windows.window / windows.hop
    pairs = [(passages(mine, overlap), mine) for mine in by_person(readings).values()]
    found = [one for own, _ in pairs for one in own]
    turns = [one for own, mine in pairs for one in changes(own, mine)]
    if think:
        found = _explained(model, processor, windows, tower, found, names, space, progress)
    return Timeline(
        clip=str(clip.file if isinstance(clip, Windows) else clip),
        sha256=windows.sha256,
        duration_s=windows.duration,
        window_s=windows.window,
        hop_s=windows.hop,
        labels=space.labels,
        modalities=tuple(m for m in ("video", "audio") if any(m in one.modalities for one in readings)),
        people=tuple(people(readings)),
        windows=tuple(readings),
        changes=tuple(sorted(turns, key=lambda change: change.t)),
        segments=tuple(found),
        summary=tuple(sentences(readings, found)),
        warnings=windows.warnings + warnings,
        strip=strip.done(),
    )


def _asked(windows: Windows, processor, tower) -> Iterator[list[_Asked]]:
    """What is asked of each window: one clip, or one for each of several people."""
    crowd = People(tower, max(LOOK_S, windows.window / LOOKS)) if tower else None
    watch = crowd.watch if crowd else None
    for window in windows.read(processor.frames, processor.sampling, watch):
        clip, present = window.clip, crowd.between(window.t0, window.t1) if crowd else []
        if crowd is None or len(present) < 2 or clip.frames is None:
            yield [_Asked(window, present[0] if len(present) == 1 else None, None, clip)]
            continue
        speaker = crowd.speaker(present, window.t0, clip.wave)
        sound = replace(clip, frames=None, times=np.zeros(0)) if "audio" in clip.modalities else None
        seen = replace(clip, wave=None)
        heard = [None if speaker in present and speaker != p else sound for p in present]  # a voice is its speaker's
        cut = (crowd.around(p, window.t0, seen) for p in present)
        yield [_Asked(window, p, speaker, clip, own) for p, clip, own in zip(present, cut, heard, strict=True)]


def _encoded(model, processor, asked: Sequence[_Asked]) -> list[ClipFeatures]:
    """Through the towers, each clip once: the people of a window share its sound."""
    clips = {id(clip): clip for one in asked for clip in (one.clip, one.sound) if clip is not None}
    found = dict(zip(clips, as_features(model, processor, list(clips.values())), strict=True))
    return [
        found[id(one.clip)] if one.sound is None else found[id(one.clip)].with_sound_of(found[id(one.sound)])
        for one in asked
    ]


@torch.inference_mode()
def _read(model, processor, asked: Sequence[_Asked], space: LabelSpace) -> list[Reading]:
    """The probabilities of some windows, as rows."""
    clips = _encoded(model, processor, asked)
    inputs = build_inputs(model, processor, clips, [ask_text(processor, c, None, space, False) for c in clips])
    clips = warned(model, clips, inputs)
    scores = score_labels(model, processor, inputs, [LABEL_AT] * len(clips), space, temperature_of(model, False))
    return [_reading(*one) for one in zip(asked, clips, scores, strict=True)]


def _reading(asked: _Asked, clip: ClipFeatures, scores: dict[str, float]) -> Reading:
    best = max(scores, key=scores.__getitem__)
    told: dict[str, Any] = {"label": best, "confidence": scores[best], "labels": scores}
    return Reading(
        index=asked.window.number,
        t0=asked.window.t0,
        t1=asked.window.t1,
        **(told if clip.modalities else dict.fromkeys(told)),
        modalities=clip.modalities,
        person=asked.person,
        speaker=asked.speaker,
        transcript=clip.transcript,
        warnings=clip.warnings,
    )


def _numbers(readings: Sequence[Reading]) -> dict[int | str | None, int]:
    """New numbers of the people, from 0; none if there are never two at once: it is then whoever is in the picture."""
    indices = [one.index for one in readings]
    if len(set(indices)) == len(indices):
        return {}
    seen = dict.fromkeys(one.person for one in readings if one.person is not None)
    return {person: number for number, person in enumerate(seen)}


def _explained(
    model,
    processor,
    windows: Windows,
    tower,
    found: Sequence[Passage],
    names: dict,
    space: LabelSpace,
    progress: Progress | None,
) -> list[Passage]:
    """The passages with the reasons in their surest windows, for which the file is walked through again."""
    wanted = {(one.surest, one.person) for one in found}
    answers: dict[tuple[int, int | None], tuple[float, Answer]] = {}
    waiting: list[_Asked] = []

    def write() -> None:
        told = reason_batch(model, processor, _encoded(model, processor, waiting), labels=space, think=True)
        for one, answer in zip(waiting, told, strict=True):
            answers[one.window.number, names.get(one.person)] = (one.window.t0, answer)
        waiting.clear()

    for each in _asked(windows, processor, tower):
        waiting += [one for one in each if (one.window.number, names.get(one.person)) in wanted]
        if len(waiting) >= TOGETHER:
            write()
        if progress:
            progress(windows.duration + each[0].window.t1)
    if waiting:
        write()
    return [_with_reasons(one, *answers[one.surest, one.person]) for one in found]


def _with_reasons(passage: Passage, t0: float, answer: Answer) -> Passage:
    """The times of claims count from the start of the clip."""
    moved = tuple(
        one if one.t0 is None or one.t1 is None else replace(one, t0=round(one.t0 + t0, 3), t1=round(one.t1 + t0, 3))
        for one in answer.evidence
    )
    return replace(passage, thought=answer.thought, evidence=moved)


class _Strip:
    """Gathers small pictures and the envelope of the sound as the windows go by."""

    def __init__(self, duration: float) -> None:
        count = max(1, min(PICTURES, round(duration / LOOK_S)))
        self.due = [(i + 0.5) * duration / count for i in range(count)]
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.samples = max(1, round(duration * RATE))
        stretches = min(STRETCHES, self.samples)
        self.low, self.high, self.heard = np.zeros(stretches), np.zeros(stretches), 0

    def take(self, window: Window) -> None:
        """The window, of which what came before was taken already."""
        clip, t0 = window.clip, window.t0
        while self.due and (self.due[0] < window.t1 or window.t1 == 0.0):
            time = self.due.pop(0)
            if clip.frames is not None:
                near = int(np.abs(clip.times + t0 - time).argmin())
                self.pictures.append((float(clip.times[near] + t0), _small(clip.frames[near])))
        if clip.wave is not None:
            first = round(t0 * RATE)
            new = clip.wave[max(self.heard - first, 0) :]
            start = max(self.heard, first)
            place = np.minimum(np.arange(start, start + len(new)) * len(self.low) // self.samples, len(self.low) - 1)
            np.minimum.at(self.low, place, new)
            np.maximum.at(self.high, place, new)
            self.heard = start + len(new)

    def done(self) -> Strip:
        return Strip(tuple(self.pictures), np.stack([self.low, self.high])[:, : len(self.low) if self.heard else 0])


def _small(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.asarray(Image.fromarray(frame).resize((max(1, round(width * HIGH / height)), HIGH)))


def told(found: Timeline) -> str:
    """A timeline as text: a line for each window, then the summary."""
    lines = [row_text(one, dict.fromkeys(found.labels)) for one in found.windows]
    lines += [
        "",
        *(f"{one.text} [window{'s' * (len(one.windows) > 1)} {ranges(one.windows)}]" for one in found.summary),
    ]
    if found.warnings:
        lines += ["", f"warnings: {', '.join(found.warnings)}"]
    return "\n".join(lines)


def draw(found: Timeline, path: str | os.PathLike[str]) -> None:
    """Draw a timeline into a picture file.

    Raises:
        OmniError: the file cannot be written.
    """
    from .plot import timeline_plot

    try:
        timeline_plot(found).save(path, optimize=True)
    except (OSError, ValueError) as err:  # ValueError: Pillow knows no format of this suffix
        raise OmniError(f"{path} cannot be written ({err}). Name a .png in a folder of yours.", code="bad_out") from err
