"""The form of a completion: 1 if it is exactly the blocks that were asked for, else 0.

    <think> reasons </think> <answer> one word </answer>

    r = 1 if well-formed and (has a thought) = (a thought was asked for), else 0        range {0, 1}

Columns: `think` (optional), whether a thought was asked for; True if it is not given.

Source: R1-Omni's format reward (arXiv 2503.05379): DeepSeek-R1's pattern, matched over the whole completion.
Ours is stricter where theirs has a hole: nested or repeated tags and a blank answer get 0.

How it is gamed: a thought of one word passes, and so does any word as the answer; the form says nothing about
truth. Shown by `test_a_thought_of_one_word_has_good_form` and `test_tags_that_are_nested_or_doubled_have_bad_form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omni.answer import parse_answer

Completion = str | Sequence[dict[str, Any]]  # text, or TRL's list of messages


def format_reward(
    completions: Sequence[Completion], think: Sequence[bool | None] | None = None, **columns: object
) -> list[float | None]:
    """1.0 for a completion in the form that was asked for, else 0.0; see above for how it is gamed.

    Args:
        think: whether each prompt asked for a thought; one that was not asked for is bad form.

    >>> format_reward(["<think>A smile.</think><answer>happy</answer>", "<answer>happy</answer>", "happy"])
    [1.0, 0.0, 0.0]
    >>> format_reward(["<answer>happy</answer>"], think=[False])
    [1.0]
    """
    parsed = [parse_answer(completion_text(completion)) for completion in completions]
    asked = thoughts_asked(think, len(completions))
    return [float(p.well_formed and (p.thought != "") == a) for p, a in zip(parsed, asked, strict=True)]


def thoughts_asked(think: Sequence[bool | None] | None, count: int) -> list[bool]:
    """Whether a thought was asked for, for each of `count` completions: yes, unless the column says no.

    >>> thoughts_asked(None, 2), thoughts_asked([False, None], 2)
    ([True, True], [False, True])
    """
    return [True] * count if think is None else [asked is None or bool(asked) for asked in think]


def completion_text(completion: Completion) -> str:
    """The text of a completion, which TRL gives as it is or, for chat prompts, as a list of messages.

    >>> completion_text([{"role": "assistant", "content": "<answer>sad</answer>"}])
    '<answer>sad</answer>'
    """
    if isinstance(completion, str):
        return completion
    contents = [message["content"] for message in completion]
    return "".join(
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        for content in contents
    )
