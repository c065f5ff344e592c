"""Prosody of a voice, measured with numpy alone: pitch, loudness, rate, spectral tilt and pauses.

    wave ─► frames of 10 ms ─► measure()        one Prosody per clip: Hz, semitones, dB, syllables per second
                            └► prosody_track()  a row per 0.25 s, unit scale, the same for any recording gain

Letters: `F` frames of 10 ms, `L` lags, `K` pitch candidates, `T` rows of 0.25 s, `P` features.

Pitch (RAPT, Talkin 1995, with the path costs of Boersma 1993). The wave is band-limited to 50–1000 Hz, and

    r(lag) = sum x[i] x[i + lag] / sqrt(E[0] E[lag])     # normalised cross-correlation over 40 ms

Its highest peaks in 60–500 Hz are the candidates. A small cost per octave of lag prefers the shortest period,
and the best path through candidates and "unvoiced" pays for jumps. A second path keeps to the register of the
clip, which the first one found (De Looze & Hirst 2008); together they remove the octave errors.

Level and tilt come from a 512-point spectrum of 25 ms: the level is the power above 60 Hz, the tilt
10 log10(power in 1–5 kHz / power in 80–1000 Hz) of the voiced frames.

Rate is how fast the spectrum moves: the mean step of five band levels per 10 ms over their deviation, which
cancels how lively the voice is. RATE_AT_ONE and RATE_POWER make syllables per second of it, fitted to Piper's
`joe` at four speeds. Counting syllable nuclei (de Jong & Wempe 2009) was tried: it finds by how much a
sentence was stretched with six times the error, because the count follows pitch and tilt as well.

Left out: jitter, shimmer, harmonics-to-noise ratio. In clips of seconds they say little of the voice: the halves of one
sentence disagree, and jitter follows pitch (docs/log.md, 27 November).
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

RATE = 16_000  # Hz, what everything here works at
HOP = 160  # samples: 10 ms
FRAMES_PER_ROW = 25  # 0.25 s
F0_FLOOR, F0_CEIL = 60.0, 500.0  # Hz
PITCH_RATE = 8_000  # Hz
PITCH_WINDOW = 320  # samples at PITCH_RATE: 40 ms
CANDIDATES = 6  # pitch candidates per frame
VOICING_THRESHOLD = 0.5  # the correlation at which voiced and unvoiced tie; Boersma has 0.45
SILENCE_DB = 30.0  # a frame this far below the loud ones of its clip is not speech
OCTAVE_COST = 0.02  # per octave of lag
JUMP_COST = 0.35  # per octave between neighbouring frames, as in Praat
SWITCH_COST = 0.14  # between voiced and unvoiced, as in Praat
HISS_DB = 6.0  # tilt above which a frame leans towards unvoiced
REGISTER = (0.6, 2.0)  # of the lower and of the upper quartile of F0; outside is an octave error, not a voice
SHORTEST_RUN = 3  # frames; shorter voicing is chance
CHANGE_DEPTH = 25.0  # dB below its loud frames a band is cut, so that the noise of a room does not count
RATE_AT_ONE, RATE_POWER = 37.4, 1.195  # see above
PAUSE_S = 0.15  # a shorter gap is a plosive
VOICED_AT_LEAST = 0.05  # share of voiced time below which there is sound, but no voice and no words
BLOCK = 2048  # frames per batch, which bounds the memory of a long clip


class Prosody(NamedTuple):
    """What one clip sounds like. A field is NaN where there is no voice to measure it on.

    Attributes:
        f0_hz: median fundamental frequency.
        f0_sd_st: standard deviation of F0 in semitones.
        f0_range_st: 5th to 95th percentile of F0 in semitones.
        level_db: mean power of the speech, dB re full scale. Means nothing across recordings.
        rate_syl_s: syllables per second between the first and the last speech frame, pauses included, ±10 %.
        tilt_db: power in 1–5 kHz over 80–1000 Hz; higher is brighter, tenser.
        voiced: fraction of the speech frames that are voiced, 0 … 1.
        final_ratio: F0 of the last voiced eighth over the median; above 1 the voice ends high.
        pauses_s: summed length of the silent gaps inside the speech.
    """

    f0_hz: float
    f0_sd_st: float
    f0_range_st: float
    level_db: float
    rate_syl_s: float
    tilt_db: float
    voiced: float
    final_ratio: float
    pauses_s: float


class Track(NamedTuple):
    """Prosody over time: `times` (T,), the middle of each row in s; `values` (T, P) float32, see FEATURES."""

    times: np.ndarray
    values: np.ndarray


# The columns of Track.values. Zero where there is no voice; `voiced` tells such a zero from a measured one.
FEATURES: dict[str, str] = {
    # of this quarter second
    "pitch": "log2(median F0 / 150 Hz), octaves",
    "pitch_rise": "median F0 against the clip's median, semitones / 6",
    "pitch_sd": "standard deviation of F0, semitones / 3",
    "pitch_slope": "slope of F0, semitones per second / 30, clipped to ±2",
    "energy": "level against the clip's 95th percentile, dB / 20, not below -3",
    "tilt": "spectral tilt of the voiced frames, (dB + 12) / 8",
    "voiced": "fraction of voiced frames",
    "periodicity": "mean correlation at the pitch period of the voiced frames",
    "pace": "syllables per second / 5",
    # of the whole clip, the same in each row
    "clip_pitch": "log2(median F0 / 150 Hz), octaves",
    "clip_pitch_sd": "standard deviation of F0, semitones / 3",
    "clip_range": "5–95 % range of F0, semitones / 10",
    "clip_rate": "log2(syllables per second / 4)",
    "clip_tilt": "spectral tilt, (dB + 12) / 8",
    "clip_tilt_sd": "standard deviation of the tilt over the voiced frames, dB / 8",
    "clip_dynamics": "standard deviation of the level over the speech frames, dB / 8",
    "clip_voiced": "fraction of the speech frames that are voiced",
    "clip_periodicity": "mean correlation at the pitch period of the voiced frames",
    "clip_final": "log2 of final_ratio, octaves",
    "clip_pauses": "pauses / length of the speech",
}


class Frames(NamedTuple):
    """Measurements per 10 ms; every array is (F,)."""

    f0: np.ndarray  # Hz, 0 where unvoiced
    periodicity: np.ndarray  # correlation at the pitch period, 0 where unvoiced
    level: np.ndarray  # dB re full scale, floored
    tilt: np.ndarray  # dB
    low: np.ndarray  # power 80–1000 Hz
    high: np.ndarray  # power 1–5 kHz
    speech: np.ndarray  # bool
    change: np.ndarray  # how fast the spectrum moves, see _change
    loud: float  # dB, 95th percentile of the level


def measure(wave: np.ndarray, rate: int = RATE) -> Prosody:
    """Measures the prosody of one clip.

    Args:
        wave: (samples,) mono, any float type, full scale ±1.
        rate: samples per second.

    Returns:
        Prosody; all fields NaN except `voiced` and `pauses_s` (0) for a silent clip.

    >>> t = np.arange(16_000) / 16_000
    >>> tone = sum(np.sin(2 * np.pi * 200 * k * t) / k for k in range(1, 8))
    >>> round(measure(0.1 * tone).f0_hz)
    200
    >>> measure(np.zeros(16_000)).f0_hz
    nan
    """
    return summary(analyse(wave, rate))


def deltas(prosody: Prosody, baseline: Prosody) -> dict[str, float]:
    """How a clip differs from the same speaker's neutral voice.

    Returns:
        pitch_st (semitones), range_log2, rate_log2 (octaves), tilt_db and level_db; NaN where either side is.
        level_db means something only if both were recorded with the same gain.

    >>> calm = Prosody(100.0, 2.0, 6.0, -20.0, 4.0, -12.0, 0.6, 0.9, 0.0)
    >>> deltas(calm._replace(f0_hz=200.0, rate_syl_s=2.0), calm)
    {'pitch_st': 12.0, 'range_log2': 0.0, 'rate_log2': -1.0, 'tilt_db': 0.0, 'level_db': 0.0}
    """
    return {
        "pitch_st": 12 * _log2_ratio(prosody.f0_hz, baseline.f0_hz),
        "range_log2": _log2_ratio(prosody.f0_range_st, baseline.f0_range_st),
        "rate_log2": _log2_ratio(prosody.rate_syl_s, baseline.rate_syl_s),
        "tilt_db": prosody.tilt_db - baseline.tilt_db,
        "level_db": prosody.level_db - baseline.level_db,
    }


def prosody_track(wave: np.ndarray, rate: int = RATE) -> Track:
    """Prosody in rows of 0.25 s, ready for a network: see FEATURES for the columns.

    Args:
        wave: (samples,) mono.
        rate: samples per second.

    Returns:
        Track with at least one row; a last piece under 0.125 s joins the row before. Never NaN, and the same
        for any gain of the recording.

    >>> track = prosody_track(np.zeros(16_000))
    >>> track.times.tolist(), track.values.shape == (4, len(FEATURES)), bool(track.values.any())
    ([0.125, 0.375, 0.625, 0.875], True, False)
    """
    frames = analyse(wave, rate)
    count = len(frames.f0)
    rows = max(1, round(count / FRAMES_PER_ROW))
    edges = [*range(0, rows * FRAMES_PER_ROW, FRAMES_PER_ROW), count]
    clip = _clip_features(frames)
    local = [_row_features(frames, slice(a, max(b, a + 1))) for a, b in itertools.pairwise(edges)]
    values = np.array([row + clip for row in local], np.float32)  # (T, P)
    times = (np.arange(rows) + 0.5) * FRAMES_PER_ROW * HOP / RATE
    return Track(times, np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))


def pitch(wave: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Fundamental frequency every 10 ms: (F,) Hz, 0 where unvoiced."""
    return analyse(wave, rate).f0


# ------------------------------------------------------------------------------------- from frames to numbers


def summary(frames: Frames) -> Prosody:
    """The prosody of frames: of a clip or of a part of it."""
    voiced = frames.f0 > 0
    span = _span(frames.speech)
    rate = _syllables(_mean(_inside(frames))) if span else math.nan
    level = 10 * math.log10((10 ** (frames.level[frames.speech] / 10)).mean()) if span else math.nan
    share = voiced.sum() / max(1, (frames.speech | voiced).sum())
    pauses = _pauses(frames.speech)
    if not voiced.any():
        nan = math.nan
        return Prosody(nan, nan, nan, level, rate, nan, 0.0, nan, pauses)
    f0 = frames.f0[voiced]
    median = float(np.median(f0))
    semitones = 12 * np.log2(f0 / median)
    low, high = np.percentile(semitones, (5, 95))
    final = np.median(f0[-max(3, len(f0) // 8) :]) / median
    tilt = _db(frames.high[voiced].sum()) - _db(frames.low[voiced].sum())
    numbers = (median, semitones.std(), high - low, level, rate, tilt, share, final, pauses)
    return Prosody(*(float(number) for number in numbers))


def _clip_features(frames: Frames) -> list[float]:
    """The clip-level half of FEATURES, NaN allowed."""
    whole = summary(frames)
    voiced = frames.f0 > 0
    tilt_sd = frames.tilt[voiced].std() if voiced.any() else 0.0
    dynamics = frames.level[frames.speech].std() if frames.speech.any() else 0.0
    span_s = max(1, _span(frames.speech)) * HOP / RATE
    return [
        _log2_ratio(whole.f0_hz, 150.0),
        whole.f0_sd_st / 3,
        whole.f0_range_st / 10,
        _log2_ratio(whole.rate_syl_s, 4.0),
        (whole.tilt_db + 12) / 8,
        tilt_sd / 8,
        dynamics / 8,
        whole.voiced,
        _mean(frames.periodicity[voiced]),
        _log2_ratio(whole.final_ratio, 1.0),
        whole.pauses_s / span_s,
    ]


def _row_features(frames: Frames, row: slice) -> list[float]:
    """The local half of FEATURES for the frames of one row."""
    f0 = frames.f0[row]
    voiced = f0 > 0
    energy = pace = 0.0
    if len(f0) and frames.loud > -math.inf:
        energy = max(-3.0, (_db((10 ** (frames.level[row] / 10)).mean()) - frames.loud) / 20)
        pace = _syllables(_mean(frames.change[row])) / 5
    share = _mean(voiced)
    if voiced.sum() < 3:
        return [0.0, 0.0, 0.0, 0.0, energy, 0.0, share, 0.0, pace]
    octaves = np.log2(f0[voiced] / 150)
    median = float(np.median(octaves))
    rise = 2 * (median - np.median(np.log2(frames.f0[frames.f0 > 0] / 150)))
    seconds = np.flatnonzero(voiced) * HOP / RATE
    slope = 12 * _slope(seconds, octaves) / 30
    tilt = _db(frames.high[row][voiced].sum()) - _db(frames.low[row][voiced].sum())
    sound = _mean(frames.periodicity[row][voiced])
    sd = 4 * octaves.std()  # 12 semitones per octave, over 3
    return [median, rise, sd, min(2.0, max(-2.0, slope)), energy, (tilt + 12) / 8, share, sound, pace]


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _db(power: float) -> float:
    return 10 * math.log10(power + 1e-30)


def _log2_ratio(value: float, reference: float) -> float:
    """log2(value / reference), NaN unless both are positive."""
    return math.log2(value / reference) if value > 0 and reference > 0 else math.nan


def _span(speech: np.ndarray) -> int:
    """Frames from the first to the last speech frame, both included."""
    where = np.flatnonzero(speech)
    return int(where[-1] - where[0] + 1) if len(where) else 0


def _inside(frames: Frames) -> np.ndarray:
    """The change between the first and the last speech frame."""
    where = np.flatnonzero(frames.speech)
    return frames.change[where[0] : where[-1] + 1]


def _pauses(speech: np.ndarray) -> float:
    """Seconds of gaps between speech frames that last PAUSE_S or more."""
    gaps = np.diff(np.flatnonzero(speech)) - 1
    return float(gaps[gaps * HOP >= PAUSE_S * RATE].sum() * HOP / RATE)


# ---------------------------------------------------------------------------------------- from wave to frames


def analyse(wave: np.ndarray, rate: int = RATE) -> Frames:
    """What is measured every 10 ms of a wave (samples,)."""
    wave = resample(np.nan_to_num(np.asarray(wave, np.float64).reshape(-1)), rate, RATE)
    count = max(1, round(len(wave) / HOP))
    peak = np.abs(wave).max(initial=0.0)
    if len(wave) < HOP or peak < 1e-6:  # -120 dB: digital silence
        none = np.zeros(count)
        return Frames(none, none, none - 120, none, none, none, none > 0, none, -math.inf)
    total, low, high, *parts = _band_powers(wave / peak, count).T
    level = 10 * np.log10(total + 1e-12)  # -120 dB below the peak
    loud = float(np.percentile(level, 95))
    speech = level > loud - SILENCE_DB
    tilt = 10 * np.log10((high + 1e-12) / (low + 1e-12))
    f0, periodicity = _track_pitch(wave / peak, level - loud, tilt)
    gain = 20 * math.log10(peak)
    change = _change(np.stack(parts, 1), speech)
    return Frames(f0, periodicity, level + gain, tilt, low, high, speech, change, loud + gain)


def resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Band-limited resampling through the spectrum of the whole clip."""
    if rate == target or not len(wave):
        return wave
    length = max(1, round(len(wave) * target / rate))
    return np.fft.irfft(np.fft.rfft(wave), length) * (length / max(1, len(wave)))


def _windows(wave: np.ndarray, size: int, hop: int, count: int) -> np.ndarray:
    """(count, size) view of windows centred on the middle of each hop."""
    before = (size - hop) // 2
    padded = np.pad(wave, (before, size + hop * count))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count]


def _band_powers(wave: np.ndarray, count: int) -> np.ndarray:
    """Mean power above 60 Hz, in 80–1000 Hz, in 1–5 kHz, and in five bands from 60 Hz to 6 kHz: (F, 8)."""
    size = 400  # 25 ms
    shape = np.hanning(size)
    hertz = np.fft.rfftfreq(512, 1 / RATE)
    edges = ((60, RATE), (80, 1000), (1000, 5000), *itertools.pairwise((60, 300, 700, 1500, 3000, 6000)))
    bands = np.stack([(hertz > low) & (hertz <= high) for low, high in edges], 1)
    windows = _windows(wave, size, HOP, count)
    scale = 2 / (512 * (shape**2).sum())  # Parseval, one-sided
    blocks = [
        np.abs(np.fft.rfft(windows[start : start + BLOCK] * shape, 512)) ** 2 @ bands
        for start in range(0, count, BLOCK)
    ]
    return np.concatenate(blocks) * scale


def _change(parts: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """How fast the spectrum moves, (F,): the steps of `parts` (F, bands) in dB over each band's deviation."""
    levels = 10 * np.log10(parts + 1e-12)
    levels = np.maximum(levels, np.percentile(levels, 95, axis=0) - CHANGE_DEPTH)
    shape = np.hanning(7)[1:-1, None] / np.hanning(7).sum()
    padded = np.pad(levels, ((2, 2), (0, 0)), mode="edge")
    smooth = sum(padded[i : i + len(levels)] * shape[i] for i in range(5))
    where = np.flatnonzero(speech)
    deviation = smooth[where[0] : where[-1] + 1].std(0) + 0.1
    return (np.abs(np.diff(smooth, axis=0, prepend=smooth[:1])) / deviation).mean(1)


def _syllables(change: float) -> float:
    """Syllables per second from the mean change per frame."""
    return RATE_AT_ONE * change**RATE_POWER


# ------------------------------------------------------------------------------------------------------ pitch


def _track_pitch(wave: np.ndarray, level: np.ndarray, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 and correlation per frame, both (F,), 0 where unvoiced. `level` is dB against the loud frames."""
    hertz, strength = _candidates(_correlation(_for_pitch(wave), len(level)))  # (F, K)
    silent = np.clip((-level - SILENCE_DB + 6) / 6, 0, 2)
    hissing = np.clip((tilt - HISS_DB) / 10, 0, 1)  # a fricative; the band for pitch does not see its noise
    score = np.where(hertz > 0, strength - OCTAVE_COST * np.log2(F0_CEIL / np.maximum(hertz, 1)), -np.inf)
    hertz = np.concatenate([np.zeros((len(level), 1)), hertz], 1)  # column 0: unvoiced
    score = np.concatenate([(VOICING_THRESHOLD + silent + hissing)[:, None], score], 1)
    rows = np.arange(len(level))
    f0 = hertz[rows, _best_path(hertz, score)]
    if (f0 > 0).any():
        low, high = np.percentile(f0[f0 > 0], (25, 75))
        outside = (hertz > 0) & ((hertz < low * REGISTER[0]) | (hertz > high * REGISTER[1]))
        chosen = _best_path(hertz, np.where(outside, -np.inf, score))
        chosen[_short_runs(chosen > 0)] = 0
        f0 = hertz[rows, chosen]
        strength = strength[rows, np.maximum(chosen - 1, 0)]
        return f0, np.where(f0 > 0, strength, 0.0)
    return f0, np.zeros(len(f0))


def _short_runs(flags: np.ndarray) -> np.ndarray:
    """The true entries of (F,) in runs shorter than SHORTEST_RUN."""
    edges = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1)))
    starts, ends = edges[::2], edges[1::2]
    result = np.zeros(len(flags), bool)
    for start, end in zip(starts, ends, strict=True):
        result[start:end] = end - start < SHORTEST_RUN
    return result


def _for_pitch(wave: np.ndarray) -> np.ndarray:
    """50–1000 Hz with soft edges, at PITCH_RATE."""
    spectrum = np.fft.rfft(wave)
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    spectrum *= np.clip((hertz - 40) / 20, 0, 1) * np.clip((1300 - hertz) / 600, 0, 1)
    return np.fft.irfft(spectrum, len(wave))[:: RATE // PITCH_RATE]


def _correlation(wave: np.ndarray, count: int) -> np.ndarray:
    """Normalised cross-correlation (F, L); column 0 is the lag one sample below the shortest period."""
    shortest = int(PITCH_RATE / F0_CEIL) - 1
    longest = math.ceil(PITCH_RATE / F0_FLOOR) + 1
    hop = HOP * PITCH_RATE // RATE
    windows = _windows(wave, PITCH_WINDOW + longest, hop, count)
    lags = np.arange(shortest, longest + 1)
    weak = (1e-3 * PITCH_WINDOW * (wave**2).max()) ** 2  # keeps near-silence from correlating
    blocks = []
    for start in range(0, count, BLOCK):
        block = windows[start : start + BLOCK]
        whole = np.fft.rfft(block, 512)
        head = np.fft.rfft(block[:, :PITCH_WINDOW], 512)
        product = np.fft.irfft(np.conj(head) * whole, 512)[:, lags]
        sums = np.cumsum(np.pad(block**2, ((0, 0), (1, 0))), axis=1)
        energy = sums[:, lags + PITCH_WINDOW] - sums[:, lags]
        first = sums[:, PITCH_WINDOW]
        blocks.append(product / np.sqrt(first[:, None] * energy + weak))
    return np.concatenate(blocks)


def _candidates(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The strongest peaks of each row, placed by a parabola: hertz (0: none) and strength, both (F, K)."""
    left, middle, right = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    peak = (middle > left) & (middle >= right) & (middle > 0.2)
    ranked = np.where(peak, middle, -1.0)
    top = np.argpartition(-ranked, CANDIDATES, axis=1)[:, :CANDIDATES]
    found = np.take_along_axis(peak, top, 1)
    a, b, c = (np.take_along_axis(side, top, 1) for side in (left, middle, right))
    bend = np.where(found, a - 2 * b + c, -1.0)
    shift = np.where(found, 0.5 * (a - c) / bend, 0.0)
    lag = top + int(PITCH_RATE / F0_CEIL) + shift
    hertz = np.where(found, PITCH_RATE / lag, 0.0)
    return hertz, np.where(found, b - 0.25 * (a - c) * shift, 0.0)


def _best_path(hertz: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Viterbi: the column per row with the highest summed score less the cost of jumps, (F,)."""
    octave = np.log2(np.maximum(hertz, 1.0))
    is_voiced = hertz > 0
    both = is_voiced[:-1, :, None] & is_voiced[1:, None, :]  # (F-1, from, to)
    either = is_voiced[:-1, :, None] != is_voiced[1:, None, :]
    leap = np.abs(octave[:-1, :, None] - octave[1:, None, :])
    cost = np.where(both, JUMP_COST * leap, SWITCH_COST * either)
    best = score[0]
    came_from = np.zeros(score.shape, np.intp)
    for i in range(1, len(score)):
        reached = best[:, None] - cost[i - 1]
        came_from[i] = reached.argmax(0)
        best = reached.max(0) + score[i]
    path = np.empty(len(score), np.intp)
    path[-1] = best.argmax()
    for i in range(len(score) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path
