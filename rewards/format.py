"""The form of a completion: 1 if it is exactly the blocks that were asked for, else 0.

    <think> reasons </think> <answer> one word </answer>

As R1-Omni's format reward (arXiv 2503.05379): DeepSeek-R1's pattern, matched over the whole
completion. Ours is stricter where theirs has a hole: nested or repeated tags and a blank answer get 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omni.answer import parse_answer

Completion = str | Sequence[dict[str, Any]]  # text, or TRL's list of messages


def format_reward(completions: Sequence[Completion], **columns: object) -> list[float]:
    """1.0 for a well-formed completion with a thought, else 0.0.

    How it can be gamed: an empty thought of one word passes; the form says nothing about truth.

    >>> format_reward(["<think>A smile.</think><answer>happy</answer>", "<answer>happy</answer>", "happy"])
    [1.0, 0.0, 0.0]
    """
    parsed = [parse_answer(completion_text(completion)) for completion in completions]
    return [float(p.well_formed and p.thought != "") for p in parsed]


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
