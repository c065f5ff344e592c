"""How true the reasons of many answers are of their clips: shares over the claims that `evidence.py` checked.

    groundedness        supported / (supported + contradicted)         what cannot be checked counts nowhere
    contradicted        contradicted / claims
    hallucinated sense  of the clips that lack a sense, those whose reasons claim something of it
    coverage            of the senses that the clips have, those of which the reasons claim something

All in [0, 1]. Groundedness alone is gamed by saying little and safe things: read it beside the number of claims and the
coverage, and beside that of a text that never looked (the reasons of another clip).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .evidence import SENSES


class Portion(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.part / self.whole if self.whole else None


class Grounding(NamedTuple):
    """The shares above, and how many claims an answer makes."""

    groundedness: Portion
    contradicted: Portion
    hallucinated_sense: Portion
    coverage: Portion
    claims_an_answer: Portion


def grounding(answers: Iterable[tuple[Sequence[str], Sequence[Mapping[str, Any]]]]) -> Grounding:
    """The shares over answers.

    Args:
        answers: of each the senses of its clip, of "video" and "audio", and its claims as `Answer.to_dict` has them.

    >>> smile = {"modality": "face", "verdict": "supported"}
    >>> voice = {"modality": "voice", "verdict": "contradicted"}
    >>> found = grounding([(["video"], [smile, voice]), (["video", "audio"], [smile])])
    >>> [portion.value for portion in found[:4]]
    [0.6666666666666666, 0.3333333333333333, 1.0, 0.6666666666666666]
    """
    answers = list(answers)
    verdicts = [claim["verdict"] for _, claims in answers for claim in claims]
    supported, contradicted = verdicts.count("supported"), verdicts.count("contradicted")
    named = [{SENSES[claim["modality"]] for claim in claims} for _, claims in answers]
    had = [set(senses) for senses, _ in answers]
    lacking = [(claimed, set(SENSES.values()) - senses) for claimed, senses in zip(named, had, strict=True)]
    return Grounding(
        Portion(supported, supported + contradicted),
        Portion(contradicted, len(verdicts)),
        Portion(sum(bool(claimed & gone) for claimed, gone in lacking), sum(bool(gone) for _, gone in lacking)),
        Portion(sum(len(claimed & senses) for claimed, senses in zip(named, had, strict=True)), sum(map(len, had))),
        Portion(len(verdicts), len(answers)),
    )
