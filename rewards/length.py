"""The length of a completion: 0 if it is neither too long nor repeats itself, down to -2.

    overlong     0 up to L - L/5 tokens, then down in a line to -1 at L tokens, and -1 beyond
    repetition   -(1 - distinct / all) of its three-token stretches

    r = overlong + repetition        range [-2, 0]

Columns: `completion_ids` (optional), the token ids, which TRL passes; `max_completion_length` (optional), L in tokens.
Without ids, as in saved text, `pieces` stand for tokens: at most six letters, one punctuation mark, or one character
of a script without spaces; on the taught answers they count a ninth more than the default's tokenizer.

Source: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13; there L = 20,480 and the last 4,096 are
soft, a fifth) and the repetition penalty of Yeo et al. (arXiv 2502.03373, C.2). Both only punish.

How it is gamed: by saying nothing, which costs nothing, so never use it alone; and a repetition with one word changed
in each three is not seen, only its length. Shown by `test_saying_nothing_costs_nothing` and
`test_filler_that_varies_escapes_the_repetition_penalty_but_not_the_length`; a long word without a space is cut:
`test_one_endless_word_is_long_and_repeats_itself`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from .format import Completion, completion_text

LIMIT = 160  # tokens, what `omni ask` writes at most; no taught answer has more than 110
SOFT = 5  # the last fifth of the limit is punished more and more, as in DAPO
STRETCH = 3  # tokens, as Yeo et al.

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, Burmese, kana, Han
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{1,6}}|[^\w\s]")


def length_reward(
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int] | None] | None = None,
    max_completion_length: Sequence[int | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """0.0 for a completion that is neither too long nor repetitive, down to -2.0.

    Args:
        completion_ids: token ids of each completion; where there are none, `pieces` of its text.
        max_completion_length: tokens, `LIMIT` where there is none.

    Raises:
        ValueError: a limit below one token.

    >>> length_reward(["<answer>sad</answer>", "no no no no no no"])
    [0.0, -0.75]
    >>> length_reward([""], completion_ids=[list(range(144))], max_completion_length=[160])
    [-0.5]
    """
    count = len(completions)
    ids = [None] * count if completion_ids is None else completion_ids
    limits = [None] * count if max_completion_length is None else max_completion_length
    rewards: list[float | None] = []
    for completion, own, limit in zip(completions, ids, limits, strict=True):
        tokens: Sequence[Hashable] = pieces(completion_text(completion)) if own is None else own
        rewards.append(overlong(len(tokens), LIMIT if limit is None else limit) + repetition(tokens))
    return rewards


def overlong(length: int, limit: int) -> float:
    """DAPO's soft punishment of a length in tokens, in [-1, 0].

    >>> overlong(128, 160), overlong(144, 160), overlong(160, 160), overlong(999, 160)
    (0.0, -0.5, -1.0, -1.0)
    """
    if limit < 1:
        raise ValueError(f"max_completion_length is {limit}. Give the number of tokens that may be written.")
    soft = max(limit // SOFT, 1)
    return max(-1.0, min(0.0, (limit - soft - length) / soft))


def repetition(tokens: Sequence[Hashable]) -> float:
    """Minus the share of three-token stretches that were there before, in (-1, 0]; 0 below three tokens.

    >>> repetition("abcabcabc")
    -0.5714285714285714
    """
    stretches = list(zip(*(tokens[start:] for start in range(STRETCH)), strict=False))
    return len(set(stretches)) / len(stretches) - 1 if stretches else 0.0


def pieces(text: str) -> list[str]:
    """What stands for tokens where there are none, in lower case.

    >>> pieces("A happiness, 很高兴")
    ['a', 'happin', 'ess', ',', '很', '高', '兴']
    """
    return _PIECE.findall(text.lower())
