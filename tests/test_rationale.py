"""Written rationales: true of the clip, varied, short, and silent about a missing sense."""

from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from data.rationale import NOUNS, cue_onsets, write_rationale
from omni.cues.lexicon import CUES, claims
from omni.cues.truth import ClaimScore, claim_precision, cue_strength, cue_truth

FACES = {
    "neutral": (),
    "happy": ("AU6", "AU12", "AU25"),
    "sad": ("AU1", "AU4", "AU15", "AU17", "AU64"),
    "angry": ("AU4", "AU5", "AU7", "AU24"),
    "surprise": ("AU1", "AU2", "AU5", "AU26"),
    "fear": ("AU1", "AU2", "AU4", "AU5", "AU20"),
    "disgust": ("AU9", "AU10", "AU15", "AU17"),
}
VOICES = {  # pitch_st, range_log2, rate_log2, tilt_db
    "neutral": (0.0, 0.0, 0.0, 0.0),
    "happy": (8.0, 0.4, 0.0, 7.0),
    "sad": (-3.0, -0.5, -0.4, -4.0),
    "angry": (8.0, 0.3, 0.0, 11.0),
    "surprise": (9.0, 0.7, 0.0, 4.0),
    "fear": (5.0, -0.3, 0.2, 2.0),
    "disgust": (4.0, -0.2, -0.3, 4.0),
}
DELTAS = ("pitch_st", "range_log2", "rate_log2", "tilt_db")
SPREAD = (1.2, 0.3, 0.12, 2.0)
DISTRACTORS = ("AU2", "AU4", "AU7", "AU12", "AU15", "AU20", "AU26")


class Sample(NamedTuple):
    truth: dict
    label: str
    modalities: tuple
    conflict: dict | None
    text: str


def sample(rng) -> Sample:
    """A random clip's truth with dropped and stray cues, conflicts and missing senses, and its rationale."""
    label = face = voice = str(rng.choice(list(FACES)))
    conflict, modalities = None, ("video", "audio")
    if rng.random() < 0.25:
        voice = str(rng.choice([emotion for emotion in FACES if emotion != face]))
        conflict = {"face": face, "voice": voice, "winner": str(rng.choice(["face", "voice"]))}
        label = conflict[conflict["winner"]]
    elif rng.random() < 0.2:
        modalities = (str(rng.choice(modalities)),)
    units = {unit: rng.uniform(0.3, 1.2) for unit in FACES[face] if rng.random() < 0.65}
    units |= {unit: rng.uniform(0.1, 0.6) for unit in rng.choice(DISTRACTORS, rng.integers(3))}
    prosody = {name: mean + rng.normal(0, sd) for name, mean, sd in zip(DELTAS, VOICES[voice], SPREAD, strict=True)}
    measured = (units if "video" in modalities else None, prosody if "audio" in modalities else None)
    truth = cue_truth(*measured)
    text = write_rationale(
        truth, label, rng, intensities=cue_strength(*measured), times={name: rng.random() for name in truth},
        transcript="Kids are talking by the door.", modalities=modalities, conflict=conflict,
    )  # fmt: skip
    return Sample(truth, label, modalities, conflict, text)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [sample(rng) for _ in range(500)]


def test_what_is_written_is_true(samples):
    total = sum((claim_precision(s.text, s.truth) for s in samples), ClaimScore())
    assert total.precision >= 0.98
    assert total.uncheckable == 0
    assert total.total / len(samples) >= 2.0


def test_texts_are_short_and_rarely_repeat(samples):
    words = [len(s.text.split()) for s in samples]
    assert 20 <= np.mean(words) <= 45
    assert max(words) <= 60
    assert len({s.text for s in samples}) > 0.8 * len(samples)


def test_a_text_of_another_emotion_scores_clearly_lower(samples):
    def precision(pairs):
        return sum((claim_precision(text, truth) for text, truth in pairs), ClaimScore()).precision

    full = [s for s in samples if len(s.modalities) == 2 and not s.conflict]
    swapped = [(a.text, b.truth) for a, b in pairwise(full) if a.label != b.label]
    assert precision(swapped) < precision([(s.text, s.truth) for s in full]) - 0.3


def test_a_missing_sense_is_named_missing_and_nothing_is_claimed_of_it(samples):
    for s in samples:
        said = {claim.modality for claim in claims(s.text)}
        if s.modalities == ("video",):
            assert "voice" not in said
            assert "no sound" in s.text or "Nothing is heard" in s.text
        if s.modalities == ("audio",):
            assert "face" not in said
            assert "visible" in s.text or "no face" in s.text


def test_cues_of_a_sense_that_the_caller_switches_off_are_not_used():
    truth = cue_truth({"AU12": 0.9}, {"pitch_st": 4.0})
    for seed in range(50):
        text = write_rationale(truth, "happy", np.random.default_rng(seed), modalities=("audio",))
        assert {claim.modality for claim in claims(text)} == {"voice"}


def test_the_conclusion_names_the_label_last(samples):
    for s in samples:
        named = {noun: s.text.rfind(noun) for noun in NOUNS.values() if noun in s.text}
        assert max(named, key=named.get) == NOUNS[s.label], s.text


def test_nothing_is_felt_and_nobody_has_a_gender(samples):
    words = {word for s in samples for word in s.text.lower().replace(".", " ").replace(",", " ").split()}
    assert not words & {"feels", "feel", "he", "she", "his", "her", "man", "woman", "loud", "quiet"}


def test_the_same_state_of_chance_writes_the_same_text():
    truth = cue_truth({"AU4": 0.9, "AU24": 0.8, "AU7": 0.5}, {"pitch_st": 3.0})
    first, second = (write_rationale(truth, "angry", np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_where_little_is_true_little_is_said():
    truth = dict.fromkeys(CUES)  # everything in the unknown band
    for seed in range(50):
        assert claims(write_rationale(truth, "sad", np.random.default_rng(seed))) == []


def test_a_conflict_is_told_from_both_sides_and_resolved():
    truth = cue_truth({"AU12": 0.9, "AU6": 0.8}, {"pitch_st": -4.0, "range_log2": -0.8})
    conflict = {"face": "happy", "voice": "sad", "winner": "voice"}
    for seed in range(50):
        text = write_rationale(truth, "sad", np.random.default_rng(seed), conflict=conflict)
        assert "happiness" in text and "sadness" in text and " But " in text
        assert {claim.modality for claim in claims(text)} == {"face", "voice"}


def test_a_conflict_whose_winner_is_not_the_label_says_what_to_change():
    with pytest.raises(ValueError, match="Change the winner or the label"):
        write_rationale(
            {}, "sad", np.random.default_rng(0), conflict={"face": "happy", "voice": "sad", "winner": "face"}
        )


def test_a_resting_face_and_voice_are_called_neutral():
    truth = cue_truth({}, dict.fromkeys(DELTAS, 0.0))
    for seed in range(50):
        text = write_rationale(truth, "neutral", np.random.default_rng(seed))
        assert "neutral" in text
        assert {"face_still", "voice_plain"} <= {claim.cue for claim in claims(text)}


def test_time_words_follow_the_onsets():
    truth = cue_truth({"AU4": 0.9, "AU12": 0.9}, None)
    texts = [
        write_rationale(truth, "happy", np.random.default_rng(seed), times={"brow_down": 0.0, "smile": 0.8})
        for seed in range(100)
    ]
    timed = [text for text in texts if "From the start" in text]
    assert timed
    for text in timed:
        before, after = text.split(" towards the end ")
        assert [claim.cue for claim in claims(before)] == ["brow_down"]
        assert [claim.cue for claim in claims(after)] == ["smile"]


def test_intensity_words_follow_the_strength():
    truth = cue_truth({"AU12": 1.1}, None)
    texts = " ".join(
        write_rationale(truth, "happy", np.random.default_rng(seed), intensities=cue_strength({"AU12": 1.1}, None))
        for seed in range(100)
    )
    assert "strongly" in texts
    assert "slightly" not in texts and "clearly" not in texts


def test_a_denial_is_never_made_where_something_may_be_moving():
    truth = cue_truth({"AU12": 0.9, "AU2": 0.2}, None)  # the brows are in the unknown band
    for seed in range(200):
        denied = [
            claim
            for claim in claims(write_rationale(truth, "happy", np.random.default_rng(seed)))
            if claim.polarity < 0
        ]
        assert not {CUES[claim.cue].region for claim in denied} & {"brow", "mouth"}


def test_onsets_are_shares_of_the_clip():
    units = {"AU23": SimpleNamespace(onset=1.0), "AU24": SimpleNamespace(onset=0.5)}
    assert cue_onsets(units, 2.0) == {"lip_press": 0.25}
