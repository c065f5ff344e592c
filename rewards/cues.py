"""The cues of a thought: how much of what it says of face and voice is true of the clip.

    S  cues that the thought says are there, and they are
    C  claims that the clip contradicts: a cue that is not there, a denied one that is, a sense that is missing
    T  cues that are there

    r = (S - C) / max(S + C, min(3, T))        range [-1, 1]

With the floor of three in the denominator, saying nothing earns 0, one safe claim a third, three true claims 1.
Below the floor one more claim pays exactly if it is true more often than not, so guessing does not; above it,
r = 2·precision - 1. A cue counts once, however often it is said. A denial that is true earns nothing, since most
cues are absent from most clips; one that is false costs as any other. Cues that nobody can check, or that lie in
the unknown band of `omni/cues/truth.py`, count nowhere. A thought of more than `LONGEST` characters is not read and
earns what silence earns.

Columns: `truth`, an object (or its JSON text) with `action_units`, intensities by name as the synthetic actors'
manifest has them, and `prosody`, deltas against the speaker's neutral voice. A sense whose key is missing or None does
not exist in the clip, so what is said of it is made up; {} is a sense that is there and was not measured. Of a real
clip nothing is known but what can be measured: `cues` in place of the two, true, false or null by cue, as `omni cues
MANIFEST --out` writes it; cues of a sense that the clip lacks are not there, so give them as JSON text where a table
would fill them in. `think` (optional). None where no thought was asked for, and where no cue is there or known.

Source: the AU-F1 reward of Facial-R1 (arXiv 2511.10254), with voice, denials and an unknown band. F1 was left out:
recall pays for long lists.

How it is gamed: by a stereotype (the usual cues of the answered emotion), by claims in words that the lexicon does
not read, by parted lips, which speech makes unprovable, and with measured cues by the errors of the reader
(`docs/cues.md`), which a model can learn. Shown by `test_a_stereotype_earns_less_than_a_look`,
`test_words_that_the_lexicon_does_not_read_are_free` and `test_parted_lips_are_never_contradicted`; closed routes by
`test_neither_silence_nor_one_safe_claim_nor_repetition_earns_much`, `test_a_denial_earns_nothing`,
`test_all_cues_at_once_cost_more_than_silence` and `test_a_guess_pays_only_if_it_is_likelier_true_than_not`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omni.answer import parse_answer
from omni.cues.lexicon import CUES, Claim, claims
from omni.cues.truth import cue_truth, decoded, facts, supports
from omni.errors import ManifestError

from .format import Completion, completion_text, thoughts_asked

WANTED = 3  # claims; the taught thoughts make 3.7 on average
LONGEST = 4000  # characters, about 800 tokens; the lexicon's time grows with the square of a sentence

Truth = Mapping[str, Any] | str | None


def cues_reward(
    completions: Sequence[Completion],
    truth: Sequence[Truth],
    think: Sequence[bool | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """True claims less false ones, in [-1, 1]; None where no thought was asked for or there is no cue to name.

    Args:
        truth: of each clip, {"action_units": {"AU4": 0.8}, "prosody": {"pitch_st": 3.0}}; an action unit may also be
            {"intensity": 0.8}. Or {"cues": {"brow_down": True, "smile": None}}.

    Raises:
        ManifestError: a truth that is no object of objects, or with a cue that the lexicon does not have.

    >>> thought = "<think>The brows are lowered and the eyes are narrowed. {}</think><answer>angry</answer>"
    >>> completions = [thought.format(""), thought.format("The lips are tightened."), thought.format("He smiles.")]
    >>> cues_reward(completions, [{"action_units": {"AU4": 0.9, "AU7": 0.8, "AU23": 0.7}}] * 3)
    [0.6666666666666666, 1.0, 0.3333333333333333]
    """
    asked = thoughts_asked(think, len(completions))
    return [
        _grounding(completion_text(completion), _cues(known)) if wanted else None
        for completion, known, wanted in zip(completions, truth, asked, strict=True)
    ]


def _grounding(text: str, truth: Mapping[str, bool | None]) -> float | None:
    there = sum(value is True for value in truth.values())
    if not there:
        return None
    thought = parse_answer(text).thought
    if len(thought) > LONGEST:
        return 0.0
    senses = {CUES[name].modality for name in truth}
    verdicts = [(claim, _verdict(claim, truth, senses)) for claim in claims(thought)]
    supported = sum(verdict is True and claim.polarity > 0 for claim, verdict in verdicts)
    contradicted = sum(verdict is False for _, verdict in verdicts)
    return (supported - contradicted) / max(supported + contradicted, min(WANTED, there))


def _verdict(claim: Claim, truth: Mapping[str, bool | None], senses: set[Any]) -> bool | None:
    return supports(claim, truth) if claim.modality in senses else False


def _cues(truth: Truth) -> dict[str, bool | None]:
    known = facts(truth) or {}
    if "cues" not in known:
        return cue_truth(known.get("action_units"), known.get("prosody"))
    cues = decoded(known["cues"]) or {}  # a null is a cue that is not known
    if not cues.keys() <= CUES.keys():
        raise ManifestError(f"cues is an object of true, false or null by cue of the lexicon; got {cues!r:.60}.")
    return cues
