"""Answers from a random model: what must hold whatever the weights."""

import math

import pytest
import torch

from omni.answer import parse_answer
from omni.emotions import EKMAN7, label_space
from omni.errors import LabelError, ModelError
from omni.features import encode_clip
from omni.fusion import FUSIONS
from omni.generate import (
    answer_head,
    answer_of,
    ask_text,
    build_inputs,
    rate_labels,
    reason,
    reason_batch,
    score_labels,
    stream,
)
from omni.looks import Looks
from omni.tiny import tiny
from tests.clips import CLIPS, make_clip


@pytest.fixture(scope="module")
def parts():
    return tiny()


def test_every_answer_has_a_probability_for_every_label(parts):
    answer = reason(*parts, CLIPS[0], labels="angry,calm,happy", max_new_tokens=4)
    assert list(answer.labels) == ["angry", "calm", "happy"]
    assert math.isclose(sum(answer.labels.values()), 1.0, abs_tol=1e-5)
    assert answer.label == max(answer.labels, key=answer.labels.__getitem__)
    assert answer.confidence == answer.labels[answer.label]


def test_a_batch_answers_each_clip_as_alone(parts):
    together = reason_batch(*parts, CLIPS, max_new_tokens=12)
    for clip, answer in zip(CLIPS, together, strict=True):
        alone = reason(*parts, clip, max_new_tokens=12)
        assert (alone.text, alone.label, alone.modalities) == (answer.text, answer.label, answer.modalities)
        assert all(abs(alone.labels[name] - p) < 1e-4 for name, p in answer.labels.items())


def test_label_scores_are_the_probabilities_of_whole_continuations(parts):
    model, processor = parts
    clips = [encode_clip(model, processor, clip) for clip in CLIPS[:2]]
    space, heads = label_space("angry,happy,sad"), ["<answer>", "<think>A smile, and a voice.</think>\n<answer>"]
    texts = [ask_text(processor, clips[0], "", space, think=False), ask_text(processor, clips[1], "Why?", space, True)]
    shared = score_labels(model, processor, build_inputs(model, processor, clips, texts), heads, space)
    for clip, text, head, found in zip(clips, texts, heads, shared, strict=True):
        logs = []
        for name in space.labels:
            inputs = build_inputs(model, processor, [clip], [text])
            ids = torch.tensor([processor.tokenizer(f"{head}{name}</answer>").input_ids])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            count = len(processor.tokenizer(f"{name}</answer>").input_ids)
            with torch.no_grad():
                steps = model(**inputs).logits[0, :-1].log_softmax(-1)
            logs.append(steps.gather(-1, inputs["input_ids"][0, 1:, None])[-count:].sum())
        naive = torch.stack(logs).softmax(0)
        torch.testing.assert_close(torch.tensor(list(found.values())), naive, atol=1e-5, rtol=0)


@pytest.mark.parametrize("on_a_processor", [True, False])
def test_how_likely_labels_are_is_asked_before_the_thought_and_which_it_is_after_it(parts, monkeypatch, on_a_processor):
    monkeypatch.setattr("omni.generate.can_roll_out", lambda _: on_a_processor)
    model, processor = parts
    clips, space = [encode_clip(model, processor, clip) for clip in CLIPS], label_space(EKMAN7)
    for clip, answer in zip(clips, reason_batch(*parts, clips, max_new_tokens=9), strict=True):
        inputs = build_inputs(model, processor, [clip], [ask_text(processor, clip, None, space, True)])
        before = score_labels(model, processor, inputs, ["<answer>"], space)[0]
        torch.testing.assert_close(list(answer.labels.values()), list(before.values()), atol=1e-5, rtol=0)
        head = answer_head(parse_answer(answer.text), answer.text, think=True)  # in which no label is written
        after = score_labels(model, processor, inputs, [head], space)[0]
        assert after[answer.label] == pytest.approx(max(after.values()), abs=1e-5)
        assert answer.confidence == answer.labels[answer.label]


def test_a_thought_that_leads_elsewhere_gives_an_unlikely_label(parts, monkeypatch):
    scores = {"<answer>": {"happy": 0.7, "sad": 0.3}, "<think>Tears.</think>\n<answer>": {"happy": 0.1, "sad": 0.9}}
    monkeypatch.setattr("omni.generate.score_labels", lambda *given: [scores[head] for head in given[3]])
    model, processor = parts
    clip, space = encode_clip(model, processor, CLIPS[0]), label_space("happy,sad")
    head = "<think>Tears.</think>\n<answer>"
    for written in ("sadness", "blue", ""):  # a synonym; no label of the space: the most probable after the thought
        text = f"{head}{written}</answer>" if written else head
        rated = rate_labels(model, processor, [], [head], [parse_answer(text)], space, True)[0]
        answer = answer_of(clip, text, head, parse_answer(text), rated, space, Looks())
        assert (answer.label, answer.confidence, answer.labels) == ("sad", 0.3, {"happy": 0.7, "sad": 0.3})
    assert rate_labels(model, processor, [], ["<answer>"], [parse_answer("sad")], space, False)[0].label == "happy"


def test_more_answers_than_are_written_at_once_are_those_of_each_alone(parts, monkeypatch):
    monkeypatch.setattr("omni.generate.TOGETHER", 2)
    options = {"max_new_tokens": 7, "temperature": 1.0, "seed": 3}
    together = reason_batch(*parts, CLIPS, **options)
    assert [a.text for a in together] == [reason(*parts, clip, **options).text for clip in CLIPS]


def test_what_is_missing_is_said_to_the_model_and_to_the_user(parts):
    mute = make_clip(1.0, 7, sound=False)
    answer = reason(*parts, mute, max_new_tokens=2)
    assert answer.modalities == ("video",) and answer.transcript is None
    text = ask_text(parts[1], encode_clip(*parts, mute), "Why?", label_space(EKMAN7), think=True)
    assert text.startswith("The clip has picture only.")


def test_streaming_gives_the_text_of_the_answer(parts):
    whole = reason(*parts, CLIPS[0], max_new_tokens=10).text
    assert "".join(stream(*parts, CLIPS[0], max_new_tokens=10)).strip() == whole


def test_well_formed_is_what_the_model_wrote_unless_constrained_on_request(parts):
    free = reason(*parts, CLIPS[0], max_new_tokens=4)
    assert not free.well_formed  # random weights
    forced = reason(*parts, CLIPS[0], max_new_tokens=4, constrain=True)
    assert forced.well_formed and "constrained" in forced.warnings
    assert parse_answer(forced.text).label == forced.label


def test_the_same_seed_samples_the_same_text(parts):
    one, two, other = (reason(*parts, CLIPS[0], max_new_tokens=8, temperature=1.0, seed=s).text for s in (1, 1, 2))
    assert one == two and one != other


def test_nan_raises_with_advice():
    model, processor = tiny()
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="bfloat16"):
        inputs = build_inputs(model, processor, [encode_clip(model, processor, CLIPS[0])], ["?"])
        score_labels(model, processor, inputs, ["<answer>"], label_space(EKMAN7))


def test_an_unknown_label_space_is_refused_by_name(parts):
    with pytest.raises(LabelError, match="ekman7"):
        reason(*parts, CLIPS[0], labels="no_such_space")


def test_the_head_of_an_answer_keeps_the_thought():
    text = "<think>A smile.</think><answer>happy"
    assert answer_head(parse_answer(text), text, think=True) == "<think>A smile.</think>\n<answer>"


def test_a_face_tower_and_a_transcript_go_the_same_way():
    model, processor = tiny("face", transcribe=True)
    answers = reason_batch(model, processor, CLIPS, max_new_tokens=3)
    assert [a.modalities for a in answers] == [("audio",), (), ("audio",), ("audio",)]  # noise shows no face
    assert "no_face" in answers[0].warnings and "no_face" not in answers[2].warnings


def test_a_face_unlike_the_training_set_is_warned_of_and_its_detail_left_aside():
    model, processor = tiny()
    options = {k: v for k, v in model.config.fusion.items() if k != "name"}
    fusion = FUSIONS["concat"](
        model.config.stream_widths, model.config.text_config.hidden_size, gated=["video"], **options
    )
    model.model.fusion = fusion.eval()
    known, strange = [], []
    for limit, out in ((float("inf"), known), (-1.0, strange)):
        fusion.video_limit.fill_(limit)
        out += reason_batch(model, processor, CLIPS, max_new_tokens=2)
    assert [a.warnings for a in known] == [()] * 4
    assert [a.warnings for a in strange] == [("unfamiliar_face",), ("unfamiliar_face",), (), ("unfamiliar_face",)]
    assert strange[2].labels == known[2].labels and strange[0].labels != known[0].labels
