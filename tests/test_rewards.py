"""Rewards: pure, ranged, and the same judge as evaluation."""

from __future__ import annotations

import pytest

from omni.answer import format_answer
from omni.errors import LabelError
from omni.metrics import score_answer
from rewards.accuracy import accuracy_reward
from rewards.format import completion_text, format_reward

COMPLETIONS = [
    format_answer("happy", "The lip corners are raised."),
    format_answer("happy"),
    "happy",
    "",
    "<think>a</think><answer>sad</answer> and more",
]


def test_the_format_reward_wants_a_thought_and_nothing_around_it() -> None:
    assert format_reward(COMPLETIONS) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_accuracy_reward_is_the_score_of_the_evaluation() -> None:
    truth = ["happy"] * len(COMPLETIONS)
    want = [float(score_answer("happy", completion, "ekman7").label_right) for completion in COMPLETIONS]
    assert accuracy_reward(COMPLETIONS, label=truth) == want == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_clip_without_a_label_has_no_accuracy() -> None:
    assert accuracy_reward(COMPLETIONS[:1], label=[None]) == [None]


def test_a_wrong_label_in_the_data_stops_training_instead_of_rewarding_nothing() -> None:
    with pytest.raises(LabelError):
        accuracy_reward(COMPLETIONS[:1], label=["bored"])


def test_each_completion_may_have_its_own_label_space() -> None:
    completions = [format_answer("calm"), format_answer("calm")]
    got = accuracy_reward(completions, label=["calm", "neutral"], labels=["ravdess8", "ekman7"])
    assert got == [1.0, 0.0]


@pytest.mark.parametrize("reward", [format_reward, accuracy_reward])
def test_chat_completions_are_judged_as_text_and_other_columns_do_not_disturb(reward) -> None:
    columns = {
        "label": ["happy"] * len(COMPLETIONS),
        "clip": ["a.mp4"] * len(COMPLETIONS),
        "trainer_state": None,
    }
    chats = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in COMPLETIONS]
    assert reward(COMPLETIONS, **columns) == reward(chats, **columns) == reward(parts, **columns)
    assert [completion_text(chat) for chat in chats] == COMPLETIONS


@pytest.mark.parametrize("reward", [format_reward, accuracy_reward])
def test_no_completions_give_no_rewards(reward) -> None:
    assert reward([], label=[]) == []
