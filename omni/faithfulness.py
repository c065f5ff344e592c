"""The receipt of an answer: what the model used of the clip, tried out rather than asked.

    clip ─► full · muted · blind · no_transcript · swapped · shuffled ─► p(label) of each, at once and without thinking
    thought ─► claims ─► log p(its words | clip) − log p(its words | clip with a neutral person's face, or voice)
    thought ─► the contrary of all that it claims ─► p(answer | clip, contrary)

    share of a sense   d_s / Σ d,  d_s = max(0, log p(answer | full) − log p(answer | without s))

Conditions. `muted` and `blind` take one sense away, words included; `no_transcript` takes the words alone;
`swapped` puts in the voice and the words of a neutral person (`NEUTRAL`); `shuffled` shows every second frame first.
The prompt says which senses there are, as always. A condition that changes nothing is left out: no sound, nothing to
mute. The clip has been through the towers already, so all this costs runs of prompts and no text is written.

Shares are of the two senses and add up to 1, or are all 0 where neither removal makes the answer less likely.
Two senses that say the same can replace each other: shares are then small numbers put in proportion. Read the
probabilities beside them.

A claim survives if its words, after the text before them, are at least twice as likely with the clip's own face (or
voice) as with a neutral one: the model read it off that sense. Taking the sense away instead would tell nothing: the
prompt says then that it is missing, and every claim survives. Whether a claim is true is another matter, that of
`evidence.py`. What a neutral person shows too, a relaxed face or an ordinary voice, cannot survive.

Thinking. The answer agrees with its thinking if the model answers the same at once. It follows its thinking if the
contrary of the reasons halves the probability of the answer; if not, the reasons may be decoration.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .answer import Answer, Parsed
from .clip import Clip
from .cues.lexicon import CUES, Claim, claims, spell
from .emotions import EKMAN7, LabelSpace, label_space
from .evidence import MARKS, SENSES, Evidence, Verdict
from .features import ClipFeatures
from .generate import LABEL_AT, SOURCES, answer_head, as_features, ask_text, build_inputs, score_labels, temperature_of
from .rollout import prefill, unwrapped

NEUTRAL = "default/neutral.mp4"  # whose voice and face are put in: no action unit, an ordinary voice
WITHOUT = {"video": "blind", "audio": "muted"}
NAMED = {"video": "picture", "audio": "sound"}
TWICE = math.log(2)
LEAST = 1e-12  # a probability below it counts as this one
Probabilities = dict[str, float]


@dataclass(frozen=True)
class Conflict:
    """Picture and sound that say different things by themselves.

    Attributes:
        video, audio: the most probable label of each alone.
        winner: "video" or "audio", whose label is the answer; None if it is that of neither.
    """

    video: str
    audio: str
    winner: str | None


@dataclass(frozen=True)
class TriedClaim:
    """A claim of the thought, tried on a neutral person.

    Attributes:
        sentence, modality, cue, polarity, verdict: as in `Evidence`.
        drop: nats by which its words are less likely with a neutral face in the place of the clip's, or voice.
        survives: the drop is log 2 or more.
    """

    sentence: str
    modality: str
    cue: str
    polarity: int
    verdict: Verdict
    drop: float
    survives: bool


@dataclass(frozen=True)
class Agreement:
    """The answer and its thinking.

    Attributes:
        at_once: the label without thinking.
        with_thinking, without_thinking, contrary_thinking: probability of the answer after the thought as it was
            written, without it, and after the contrary of what it claims; None if it claims nothing with a contrary.
            After a thought probabilities are as they come out, at no temperature.
        agrees: the answer is the same at once. Where it is not, a human should look first.
        follows: the contrary halves the probability; None without one.
    """

    at_once: str
    with_thinking: float
    without_thinking: float
    contrary_thinking: float | None
    agrees: bool
    follows: bool | None


@dataclass(frozen=True)
class Receipt:
    """What an answer rests on.

    Attributes:
        answer: the label that is looked into.
        conditions: {condition: {label: probability}}, "full" first.
        shares: {"video", "audio"} of the senses that the clip has, in [0, 1].
        conflict: None if the senses agree, or there is one alone.
        claims: of the thought, about senses that the clip has.
        agreement: None without a thought.
    """

    answer: str
    conditions: dict[str, Probabilities]
    shares: dict[str, float]
    conflict: Conflict | None
    claims: tuple[TriedClaim, ...]
    agreement: Agreement | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"claims": [asdict(claim) for claim in self.claims]}


def receipt_of(
    model,
    processor,
    clip: SOURCES,
    answer: Answer,
    question: str | None = None,
    *,
    labels: LabelSpace | Sequence[str] | str = EKMAN7,
) -> Receipt:
    """Find out what an answer rests on.

    Args:
        clip: that was asked about; encoded `ClipFeatures` cost least.
        answer: as `reason` gave it.
        question: as it was asked.
        labels: the label space of the answer.

    Raises:
        ModelError: if the model puts out NaN.
    """
    space, clip = label_space(labels), as_features(model, processor, [clip])[0]
    other = neutral_person(model, processor, clip)
    tried = conditions(clip, other)
    texts = [ask_text(processor, one, question, space, think=False) for one in tried.values()]
    inputs = build_inputs(model, processor, list(tried.values()), texts)
    scores = score_labels(model, processor, inputs, [LABEL_AT] * len(tried), space, temperature_of(model, False))
    found, label = dict(zip(tried, scores, strict=True)), answer.label
    return Receipt(
        label,
        found,
        shares(found, label),
        conflict(found, label),
        _claims(model, processor, clip, other, answer, question, space),
        _agreement(model, processor, clip, answer, question, space, found["full"]),
    )


def conditions(clip: ClipFeatures, other: ClipFeatures | None) -> dict[str, ClipFeatures]:
    """The clip under every condition that changes it.

    Args:
        other: whose sound is put in; None leaves that condition out.
    """
    heard = "audio" in clip.modalities
    changed = {
        "full": clip,
        "muted": clip.mute() if heard else None,
        "blind": clip.blind() if "video" in clip.modalities else None,
        "no_transcript": replace(clip, transcript=None) if clip.transcript else None,
        "swapped": clip.with_sound_of(other) if heard and other else None,
        "shuffled": clip.shuffled() if "video" in clip.modalities else None,
    }
    return {name: one for name, one in changed.items() if one is not None}


def neutral_person(model, processor, clip: ClipFeatures) -> ClipFeatures | None:
    """The senses of the bundled neutral clip that `clip` has too; None if it has none, or is that one."""
    if not clip.modalities:
        return None
    with resources.as_file(resources.files("omni").joinpath(NEUTRAL)) as path:
        other: Clip = processor.read(Path(path), video="video" in clip.modalities, audio="audio" in clip.modalities)
    return as_features(model, processor, [other])[0] if other.sha256 != clip.sha256 else None


def shares(found: dict[str, Probabilities], label: str) -> dict[str, float]:
    """The part of each sense in an answer; see above.

    >>> full, muted, blind = {"sad": 0.8}, {"sad": 0.8}, {"sad": 0.2}
    >>> shares({"full": full, "muted": muted, "blind": blind}, "sad")
    {'video': 1.0, 'audio': 0.0}
    """
    drops = {
        sense: max(0.0, _log(found["full"][label]) - _log(found[condition][label]))
        for sense, condition in WITHOUT.items()
        if condition in found
    }
    whole = sum(drops.values())
    return {sense: drop / whole if whole else 0.0 for sense, drop in drops.items()}


def conflict(found: dict[str, Probabilities], label: str) -> Conflict | None:
    """Whether picture and sound alone say different things, and whose label the answer is.

    >>> conflict({"muted": {"sad": 0.9, "happy": 0.1}, "blind": {"sad": 0.2, "happy": 0.8}}, "sad")
    Conflict(video='sad', audio='happy', winner='video')
    """
    if not {"muted", "blind"} <= found.keys():
        return None
    video, audio = _top(found["muted"]), _top(found["blind"])
    winners = {video: "video", audio: "audio"}
    return Conflict(video, audio, winners.get(label)) if video != audio else None


def contrary(evidence: Sequence[Evidence]) -> str:
    """The contrary of all claims, as the lexicon writes it; "" if no claim has one.

    >>> said = Evidence("He smiles in a low voice.", "face", "smile", 1, "supported")
    >>> contrary([said, replace(said, modality="voice", cue="pitch_low")])
    'The lip corners are pulled down. The pitch is high.'
    """
    words = []
    for one in evidence:
        cue = CUES[one.cue]
        against = CUES[cue.opposite].forms if cue.opposite else ()
        forms = (against or cue.denials) if one.polarity > 0 else cue.forms
        words += [f"The {spell(form)}." for form in forms[:1]]
    return " ".join(words)


def told(receipt: Receipt) -> str:
    """A receipt as lines of text.

    >>> found = {"full": {"sad": 0.8, "happy": 0.2}, "muted": {"sad": 0.9, "happy": 0.1}}
    >>> print(told(Receipt("sad", found, {"audio": 0.0}, None, (), None)))
    receipt of the answer sad
      full           sad 0.80
      muted          sad 0.90
      share: sound 0.00
    """
    lines = [f"receipt of the answer {receipt.answer}"]
    for name, probabilities in receipt.conditions.items():
        first = _top(probabilities)
        beside = "" if first == receipt.answer else f", {receipt.answer} {probabilities[receipt.answer]:.2f}"
        lines.append(f"  {name.replace('_', ' '):13}  {first} {probabilities[first]:.2f}{beside}")
    if receipt.shares:
        parts = ", ".join(f"{NAMED[sense]} {share:.2f}" for sense, share in receipt.shares.items())
        lines.append(f"  share: {parts}")
    return "\n".join([*lines, *_conflict_told(receipt.conflict), *_thinking_told(receipt)])


def _conflict_told(found: Conflict | None) -> list[str]:
    if found is None:
        return []
    won = f"the {NAMED[found.winner]} won" if found.winner else "neither won"
    return [f"  conflict: the picture alone says {found.video}, the sound alone {found.audio}; {won}"]


def _thinking_told(receipt: Receipt) -> list[str]:
    lines = []
    for claim in receipt.claims:
        name = claim.cue.replace("_", " ")
        said = f"{name if claim.polarity > 0 else f'no {name}'} ({MARKS[claim.verdict]})"
        fate = "survives" if claim.survives else "does not survive"
        lines.append(f"  {said} {fate}: {_times(claim.drop)} as with a neutral {claim.modality}")
    if receipt.agreement is None:
        return lines
    one = receipt.agreement
    parts = [f"{one.with_thinking:.2f} with it", f"{one.without_thinking:.2f} without"]
    if one.contrary_thinking is not None:
        parts.append(f"{one.contrary_thinking:.2f} after its contrary")
    agrees = "the answer agrees with it" if one.agrees else f"at once the answer is {one.at_once}"
    follows = {True: " and follows it", False: " but does not follow it", None: ""}[one.follows]
    return [*lines, f"  thinking: {', '.join(parts)}; {agrees}{follows}"]


def _times(drop: float) -> str:
    """
    >>> _times(math.log(3)), _times(20.0), _times(-1.0)
    ('3.0 times as likely', 'over 1000 times as likely', '0.4 times as likely')
    """
    return "over 1000 times as likely" if drop > math.log(1000) else f"{math.exp(drop):.1f} times as likely"


def _claims(
    model,
    processor,
    clip: ClipFeatures,
    other: ClipFeatures | None,
    answer: Answer,
    question: str | None,
    space: LabelSpace,
) -> tuple[TriedClaim, ...]:
    """The claims about senses that the clip has, each with what a neutral person in that sense does to its words."""
    verdicts = {(one.cue, one.polarity): one.verdict for one in answer.evidence}
    found = [one for one in claims(answer.thought) if SENSES[one.modality] in clip.modalities]
    if not found or other is None:
        return ()
    swapped = {
        "face": lambda: clip.with_picture_of(other),
        "voice": lambda: replace(clip.with_sound_of(other), transcript=clip.transcript),  # the voice, not the words
    }
    senses = sorted({one.modality for one in found})
    clips = [clip, *(swapped[sense]() for sense in senses)]
    texts = [ask_text(processor, one, question, space, think=True) for one in clips]
    own, *others = _claim_logs(model, processor, build_inputs(model, processor, clips, texts), answer.thought, found)
    drops = [own[i] - others[senses.index(one.modality)][i] for i, one in enumerate(found)]
    return tuple(
        TriedClaim(
            one.sentence, one.modality, one.cue, one.polarity, verdicts[one.cue, one.polarity], drop, drop >= TWICE
        )
        for one, drop in zip(found, drops, strict=True)
    )


@torch.inference_mode()
def _claim_logs(model, processor, inputs: dict, thought: str, found: Sequence[Claim]) -> list[list[float]]:
    """Log-probability of the words of every claim, given the text before them, after each of B prompts; nats."""
    model, text = unwrapped(model), _head(thought)
    coded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(coded.input_ids, device=inputs["input_ids"].device)  # (H,)
    rows = ids.expand(len(inputs["input_ids"]), -1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(rows)], 1)
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], rows], 1), "attention_mask": mask}
    hidden = model.model(**whole, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).last_hidden_state
    logs = model.lm_head(hidden[:, -len(ids) - 1 : -1]).float().log_softmax(-1)  # (B, H, V)
    steps = logs.gather(-1, rows[..., None])[..., 0].cpu()  # (B, H)

    spans, at = [], 0
    for one in found:
        at = text.index(one.sentence, at)
        spans.append((at + one.start, at + one.end))
    inside = torch.tensor([[start < b and a < end for a, b in coded.offset_mapping] for start, end in spans])  # (C, H)
    return (steps @ inside.T.to(steps.dtype)).tolist()


def _agreement(
    model,
    processor,
    clip: ClipFeatures,
    answer: Answer,
    question: str | None,
    space: LabelSpace,
    at_once: Probabilities,
) -> Agreement | None:
    if not answer.thought:
        return None
    against = contrary(answer.evidence)
    heads = [_head(thought) for thought in (answer.thought, against) if thought]
    prompt = prefill(model, build_inputs(model, processor, [clip], [ask_text(processor, clip, question, space, True)]))
    prompt.cache.batch_repeat_interleave(len(heads))
    prompts = prompt._replace(mask=prompt.mask.repeat(len(heads), 1))
    own, *others = (scores[answer.label] for scores in score_labels(model, processor, prompts, heads, space))
    after, first = others[0] if others else None, _top(at_once)
    return Agreement(
        first,
        own,
        at_once[answer.label],
        after,
        first == answer.label,
        None if after is None else _log(own) - _log(after) >= TWICE,
    )


def _head(thought: str) -> str:
    return answer_head(Parsed(None, thought, True), "", True)


def _top(probabilities: Probabilities) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _log(probability: float) -> float:
    return math.log(max(probability, LEAST))
