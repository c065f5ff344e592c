"""The receipt of an answer: conditions, shares, claims and thinking, on a random model where weights do not matter."""

import json
import math
from dataclasses import replace

import pytest
import torch

from omni.answer import Answer
from omni.emotions import EKMAN7, label_space
from omni.evidence import Evidence
from omni.faithfulness import (
    TWICE,
    Agreement,
    Conflict,
    Receipt,
    conditions,
    conflict,
    contrary,
    neutral_person,
    receipt_of,
    shares,
    told,
)
from omni.features import encode_clip
from omni.generate import ask_text, build_inputs, score_labels
from omni.tiny import tiny
from tests.clips import CLIPS

THOUGHT = "The mouth smiles. The pitch is high."
CLAIMS = (
    Evidence("The mouth smiles.", "face", "smile", 1, "supported", 0.0, 1.0),
    Evidence("The pitch is high.", "voice", "pitch_high", 1, "contradicted"),
)


@pytest.fixture(scope="module")
def parts():
    return tiny()


@pytest.fixture(scope="module")
def clip(parts):
    encoded = (encode_clip(*parts, one) for one in CLIPS)
    return next(one for one in encoded if one.modalities == ("video", "audio"))


def answered(clip) -> Answer:
    labels = dict.fromkeys(label_space(EKMAN7).labels, 0.05) | {"happy": 0.7}
    return Answer("happy", 0.7, labels, THOUGHT, "", True, clip.modalities, evidence=CLAIMS)


def test_each_condition_has_the_probabilities_that_the_changed_clip_has_alone(parts, clip) -> None:
    found = receipt_of(*parts, clip, answered(clip)).conditions
    assert list(found) == ["full", "muted", "blind", "swapped", "shuffled"]
    changed = {"full": clip, "muted": clip.mute(), "blind": clip.blind(), "shuffled": clip.shuffled()}
    for name, one in changed.items():
        text = ask_text(parts[1], one, None, label_space(EKMAN7), False)
        alone = score_labels(*parts, build_inputs(*parts, [one], [text]), ["<answer>"], label_space(EKMAN7))[0]
        torch.testing.assert_close(list(found[name].values()), list(alone.values()), atol=1e-4, rtol=0)


def test_what_a_clip_does_not_have_is_not_taken_from_it(clip) -> None:
    assert list(conditions(clip.mute(), clip)) == ["full", "blind", "shuffled"]
    assert list(conditions(clip.blind(), None)) == ["full", "muted"]
    assert "no_transcript" in conditions(replace(clip, transcript="Well."), None)


def test_shuffling_keeps_the_frames_and_their_times_but_not_their_order(clip) -> None:
    before, after = clip.features["video"], clip.shuffled().features["video"]
    assert not torch.equal(before, after)
    torch.testing.assert_close(before.sort(0).values, after.sort(0).values)
    torch.testing.assert_close(clip.times["video"], clip.shuffled().times["video"])


def test_the_sense_whose_removal_costs_the_answer_has_the_share() -> None:
    found = {"full": {"sad": 0.8}, "muted": {"sad": 0.4}, "blind": {"sad": 0.1}}
    assert shares(found, "sad") == pytest.approx({"video": 0.75, "audio": 0.25})
    assert shares({"full": {"sad": 0.2}, "muted": {"sad": 0.5}}, "sad") == {"audio": 0.0}


def test_a_conflict_names_both_sides_and_the_winner() -> None:
    found = {"muted": {"sad": 0.9, "happy": 0.1}, "blind": {"sad": 0.2, "happy": 0.8}}
    assert conflict(found, "happy") == Conflict("sad", "happy", "audio")
    assert conflict(found, "fear") == Conflict("sad", "happy", None)
    assert conflict({"muted": found["muted"], "blind": found["muted"]}, "sad") is None


def test_a_claim_is_tried_by_how_likely_its_words_are_with_a_neutral_person(parts, clip) -> None:
    model, processor = parts
    clip = replace(clip, transcript="Well.")
    found, other = receipt_of(*parts, clip, answered(clip)).claims, neutral_person(*parts, clip)
    head, logs = "<think>" + THOUGHT, []
    swapped = replace(clip.with_sound_of(other), transcript="Well.")
    for one in (clip, clip.with_picture_of(other), swapped):
        inputs = build_inputs(*parts, [one], [ask_text(processor, one, None, label_space(EKMAN7), True)])
        ids = torch.tensor([processor.tokenizer(head).input_ids])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            steps = model(**inputs).logits[0, -ids.shape[1] - 1 : -1].log_softmax(-1).gather(-1, ids[0][:, None])
        logs.append(steps[:, 0])
    first, second = (head.index(words) for words in ("smiles", "pitch is high"))  # the tiny model spells
    smile, pitch = slice(first, first + len("smiles")), slice(second, second + len("pitch is high"))
    assert [one.cue for one in found] == ["smile", "pitch_high"]
    assert found[0].drop == pytest.approx(float((logs[0] - logs[1])[smile].sum()), abs=1e-3)
    assert found[1].drop == pytest.approx(float((logs[0] - logs[2])[pitch].sum()), abs=1e-3)
    assert [one.survives for one in found] == [one.drop >= TWICE for one in found]


def test_only_claims_about_senses_that_the_clip_has_are_tried(parts, clip) -> None:
    mute, blind = clip.mute(), clip.blind()
    assert [one.cue for one in receipt_of(*parts, mute, answered(mute)).claims] == ["smile"]
    assert [one.cue for one in receipt_of(*parts, blind, answered(blind)).claims] == ["pitch_high"]
    assert receipt_of(*parts, mute.blind(), answered(clip)).claims == ()


def test_the_picture_of_another_clip_comes_without_its_words(clip) -> None:
    other = replace(clip, transcript="Well.", features=dict.fromkeys(clip.features, torch.zeros(1, 1)))
    seen = clip.with_picture_of(other)
    assert seen.modalities == clip.modalities and seen.transcript == clip.transcript
    assert seen.features["video"].shape == (1, 1) and seen.features["audio"] is clip.features["audio"]
    assert clip.with_picture_of(other.blind()).modalities == ("audio",)


def test_thinking_is_compared_with_none_and_with_its_contrary(parts, clip) -> None:
    found, space = receipt_of(*parts, clip, answered(clip)), label_space(EKMAN7)
    one, text = found.agreement, ask_text(parts[1], clip, None, space, True)
    after = [
        score_labels(*parts, build_inputs(*parts, [clip], [text]), [f"<think>{thought}</think>\n<answer>"], space)[0]
        for thought in (THOUGHT, contrary(CLAIMS))
    ]
    assert one is not None and one.without_thinking == found.conditions["full"]["happy"]
    assert one.with_thinking == pytest.approx(after[0]["happy"], abs=1e-5)
    assert one.contrary_thinking == pytest.approx(after[1]["happy"], abs=1e-5)
    assert one.follows == (math.log(one.with_thinking) - math.log(one.contrary_thinking) >= TWICE)
    assert receipt_of(*parts, clip, replace(answered(clip), thought="", evidence=())).agreement is None


def test_a_receipt_is_json_and_reads_as_one_block() -> None:
    found = {"full": {"sad": 0.8, "happy": 0.2}, "muted": {"sad": 0.1, "happy": 0.9}}
    agreement = Agreement("happy", 0.9, 0.8, 0.2, False, True)
    receipt = Receipt("sad", found, {"audio": 1.0}, Conflict("happy", "sad", "audio"), (), agreement)
    assert json.loads(json.dumps(receipt.to_dict()))["conflict"]["winner"] == "audio"
    assert told(receipt).splitlines() == [
        "receipt of the answer sad",
        "  full           sad 0.80",
        "  muted          happy 0.90, sad 0.10",
        "  share: sound 1.00",
        "  conflict: the picture alone says happy, the sound alone sad; the sound won",
        "  thinking: 0.90 with it, 0.80 without, 0.20 after its contrary; at once the answer is happy and follows it",
    ]
