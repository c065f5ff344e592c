"""An open vocabulary: the answer's words against the true ones, on emotion wheels, as precision and recall.

    precision, recall = omni.metrics.wheel_score(true words, answered words)        range [0, 1] each

How sectors are counted, and which holes that closes, is said in `omni/metrics.py`; evaluation calls it too. An answer
is a list of words ("angry, anxious and sad"); a phrase ("a bit angry") is a word that we do not know.

Columns: `openset`, the true words, as a list or as text with commas; None where there are none.

Source: the emotion-wheel metric of MER2025 and AffectGPT (arXiv 2501.16566), as a reward with a list-length penalty in
AffectGPT-R1 (arXiv 2508.01318), and split into two rewards, to be normalised apart, in MER-R1 (arXiv 2606.27652; TRL:
`multi_objective_aggregation="normalize_then_sum"`).

How it is gamed: the most frequent word earns its share, as in accuracy: `test_the_commonest_word_earns_its_share`.
Closed: `test_one_word_for_every_sector_earns_less_than_one_right_word`, `test_synonyms_do_not_pad_a_list_for_free`,
`test_unknown_words_are_not_free` and `test_two_guesses_earn_less_than_the_likelier_one`.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni.answer import parse_answer
from omni.emotions import Words
from omni.metrics import WheelScore, wheel_score

from .format import Completion, completion_text


def wheel_precision_reward(
    completions: Sequence[Completion], openset: Sequence[Words], **columns: object
) -> list[float | None]:
    """How much of the answer is true, in [0, 1]; None where no true words are known.

    >>> wheel_precision_reward(["<answer>furious</answer>", "<answer>angry, happy</answer>"], ["angry, tense"] * 2)
    [1.0, 0.5]
    """
    return [None if score is None else score.precision for score in _scores(completions, openset)]


def wheel_recall_reward(
    completions: Sequence[Completion], openset: Sequence[Words], **columns: object
) -> list[float | None]:
    """How much of the truth is answered, in [0, 1]; None where no true words are known.

    >>> wheel_recall_reward(["<answer>furious</answer>", "<answer>angry, nervous</answer>"], ["angry, tense"] * 2)
    [0.5, 1.0]
    """
    return [None if score is None else score.recall for score in _scores(completions, openset)]


def _scores(completions: Sequence[Completion], openset: Sequence[Words]) -> list[WheelScore | None]:
    return [
        wheel_score(truth, parse_answer(completion_text(completion)).label)
        for completion, truth in zip(completions, openset, strict=True)
    ]
