"""The cue lexicon, its reader, and the truth of claims."""

import re

import pytest

from omni.cues.lexicon import CUES, claims, degree, spell
from omni.cues.truth import FACE_LIMITS, VOICE_LIMITS, ClaimScore, claim_precision, cue_strength, cue_truth

TEMPLATES = (
    "The {}.",
    "From the start, the {}, which suggests anger.",
    "Then the person's {} and towards the end it eases.",
    "There is no sound, but on screen the {}.",
    "By ear, the {}, while the words are neutral.",
)
QUIET_VOICE = {"pitch_st": 0.0, "range_log2": 0.0, "rate_log2": 0.0, "tilt_db": 0.0}
WRITTEN = [cue for cue in CUES.values() if cue.forms]


def read(text: str) -> set[tuple[str, int]]:
    return {(claim.cue, claim.polarity) for claim in claims(text)}


@pytest.mark.parametrize("cue", WRITTEN, ids=lambda cue: cue.name)
def test_every_phrase_reads_back_as_its_own_cue_and_no_other(cue):
    for polarity, forms in ((1, cue.forms), (-1, cue.denials)):
        for form in forms:
            for word in ("", "slightly", "clearly", "strongly"):
                for template in TEMPLATES:
                    text = template.format(spell(form, word))
                    assert read(text) == {(cue.name, polarity)}, text


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in WRITTEN for b in WRITTEN if a.name < b.name][::7])
def test_two_phrases_in_one_sentence_are_two_claims(first, second):
    text = f"The {first.phrases[0]}, the {second.phrases[-1]} and nothing more."
    assert {(first.name, 1), (second.name, 1)} == read(text), text


def test_phrases_are_short_and_no_two_cues_share_one():
    phrases = [phrase for cue in CUES.values() for phrase in cue.phrases]
    assert len(phrases) == len(set(phrases))
    assert all(2 <= len(phrase.split()) <= 6 for phrase in phrases)


def test_opposites_and_measures_are_known():
    for cue in CUES.values():
        assert cue.opposite is None or CUES[cue.opposite].opposite == cue.name
        known = r"AU\d+" if cue.modality == "face" else "|".join(VOICE_LIMITS)
        assert all(re.fullmatch(known, measure) for measure in cue.measures)
        assert not cue.forms or cue.measures, f"{cue.name} is written but cannot be checked"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is not smiling; his brows remain relaxed.", {("smile", -1), ("brow_down", -1)}),
        ("The brows aren't raised, but the eyes are wide.", {("brow_up", -1), ("eye_wide", 1)}),
        ("There is no frown, and a clear smile.", {("brow_down", -1), ("smile", 1)}),
        ("Her voice is neither loud nor fast.", {("loud", -1), ("fast", -1)}),
        ("A smile is absent.", {("smile", -1)}),
        ("The smile does not reach the eyes.", {("smile", 1)}),
        ("The voice isn't slow and is low.", {("slow", -1), ("pitch_low", 1)}),
        ("The pitch barely moves.", {("range_flat", 1)}),
        ("Not only are the brows raised, the jaw drops.", {("brow_up", 1), ("jaw_drop", 1)}),
    ],
)
def test_a_negation_turns_the_claims_of_its_own_clause_only(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The man's eyebrows are furrowed and his eyes are wide open, and his mouth is slightly open.",
            {"brow_down", "eye_wide", "jaw_drop"},
        ),
        (
            "At the beginning the person frowned, looking downwards, and his lips were tightly closed.",
            {"brow_down", "gaze_down", "lip_press"},
        ),
        (
            "The corners of her mouth turned up slightly, her eyes narrowed, and her cheeks lifted.",
            {"smile", "eye_narrow", "cheek_up"},
        ),
        (
            "The character speaks in a high-pitched and fast tone, with a raised voice.",
            {"pitch_high", "fast", "loud"},
        ),
        ("The tone is low and the pace is slow, with occasional pauses.", {"pitch_low", "slow", "pauses"}),
        ("A deep, flat voice with little variation; the words drag.", {"pitch_low", "range_flat", "slow"}),
        ("With wide eyes and raised eyebrows, the woman seems shocked.", {"eye_wide", "brow_up"}),
        ("The nose wrinkles and the upper lip curls in disgust.", {"nose_wrinkle", "lip_up"}),
        ("The brows are raised and drawn together.", {"brow_up", "brow_down"}),
        ("The brows are lifted at the inner corners.", {"brow_inner_up"}),
        ("The mouth forms a frown.", {"lip_down"}),
        ("He speaks at a normal pace with an even tone.", {"pace_plain", "voice_plain"}),
        ("Overall this points to anger, not to a neutral state.", set()),
    ],
)
def test_free_wording_is_understood(text, expected):
    assert read(text) == {(cue, 1) for cue in expected}


def test_a_cue_said_twice_counts_once():
    assert len(claims("The brows are furrowed. A frown line shows, and the eyebrows are drawn together.")) == 1


def test_claims_know_their_sense_and_sentence():
    first, second = claims("The jaw drops. Then the pitch is high.")
    assert (first.modality, first.sentence) == ("face", "The jaw drops.")
    assert (second.modality, second.sentence) == ("voice", "Then the pitch is high.")


def test_between_the_limits_a_face_cue_is_unknown():
    values = (
        FACE_LIMITS.absent,
        (FACE_LIMITS.absent + FACE_LIMITS.present) / 2,
        FACE_LIMITS.present,
        float("nan"),
    )
    assert [cue_truth({"AU12": value}, None)["smile"] for value in values] == [False, None, True, None]


@pytest.mark.parametrize(
    ("up", "down", "rest", "delta"),
    [("pitch_high", "pitch_low", "pitch_plain", "pitch_st"), ("fast", "slow", "pace_plain", "rate_log2")],
)
def test_a_voice_that_moved_one_way_did_not_move_the_other(up, down, rest, delta):
    present, absent = VOICE_LIMITS[delta].present, VOICE_LIMITS[delta].absent
    for value, expected in {
        present: (True, False, False),
        -present: (False, True, False),
        0.0: (False, False, True),
        (present + absent) / 2: (None, False, None),
    }.items():
        truth = cue_truth(None, {**QUIET_VOICE, delta: value})
        assert (truth[up], truth[down], truth[rest]) == expected


def test_a_face_is_still_only_if_no_action_unit_moves():
    assert cue_truth({}, None)["face_still"] is True
    assert cue_truth({"AU9": 0.2}, None)["face_still"] is None
    assert cue_truth({"AU9": 0.2, "AU4": 0.5}, None)["face_still"] is False


def test_closed_lips_cannot_be_told_from_speech():
    assert cue_truth({}, None)["lips_part"] is None
    assert cue_truth({"AU26": 0.8}, None)["lips_part"] is True


def test_cues_of_a_sense_that_the_clip_lacks_are_not_in_its_truth():
    senses = lambda truth: {CUES[name].modality for name in truth}  # noqa: E731
    assert senses(cue_truth({}, None)) == {"face"}
    assert senses(cue_truth(None, QUIET_VOICE)) == {"voice"}
    assert cue_truth(None, None) == {}


def test_strength_is_counted_in_thresholds_and_named_by_a_word():
    strength = cue_strength(
        {"AU4": 2 * FACE_LIMITS.present, "AU1": 0.2},
        {"pitch_st": -3 * VOICE_LIMITS["pitch_st"].present, "tilt_db": float("nan")},
    )
    assert strength == {"brow_down": pytest.approx(2.0), "pitch_low": pytest.approx(3.0)}
    assert [degree(value) for value in (0.9, 1.0, 2.0, 3.0)] == ["", "slightly", "clearly", "strongly"]


def test_a_text_is_scored_claim_by_claim():
    truth = cue_truth({"AU4": 0.8, "AU12": 0.2}, QUIET_VOICE)
    score = claim_precision("The brows are lowered, the eyes widen, the lips smile and the voice is loud.", truth)
    assert score == ClaimScore(supported=1, contradicted=1, uncheckable=2)
    assert (score.total, score.precision) == (4, 0.5)


def test_a_claim_about_a_missing_sense_is_contradicted_even_if_nobody_could_check_it():
    mute = cue_truth({"AU4": 0.8}, None)
    assert claim_precision("The brows are lowered and the voice is loud.", mute).contradicted == 1
    assert claim_precision("The voice is not fast.", mute).contradicted == 1
    assert claim_precision("There is no sound.", mute) == ClaimScore()


def test_scores_add_up_over_a_corpus_and_no_claim_has_no_precision():
    total = sum([ClaimScore(3, 1, 2), ClaimScore(1, 0, 0)], ClaimScore())
    assert (total, total.precision) == (ClaimScore(4, 1, 2), 0.8)
    assert ClaimScore().precision is None


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("The expression is not neutral.", ("face_still", -1)),
        ("The face isn't blank.", ("face_still", -1)),
        ("The face barely moves.", ("face_still", 1)),
        ("The brows are not relaxed.", ("brow_down", 1)),
        ("The brows stay relaxed.", ("brow_down", -1)),
        ("His mouth is not closed.", ("jaw_drop", 1)),
        ("The voice is not relaxed.", ("tone_sharp", 1)),
    ],
)
def test_a_denial_can_be_denied(text: str, claim: tuple[str, int]) -> None:
    assert [(one.cue, one.polarity) for one in claims(text)] == [claim]
