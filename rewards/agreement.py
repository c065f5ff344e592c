"""Thought and answer: 1 if the emotion that the thought concludes with is the one that is answered.

    r = 1 if concluding_emotion(thought) = canonical(answer), else 0        range {0, 1}

The concluding emotion is the one that the last sentence with any emotion word names. Words are those of the label
space and their synonyms; a word that its clause denies ("not anger") names nothing, and a sentence that names two
emotions concludes nothing.

Columns: none; `labels` (optional), the label space; `think` (optional): None where no thought was asked for.

Source: the alignment reward of AffectGPT-R1 (arXiv 2508.01318) and the sentence verifier of ERV (arXiv 2510.23506),
with words instead of a classifier. Denials are read in English only.

How it is gamed: the label as the whole thought agrees with itself, and agreement is not truth. Shown by
`test_a_label_as_the_whole_thought_agrees`. To name every emotion, or to deny the answer, does not pay:
`test_a_conclusion_that_hedges_or_denies_does_not_agree`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from omni.answer import parse_answer
from omni.emotions import HEADS, LabelSpace, canonical
from omni.metrics import Labels

from .accuracy import label_spaces
from .format import Completion, completion_text, thoughts_asked

_SENTENCE = re.compile(r"[.!?;\n。！？；]+")
_CLAUSE = re.compile(r"[,:()\u2013\u2014、，：]|\b(?:and|but|while|yet|although|though|whereas|however)\b")
_NEGATION = re.compile(
    r"\b(?:no(?! doubt)|not(?! only| just)|never|none|neither|nor|without|lacks?|lacking|absence of|hardly|barely"
    r"|rather than|instead of|cannot)\b|n['\u2019]t\b"
)


def agreement_reward(
    completions: Sequence[Completion],
    labels: Sequence[Labels | None] | None = None,
    think: Sequence[bool | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """1.0 if the thought concludes with the emotion that is answered, else 0.0; None where no thought was asked for.

    >>> agreement_reward(["<think>The smile fades. This is sadness.</think><answer>sad</answer>"])
    [1.0]
    >>> agreement_reward(["<think>This is not sadness.</think><answer>sad</answer>", "<answer>sad</answer>"])
    [0.0, 0.0]
    """
    spaces, asked = label_spaces(labels, len(completions)), thoughts_asked(think, len(completions))
    return [
        _agreement(completion_text(completion), space) if wanted else None
        for completion, space, wanted in zip(completions, spaces, asked, strict=True)
    ]


def concluding_emotion(thought: str, space: LabelSpace) -> str | None:
    """The label that the last sentence with an emotion word names; None if there is none, or more than one.

    >>> from omni.emotions import label_space
    >>> ekman = label_space("ekman7")
    >>> concluding_emotion("The face fits joy. But the voice weighs more: anger, not fear. It is loud.", ekman)
    'angry'
    >>> concluding_emotion("This is anger or fear.", ekman) is None
    True
    """
    for sentence in reversed(_SENTENCE.split(thought.lower())):
        named = {label for clause in _CLAUSE.split(sentence) for label in _affirmed(clause, space)}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _agreement(text: str, space: LabelSpace) -> float:
    parsed = parse_answer(text)
    answer = canonical(parsed.label, space) if parsed.label is not None else None
    return float(answer is not None and concluding_emotion(parsed.thought, space) == answer)


def _affirmed(clause: str, space: LabelSpace) -> Iterator[str]:
    """The labels that a clause names before anything in it is denied."""
    denial = _NEGATION.search(clause)
    for match in _mentions(space).finditer(clause, 0, denial.start() if denial else len(clause)):
        label = canonical(match[0], space)
        if label is not None:
            yield label


@lru_cache(maxsize=64)
def _mentions(space: LabelSpace) -> re.Pattern[str]:
    """Matches the words of a space and their synonyms, long ones first, as whole words where a script has them."""
    words = {word for word in (*HEADS, *space.labels) if canonical(word, space) is not None}
    ranked = [re.escape(word) for word in sorted(words, key=len, reverse=True) if not _unspaced(word)]
    unspaced = [re.escape(word) for word in sorted(words, key=len, reverse=True) if _unspaced(word)]
    spaced = rf"(?<!\w)(?:{'|'.join(ranked)})(?!\w)"
    return re.compile("|".join([*unspaced, *([spaced] if ranked else [])]))


def _unspaced(word: str) -> bool:
    """Whether a word is of a script without case (Chinese, Japanese, Thai …), where words may touch."""
    return unicodedata.category(word[0]) == "Lo"
