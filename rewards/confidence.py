"""The confidence of a completion: a proper log score on the probability that it states.

    <think>The brows are lowered. This points to anger. Confidence: 0.80.</think><answer>angry</answer>

The confidence c stands in the thought, so that the form stays what `omni/answer.py` asks for; a number beside the
answer would be no label. One sentence, once: "Confidence: " and a number from 0 to 1, or per cent. `REQUEST` asks for
it, and belongs in the question.

    r = 0.2 · (1 + log2 c)        if the answer is right                range [-1.13, 0.20]
    r = 0.2 · (1 + log2 (1 - c))  if it is wrong                        c is clipped to [0.01, 0.99]

A coin's confidence, 0.5, earns 0. Stating the true probability is best (the score is proper), and always at least 0.
A completion that states no confidence, two, or no number from 0 to 1 earns the least, -1.13: if it earned 0, the
unsure would keep silent.

Columns: `label` and, optionally, `labels`, as for accuracy; `think` (optional). None for a clip without a label, and
where no thought was asked for.

Source: EmoCaliber (arXiv 2512.15528) uses the log score, RLCR (arXiv 2507.16806) shows why it must be bounded.

How it is gamed: a wrong answer on purpose with confidence 0 is well calibrated and earns the most. Hence the factor
0.2: with accuracy beside it at the same weight, that never pays in a space of up to eleven labels. Shown by
`test_a_knowingly_wrong_answer_earns_as_much_as_a_right_one` and
`test_beside_accuracy_a_wrong_answer_on_purpose_never_pays`; silence, boasting and hedging by
`test_no_stated_confidence_earns_the_least` and `test_the_true_probability_is_the_best_to_state`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from omni.answer import parse_answer
from omni.metrics import Labels

from .accuracy import accuracy_reward
from .format import Completion, completion_text, thoughts_asked

REQUEST = 'End the thinking with "Confidence: " and the probability that your answer is right, from 0 to 1.'
SCALE = 0.2  # at most min over p >= 1/11 of p / H(p) = 0.207, H the entropy in bits of a coin of probability p
SUREST = 0.99  # a log score without a bound would let one sure mistake outweigh a whole batch
LEAST = SCALE * (1 + math.log2(1 - SUREST))

_STATED = re.compile(
    r"\bconfidence(?:\s(?:is|of))?\s{0,2}[:=]?\s{0,2}(\d{1,3}(?:[.,]\d{1,6})?|[.,]\d{1,6})(?!\d)\s?(%?)",
    re.IGNORECASE,
)


def confidence_reward(
    completions: Sequence[Completion],
    label: Sequence[str | None],
    labels: Sequence[Labels | None] | None = None,
    think: Sequence[bool | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """The log score of the stated confidence, in [-1.13, 0.20]; None without a label or where no thought was asked.

    Raises:
        LabelError: a true label that is not in its label space.

    >>> completion = "<think>Confidence: 0.9.</think><answer>{}</answer>"
    >>> rewards = confidence_reward([completion.format("sad"), completion.format("happy")], label=["sad", "sad"])
    >>> [round(reward, 3) for reward in rewards]
    [0.17, -0.464]
    """
    right = accuracy_reward(completions, label=label, labels=labels)
    asked = thoughts_asked(think, len(completions))
    return [
        None if hit is None or not wanted else _log_score(stated_confidence(completion_text(completion)), hit > 0)
        for completion, hit, wanted in zip(completions, right, asked, strict=True)
    ]


def state_confidence(probability: float) -> str:
    """The sentence that states a confidence; `stated_confidence` is the inverse, to two digits.

    >>> state_confidence(0.8)
    'Confidence: 0.80.'
    """
    return f"Confidence: {probability:.2f}."


def stated_confidence(completion: str) -> float | None:
    """The probability that a completion's thought states, in [0, 1]; None if there is none, or more than one.

    >>> stated_confidence("<think>A smile. Confidence: 80 %.</think><answer>happy</answer>")
    0.8
    >>> stated_confidence("<think>A smile.</think><answer>happy</answer> Confidence: 0.8") is None
    True
    """
    found = _STATED.findall(parse_answer(completion).thought)
    if len(found) != 1:
        return None
    number, percent = found[0]
    value = float(number.replace(",", ".")) / (100 if percent else 1)
    return value if value <= 1 else None


def _log_score(stated: float | None, right: bool) -> float:
    if stated is None:
        return LEAST
    confidence = min(max(stated, 1 - SUREST), SUREST)
    return SCALE * (1 + math.log2(confidence if right else 1 - confidence))
