"""What a clip shows, cue by cue: a small linear reader of the face tower's features and of the clip's prosody.

    face    detail (T, D) ─► z = (x - mean) / scale ─► intensities (T, U) of action units ─► smoothed over time
    voice   clip-level prosody (C,) ─► the same ─► shifts (V,) against a speaker's neutral voice, as `voice.deltas`

    score of a cue   s = max over its measures of  direction · value / present limit of `truth.py`, at its highest
                     in a cue of rest (direction 0)  s = - max |value| / present limit
    verdict          there: s >= present   not there: s <= absent   between: unknown

Both readings are ridge regressions on rendered actors, whose units and shifts are known by construction. The limits
were set on other actors, so that at most one in twenty of the clips with a cue is called without it, and one in twenty
of those without it called with it. `benchmarks/fit_cues.py` makes all of it again; `docs/cues.md` has precision and
recall on actors that neither saw. A voice of which nothing else is known is thus held against the population of that
corpus (120 synthetic voices, 8 real speakers of EmoDB), by all of its prosody: a high pitch alone may be a woman's.

Left out: asymmetry, and the person's own face at rest, which a short clip may never show.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from .lexicon import CUES, Cue
from .truth import FACE_LIMITS, VOICE_LIMITS, Limits
from .voice import FEATURES

CLIP_COLUMNS = tuple(i for i, name in enumerate(FEATURES) if name.startswith("clip_"))  # C of a prosody track
SMOOTH_S = 0.4  # half the base of the triangle that intensities are averaged with; shorter is noise or a blink
READ = tuple(cue for cue in CUES.values() if cue.measures)  # the cues that can be measured


class Linear(NamedTuple):
    """A ridge regression: mean and scale (D,), weight (D, K), bias (K,)."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(…, D) to (…, K); inputs beyond six deviations are held there."""
        z = np.clip((x - self.mean) / self.scale, -6, 6)
        value: np.ndarray = z @ self.weight + self.bias
        return value


@dataclass(frozen=True)
class CueReader:
    """The two regressions and the limits of the cues; `reader()` gives the one that is kept with the package."""

    face: Linear
    voice: Linear
    units: tuple[str, ...]  # U names, "AU1" …
    shifts: tuple[str, ...]  # V names, "pitch_st" …
    limits: Mapping[str, Limits]

    def intensities(self, detail: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Action units over time, (T, U), 0 absent and 1 full.

        Args:
            detail: (T, D) of `FaceFeatures.detail`.
            times: (T,) in seconds, NaN for a frame without a face; its row of the result is NaN.
        """
        return smoothed(self.face(np.asarray(detail, np.float64)), np.asarray(times, np.float64))

    def voice_shifts(self, track: np.ndarray) -> dict[str, float]:
        """How a voice differs from its speaker's neutral one, as far as a track (T, P) of `prosody_track` tells."""
        values = self.voice(np.asarray(track, np.float64)[0, list(CLIP_COLUMNS)])
        return dict(zip(self.shifts, map(float, values), strict=True))

    def verdict(self, cue: Cue, values: Mapping[str, float]) -> bool | None:
        """Whether a cue is there, by the values of its measures; None if that cannot be said."""
        level, limits = score(cue, values), self.limits[cue.name]
        if level >= limits.present:
            return True
        return False if level <= limits.absent and cue.provable_absence else None


@cache
def reader() -> CueReader:
    """The reader that comes with the package."""
    from safetensors.numpy import load

    content = resources.files("omni.default").joinpath("cues.safetensors").read_bytes()
    return from_tensors(load(content), facts_of(content))


def from_tensors(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> CueReader:
    """A reader from what `to_tensors` made of one."""
    face, voice = (Linear(*(tensors[f"{kind}.{part}"] for part in Linear._fields)) for kind in ("face", "voice"))
    limits = {name: Limits(*(math.inf * sign if x is None else x for x, sign in zip(pair, (-1, 1), strict=True)))
              for name, pair in facts["limits"].items()}  # fmt: skip
    return CueReader(face, voice, tuple(facts["units"]), tuple(facts["shifts"]), limits)


def to_tensors(found: CueReader) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A reader as the tensors and the facts that are kept of it; a limit that is never reached is None."""
    tensors = {
        f"{kind}.{part}": np.ascontiguousarray(value, np.float32)
        for kind, linear in (("face", found.face), ("voice", found.voice))
        for part, value in linear._asdict().items()
    }
    limits = {name: [float(x) if math.isfinite(x) else None for x in pair] for name, pair in found.limits.items()}
    return tensors, {"units": found.units, "shifts": found.shifts, "limits": limits}


def facts_of(content: bytes) -> dict[str, Any]:
    """The facts in the header of a safetensors file: its length in 8 bytes, then JSON."""
    size = int.from_bytes(content[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["reader"])
    return facts


def score(cue: Cue, values: Mapping[str, float]) -> float:
    """How much a cue is there, in multiples of its present limit; NaN if its measures are missing.

    >>> score(CUES["smile"], {"AU12": 0.7}), score(CUES["slow"], {"rate_log2": -0.36})
    (2.0, 2.0)
    """
    ratios = [values.get(name, math.nan) / _present(cue, name) for name in cue.measures]
    return max(ratio * cue.direction for ratio in ratios) if cue.direction else -max(map(abs, ratios))


def _present(cue: Cue, measure: str) -> float:
    return FACE_LIMITS.present if cue.modality == "face" else VOICE_LIMITS[measure].present


def smoothed(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values (T, K) at times (T,), each averaged with its neighbours by a triangle of ±SMOOTH_S; NaN stays NaN.

    >>> smoothed(np.array([[0.0], [1.0], [0.0]]), np.array([0.0, 0.3, 0.6])).round(2).ravel().tolist()
    [0.2, 0.67, 0.2]
    """
    weight = np.clip(1 - np.abs(times[:, None] - times[None]) / SMOOTH_S, 0, None)  # (T, T)
    weight = np.nan_to_num(weight)
    total = weight.sum(1, keepdims=True)
    mean: np.ndarray = weight @ np.where(np.isnan(times)[:, None], 0.0, values) / np.where(total > 0, total, np.nan)
    return mean
