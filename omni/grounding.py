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
from dataclasses import asdict
from typing import Any, NamedTuple

from .cues.truth import cue_truth, facts
from .evidence import SENSES, ClipCues, check
from .journal import Row
from .metrics import wilson

NAMES = {
    "groundedness": "groundedness",
    "contradicted": "contradicted",
    "hallucinated_sense": "hallucinated sense",
    "coverage": "coverage of senses",
}
KNOWN = {"video": "action_units", "audio": "prosody"}  # columns of the manifest of synthetic actors
Claims = Sequence[Mapping[str, Any]]  # as `Answer.to_dict` has them


class Portion(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    def estimate(self) -> dict[str, float] | None:
        """The share with Wilson's interval; None of nothing."""
        return {"value": self.part / self.whole} | wilson(*self)._asdict() if self.whole else None


class Grounding(NamedTuple):
    """The shares above, in how many claims of how many answers."""

    groundedness: Portion
    contradicted: Portion
    hallucinated_sense: Portion
    coverage: Portion
    claims: int
    answers: int

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        shares = {name: getattr(self, name).estimate() for name in NAMES}
        return shares | {"claims": self.claims, "answers": self.answers}


def grounding(answers: Iterable[tuple[Sequence[str], Claims]]) -> Grounding:
    """The shares over answers.

    Args:
        answers: of each the senses of its clip, of "video" and "audio", and its claims.

    >>> smile = {"modality": "face", "verdict": "supported"}
    >>> voice = {"modality": "voice", "verdict": "contradicted"}
    >>> grounding([(["video"], [smile, voice]), (["video", "audio"], [smile])])[:4]
    (Portion(part=2, whole=3), Portion(part=1, whole=3), Portion(part=1, whole=1), Portion(part=2, whole=3))
    """
    answers = list(answers)
    verdicts = [claim["verdict"] for _, claims in answers for claim in claims]
    supported, contradicted = verdicts.count("supported"), verdicts.count("contradicted")
    pairs = [({SENSES[claim["modality"]] for claim in claims}, set(senses)) for senses, claims in answers]
    lacking = [(named, gone) for named, senses in pairs if (gone := set(SENSES.values()) - senses)]
    return Grounding(
        Portion(supported, supported + contradicted),
        Portion(contradicted, len(verdicts)),
        Portion(sum(bool(named & gone) for named, gone in lacking), len(lacking)),
        Portion(sum(len(named & senses) for named, senses in pairs), sum(len(senses) for _, senses in pairs)),
        len(verdicts),
        len(answers),
    )


def measure_reasons(rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """The shares of predictions with reasons, as JSON values; None if there are none.

    Args:
        rows: answered rows of `predictions.py`, and the other columns of their manifest.

    Returns:
        `measured`: by the evidence of the rows, of those that have any (tables of older versions have not). `known`: by
        the columns `action_units` and `prosody`. None without.
    """
    rows = [(row, known) for row, known in rows if row["thought"]]
    if not rows:
        return None
    columns = {column for _, known in rows for column in known}  # a null leaves a row of a .csv or .parquet without it
    told = [one for one in rows if columns >= set(KNOWN.values()) and one[1].keys() & KNOWN.values()]
    ways = {
        "measured": [(row["modalities"], row["evidence"]) for row, _ in rows if row.get("evidence") is not None],
        "known": [(row["modalities"], _checked(row, known)) for row, known in told],
    }
    return {way: grounding(answers).values() if answers else None for way, answers in ways.items()}


def reasons_told(found: Mapping[str, Any] | None) -> list[str]:
    """`measure_reasons` as lines of text."""
    lines = []
    for way, values in (found or {}).items():
        if values and values["claims"]:
            shares = [f"{said} {values[name]['value']:.3f}" for name, said in NAMES.items() if values[name]]
            lines.append(f"reasons, {way} cues: {', '.join(shares)}; {values['claims']} claims")
    return lines


def _checked(row: Row, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The claims of a thought, checked against what the manifest knows of a synthetic actor."""
    cues = cue_truth(*(_known(row, known, sense) for sense in KNOWN))
    return [asdict(claim) for claim in check(row["thought"], ClipCues(cues, {}))]


def _known(row: Row, known: Mapping[str, Any], sense: str) -> dict[str, Any] | None:
    """What is known of a sense; None if the clip lacks it or was asked about without it. {}: a face at rest."""
    return None if row.get("without") == sense else facts(known.get(KNOWN[sense]))
