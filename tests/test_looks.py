"""What an answer says of the fusion adapter: gates by modality, and where in time it looked."""

import json

import pytest
import torch

from omni.chat import Chat
from omni.features import encode_clip
from omni.fusion import MECHANISMS
from omni.fusion.placement import choose
from omni.generate import reason, reason_batch
from omni.label_table import decode_table, encode_table
from omni.tiny import tiny
from tests.clips import CLIPS
from tests.test_fusion import WIDTHS, make, streams

WEIGH_TIME = {
    "temporal_attention",
    "multimodal_attention",
    "pairwise_attention",
    "crossmodal_transformer",
    "dynamic_modality_attention",
    "composite_interaction",
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_attention_over_a_streams_own_steps_sums_to_one_where_it_is_there(name):
    features, times = streams()
    times["audio"] = times["audio"].clone()
    times["audio"][0] = torch.nan  # the first clip has no sound
    looks = make(name)(features, times).looks
    assert set(looks) == (set(WIDTHS) if name in WEIGH_TIME else set())
    for stream, weights in looks.items():
        assert weights.shape == times[stream].shape and (weights >= 0).all()
        assert (weights[times[stream].isnan()] == 0).all()
        there = (~times[stream].isnan()).any(1).float()
        torch.testing.assert_close(weights.sum(1), there)


def test_the_printed_form_of_recursion_says_where_it_looked():
    looks = make("recursive_joint_attention", form="time")(*streams()).looks
    assert set(looks) == set(WIDTHS)


def test_an_answer_tells_gates_by_modality_and_looks_in_seconds():
    model, processor = tiny(fusion="dynamic_modality_attention")
    answer = reason(model, processor, CLIPS[0], think=False, max_new_tokens=4)
    assert set(answer.gates) == {"video", "audio"} and sum(answer.gates.values()) == pytest.approx(1, abs=1e-3)
    assert {look.stream for look in answer.maps} == {"video", "audio", "prosody"}
    assert all(0 <= look.from_s < look.to_s <= answer.duration_s + 0.5 for look in answer.maps)
    row = json.loads(json.dumps(answer.to_dict()))
    assert row["maps"][0].keys() == {"stream", "from_s", "to_s", "weight"}


def test_a_clip_without_sound_has_no_gate_and_no_look_for_it():
    model, processor = tiny(fusion="dynamic_modality_attention")
    mute = encode_clip(model, processor, CLIPS[0]).mute()
    one, other = reason_batch(model, processor, [mute, CLIPS[0]], think=False, max_new_tokens=4)
    assert one.gates == {"video": 1.0, "audio": 0.0} and {look.stream for look in one.maps} == {"video"}
    assert other.gates["audio"] > 0


def test_models_without_gate_or_attention_say_so():
    answer = reason(*tiny(), CLIPS[0], think=False, max_new_tokens=4)
    assert answer.gates is None and answer.maps == ()


def test_a_residual_adapter_tells_its_own_and_a_chat_what_ask_tells():
    model, processor = tiny()
    choose(model, processor, "dynamic_modality_attention", "residual")
    asked = reason(model, processor, CLIPS[0], max_new_tokens=4)
    chat = Chat(model, processor, CLIPS[0], max_new_tokens=4)
    chat.ask()
    assert asked.gates and chat.turns[0].answer.gates == asked.gates and chat.turns[0].answer.maps == asked.maps


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_table_keeps_gates_and_looks(suffix):
    look = {"stream": "audio", "from_s": 0.5, "to_s": 0.6, "weight": 0.25}
    rows = [{"gates": {"video": 0.25, "audio": 0.75}, "maps": [look]}, {"gates": None, "maps": []}]
    found = decode_table(encode_table([{"clip": "a.mp4", "labels": None} | row for row in rows], suffix), suffix)
    assert [{"gates": row["gates"], "maps": row["maps"]} for row in found] == rows
