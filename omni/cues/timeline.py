"""`omni cues`: everything that can be measured of a clip without a language model, as records in time.

    path ─► frames, APART, MOST of them ─► face.py ─┐
         └► wave ─► speech.py ──────────────────────┴► records, by time

A sense that the clip does not have gives no records; a picture without a face, or a sound without a voice, one record
that says so. Of a long clip a sample of the frames is measured, and all of the sound. `streams` gives a clip as
features, for the check of a rationale (`omni/evidence.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..clip import Clip, read_clip
from ..errors import ClipError, ManifestError, OmniError
from ..manifest import check_writable, read_manifest, write_manifest
from .face import SIDE, face_records, face_tower
from .record import CueRecord
from .speech import voice_records
from .voice import prosody_track

if TYPE_CHECKING:
    from ..features import ClipFeatures

APART = 0.1  # s between frames: half a blink, and less than any action unit takes to rise
MOST = 240  # frames; beyond 24 s they are farther apart, so that the memory of a long clip is bounded


def cue_timeline(clip: str | os.PathLike[str] | Clip) -> list[CueRecord]:
    """The records of a clip, by time.

    Args:
        clip: a path, or a `Clip` whose frames are taken as they are.

    Raises:
        ClipError: the clip cannot be read.
        ModelError: a wheel of the face tower is missing.
    """
    clip = clip if isinstance(clip, Clip) else read_closely(clip)
    records: list[CueRecord] = []
    if "video" in clip.modalities:
        records += face_records(clip)
    if clip.wave is not None:
        records += voice_records(clip.wave)
    return sorted(records, key=lambda record: record.t0)


def told(records: Sequence[CueRecord]) -> str:
    """Records as lines of text: when, of whom, what, how much.

    >>> print(told([CueRecord("face", 0, 0.5, 2.0, "AU12 lip corner puller", 0.8, "intensity", 2.3, 1.25)]))
     0.50– 2.00 s  person 0  AU12 lip corner puller   0.80 intensity, strongest at 1.25 s
    """
    lines = []
    for one in records:
        who = one.modality if one.person is None else f"person {one.person}"
        apex = "" if one.apex is None else f", strongest at {one.apex:.2f} s"
        lines.append(f"{one.t0:5.2f}–{one.t1:5.2f} s  {who:8}  {one.cue:22} {one.value:6.2f} {one.unit}{apex}")
    return "\n".join(lines)


def draw(clip: Clip, records: Sequence[CueRecord], path: str | os.PathLike[str]) -> None:
    """Draw the records of a clip into a picture file.

    Raises:
        OmniError: the file cannot be written.
    """
    from .plot import cue_plot

    try:
        cue_plot(clip, records).save(path)
    except (OSError, ValueError) as err:  # ValueError: Pillow knows no format of this suffix
        raise OmniError(f"{path} cannot be written ({err}). Name a .png in a folder of yours.", code="bad_out") from err


def measure_manifest(manifest: str | os.PathLike[str], out: str | os.PathLike[str]) -> list[str]:
    """Write a manifest again with the column `cues`, which the reward of that name takes.

    It says of every cue of the lexicon whether it was measured in the clip, null if that is unknown; cues of a sense
    that the clip lacks are not there.

    Returns:
        What is wrong with the clips that were left out, since they cannot be read.

    Raises:
        OmniError: a manifest is empty or cannot be read or written, or no clip can be read.
    """
    from ..evidence import measured

    measured_rows, left_out = [], []
    examples = read_manifest(Path(manifest))
    check_writable(Path(out), examples)
    for example in examples:
        try:
            there = dict(measured(streams(read_clip(example.clip))).there)
        except ClipError as err:
            left_out.append(f"{example.clip}: {err}")
        else:
            measured_rows.append(replace(example, extra=example.extra | {"cues": there}))
    if not measured_rows:
        raise ManifestError(f"{manifest} has no clip that can be read. {' '.join(left_out[:1])}".strip())
    write_manifest(Path(out), measured_rows)
    return left_out


def drawable(path: Path | None) -> None:
    """Refuse a picture that could not be written, before anything is measured.

    Raises:
        OmniError: there is no such folder, or the suffix is none of a picture.
    """
    if path is None:
        return
    from PIL import Image

    if not path.resolve().parent.is_dir():
        raise OmniError(f"{path} is in no folder that there is. Make it first.", code="bad_out")
    if path.suffix.lower() not in Image.registered_extensions():
        raise OmniError(f"{path} has no suffix of a picture. Name a .png.", code="bad_out")


def read_closely(path: str | os.PathLike[str]) -> Clip:
    """A clip with frames close enough in time for action units."""
    clip = read_clip(path, frames=MOST)
    if clip.frames is None:
        return clip
    kept = [0]
    for i, time in enumerate(clip.times):  # a short clip has fewer frames than asked for, some of them twice
        if time - clip.times[kept[-1]] >= APART - 1e-3:
            kept.append(i)
    return replace(clip, frames=clip.frames[kept], times=clip.times[kept])


def streams(clip: Clip) -> ClipFeatures:
    """A clip as the default's face tower and `prosody_track` see it, like the features of the default model."""
    import torch

    from ..faces import letterbox
    from ..features import ClipFeatures

    features: dict[str, torch.Tensor] = {}
    times: dict[str, torch.Tensor] = {}
    if clip.frames is not None:
        seen = face_tower()(letterbox(clip.frames, SIDE)[None])
        if seen.found.any():
            at = torch.as_tensor(np.asarray(clip.times, np.float32)).masked_fill(~seen.found[0], torch.nan)
            features |= {"video": seen.detail[0], "expression": seen.expression[0]}
            times |= {"video": at, "expression": at}
    if clip.wave is not None and "audio" in clip.modalities:
        track = prosody_track(clip.wave)
        features["prosody"], times["prosody"] = torch.from_numpy(track.values), torch.from_numpy(track.times)
    modalities = tuple(m for m, s in (("video", "video"), ("audio", "prosody")) if s in features)
    return ClipFeatures(features, times, modalities, clip.duration, clip.sha256)
