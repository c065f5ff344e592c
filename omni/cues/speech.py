"""Records of the voice of a clip: who speaks is not told, only when, and how.

    wave ─► 10 ms frames (voice.py) ─► phrases, and the pauses between them ─► pitch, range, slope, rate, tone, loudness
                                   └► the clip as a whole ─► reader.py: is the pitch high, the speech fast …

A phrase is held against the speaker: against the median of all phrases where there are OWN_PHRASES of them with OWN_S
seconds of speech; in a shorter clip against the neutral voice that the reader infers from the clip's prosody. That is a
norm of the population which it was fitted on (120 synthetic voices, 8 real speakers of EmoDB; see `reader.py`).
Loudness has no meaning across recordings, so without the speaker's own median it has no strength.

`strength` is the distance from that reference in multiples of the limit in `truth.py`. "pitch high", "fast" … are
records of their own: the verdicts of the reader over the clip, or in a long one phrases beyond the limit.

Left out: jitter, shimmer and harmonics-to-noise, as in `voice.py`, and which of several people speaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .reader import READ, reader
from .record import CueRecord
from .truth import VOICE_LIMITS
from .voice import HOP, PAUSE_S, RATE, VOICED_AT_LEAST, Frames, Prosody, analyse, deltas, prosody_track, summary

OWN_PHRASES, OWN_S = 4, 6.0  # below, the median of a speaker is that of a mood
PHRASE_S = 0.3  # s; shorter sounds are no phrase
LOUD_DB = 3.0  # dB from the own median: twice the power
SLOPE_ST_S = 5.6  # semitones per second; one in ten phrases of the training voices is steeper
HOP_S = HOP / RATE


class Phrase(NamedTuple):
    """A stretch of speech between pauses: frames from `start` to `end`, and its prosody."""

    start: int
    end: int
    prosody: Prosody

    @property
    def span(self) -> tuple[float, float]:
        """Seconds."""
        return self.start * HOP_S, self.end * HOP_S


def voice_records(wave: np.ndarray) -> list[CueRecord]:
    """The records of a wave (L,) at 16 kHz; one record that says so if there is no voice."""
    frames = analyse(wave)
    whole, phrases = summary(frames), list(phrases_of(frames))
    if whole.voiced < VOICED_AT_LEAST or not phrases:
        return [CueRecord("voice", None, 0.0, len(wave) / RATE, "no voice", whole.voiced, "share voiced", 0.0)]
    own = _own(phrases)
    shifts = reader().voice_shifts(prosody_track(wave).values)
    reference = own or _neutral(whole, shifts)
    records = [record for phrase in phrases for record in _phrase_records(frames, phrase, reference, own is not None)]
    records += _pauses(frames, phrases[0].start, phrases[-1].end)
    if own is None:
        records += _verdicts(shifts, (phrases[0].span[0], phrases[-1].span[1]))
    else:
        records += [r for phrase in phrases for r in _beyond(deltas(phrase.prosody, own), phrase.span)]
    return sorted(records, key=lambda record: record.t0)


def phrases_of(frames: Frames) -> Iterator[Phrase]:
    """The stretches of speech of PHRASE_S or more that have a voice in them."""
    for start, end in _stretches(frames.speech):
        part = _cut(frames, start, end)
        if (end - start) * HOP_S >= PHRASE_S and (part.f0 > 0).mean() >= VOICED_AT_LEAST:
            yield Phrase(start, end, summary(part))


def _stretches(speech: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of every stretch of speech frames (F,) whose gaps are below PAUSE_S."""
    at = np.flatnonzero(speech)
    if not len(at):
        return []
    gaps = np.flatnonzero(np.diff(at) - 1 >= PAUSE_S / HOP_S)
    starts, ends = at[np.r_[0, gaps + 1]], at[np.r_[gaps, len(at) - 1]] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _pauses(frames: Frames, start: int, end: int) -> Iterator[CueRecord]:
    """The silences of PAUSE_S or more between the frames `start` and `end`; a sound that is no phrase ends one."""
    for (_, before), (after, _) in pairwise(_stretches(frames.speech[start:end])):
        t0, t1 = (start + before) * HOP_S, (start + after) * HOP_S
        yield CueRecord("voice", None, t0, t1, "pause", t1 - t0, "seconds", (t1 - t0) / PAUSE_S)


def _cut(frames: Frames, start: int, end: int) -> Frames:
    cut = {name: value[start:end] for name, value in frames._asdict().items() if name != "loud"}
    return Frames(**cut, loud=frames.loud)


def _own(phrases: Sequence[Phrase]) -> Prosody | None:
    """The speaker's median, if there is enough of it."""
    if len(phrases) < OWN_PHRASES or sum(p.end - p.start for p in phrases) * HOP_S < OWN_S:
        return None
    return Prosody(*(float(np.nanmedian(column)) for column in zip(*(p.prosody for p in phrases), strict=True)))


def _neutral(whole: Prosody, shifts: dict[str, float]) -> Prosody:
    """The neutral voice of which the clip is the shifted one."""
    return whole._replace(
        f0_hz=whole.f0_hz * 2 ** (-shifts["pitch_st"] / 12),
        f0_range_st=whole.f0_range_st * 2 ** -shifts["range_log2"],
        rate_syl_s=whole.rate_syl_s * 2 ** -shifts["rate_log2"],
        tilt_db=whole.tilt_db - shifts["tilt_db"],
    )


def _phrase_records(frames: Frames, phrase: Phrase, reference: Prosody, is_own: bool) -> Iterator[CueRecord]:
    """What is measured of a phrase."""
    one, moved = phrase.prosody, deltas(phrase.prosody, reference)
    slope = _slope(frames.f0[phrase.start : phrase.end])
    rows = (
        ("speech", one.voiced, "share voiced", 1.0),
        ("pitch", one.f0_hz, "Hz", moved["pitch_st"] / VOICE_LIMITS["pitch_st"].present),
        ("pitch range", one.f0_range_st, "semitones", moved["range_log2"] / VOICE_LIMITS["range_log2"].present),
        ("pitch slope", slope, "semitones per second", slope / SLOPE_ST_S),
        ("rate", one.rate_syl_s, "syllables per second", moved["rate_log2"] / VOICE_LIMITS["rate_log2"].present),
        ("tone", one.tilt_db, "dB of 1–5 kHz over 80–1000 Hz", moved["tilt_db"] / VOICE_LIMITS["tilt_db"].present),
        ("loudness", one.level_db, "dB re full scale", moved["level_db"] / LOUD_DB if is_own else 0.0),
    )
    for cue, value, unit, strength in rows:
        if not math.isnan(value + strength):  # a range of 0, as of a tone, has no distance in octaves
            yield CueRecord("voice", None, *phrase.span, cue, value, unit, abs(strength))


def _slope(f0: np.ndarray) -> float:
    """The slope of the regression line through F0 (F,), semitones per second; NaN without a voice."""
    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) < 3:
        return math.nan
    return float(np.polyfit(voiced * HOP_S, 12 * np.log2(f0[voiced]), 1)[0])


def _verdicts(shifts: dict[str, float], span: tuple[float, float]) -> Iterator[CueRecord]:
    """The cues that the reader finds in the clip as a whole."""
    read = reader()
    there = (cue for cue in READ if cue.modality == "voice" and cue.direction and read.verdict(cue, shifts))
    for cue in there:
        (measure,) = cue.measures
        yield _cue(cue.name, measure, shifts[measure], span)


def _beyond(moved: dict[str, float], span: tuple[float, float]) -> Iterator[CueRecord]:
    """The cues of a phrase that is beyond a limit, against the speaker's median."""
    for cue in READ:
        if cue.modality == "voice" and cue.direction:
            (measure,) = cue.measures
            if moved[measure] * cue.direction >= VOICE_LIMITS[measure].present:
                yield _cue(cue.name, measure, moved[measure], span)


UNITS = {"pitch_st": "semitones", "range_log2": "octaves", "rate_log2": "octaves", "tilt_db": "dB"}


def _cue(name: str, measure: str, shift: float, span: tuple[float, float]) -> CueRecord:
    strength = abs(shift) / VOICE_LIMITS[measure].present
    return CueRecord("voice", None, *span, name.replace("_", " "), shift, UNITS[measure], strength)
