"""The answer: what the model is asked, what it writes back, and what the user gets.

The user turn is the clip's placeholders followed by `prompt()`:

    The clip has picture and sound.
    Words spoken: "I told you twice."
    Which emotion does the person express?
    Emotions: angry, disgust, fear, happy, sad, surprise, neutral
    Output the thinking process in <think> </think> and the final emotion in <answer> </answer> tags.

The assistant's turn is `format_answer()`, and `parse_answer()` is its inverse:

    <think>The brows are lowered and the voice is loud.</think>
    <answer>angry</answer>

The tags and the sentence about them are those of R1-Omni (arXiv 2503.05379) and of DeepSeek-R1 before it. Its
long question ("As an emotional recognition expert …") was left out: each token is paid for in every clip of
every group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .emotions import LabelSpace, label_space

if TYPE_CHECKING:
    from .evidence import Evidence

QUESTION = "Which emotion does the person express?"
TRANSCRIPT_LENGTH = 200  # characters; about 50 tokens, more than anyone says in 10 s at a normal rate
SENSES = {
    ("video", "audio"): "The clip has picture and sound.",
    ("audio",): "The clip has sound only.",
    ("video",): "The clip has picture only.",
    (): "The clip has no face and no voice.",
}
INSTRUCTIONS = {
    True: "Output the thinking process in <think> </think> and the final emotion in <answer> </answer> tags.",
    False: "Output the final emotion in <answer> </answer> tags.",
}
TAG = re.compile(r"</?\s*(?:think|answer)\s*>", re.IGNORECASE)
WELL_FORMED = re.compile(  # (?!...). and not .*?, which takes quadratic time on repeated tags
    r"\s*(?:<think>(?P<thought>(?:(?!</think>).)*)</think>\s*)?<answer>(?P<label>(?:(?!</answer>).)*)</answer>\s*",
    re.DOTALL,
)
LENIENT_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|<answer>|\Z)", re.DOTALL | re.IGNORECASE)
LENIENT_LABEL = re.compile(r"<answer>(.*?)(?:</?(?:answer|think)>|\Z)", re.DOTALL | re.IGNORECASE)


class Look(NamedTuple):
    """A stretch of a stream that the fusion adapter attended to; weights of a stream sum to one over the whole clip."""

    stream: str
    from_s: float
    to_s: float
    weight: float


@dataclass(frozen=True)
class Answer:
    """What the model says about one clip, and what it had to go on.

    Attributes:
        label: the label of the label space that the thought leads to; the most probable one without a thought.
        confidence: its probability, in [0, 1].
        labels: label → probability over the whole label space, summing to 1; of the clip and the question, before the
            thought. Its first is another than `label` where the thought led elsewhere.
        thought: the reasons, without tags; empty if none were asked for.
        text: the completion as the model wrote it.
        well_formed: the completion has exactly the form that was asked for.
        modalities: what the model saw and heard, of ("video", "audio").
        warnings: codes of what was odd about the clip (`no_audio`, `silent_audio`, `no_face` …).
        duration_s: length of the clip in seconds; 0.0 for an image.
        transcript: the words as the model was told them; None if there was no recogniser or no sound.
        evidence: what the reasons say of face and voice, each claim checked against the clip.
        gates: modality → how much of the fused clip it is, summing to 1, zero for what is not there; None for models
            whose fusion adapter has no gate, which are most, the default and the released R1-Omni among them.
        maps: where the fusion adapter looked, the three heaviest steps of every stream; empty for adapters without
            attention over time. Attention is not evidence: `omni matrix` measures whether it matters.

    >>> answer = Answer("sad", 0.9, {"sad": 0.9, "happy": 0.1}, "", "<answer>sad</answer>", True, ("video",))
    >>> answer.to_dict()["modalities"]
    ['video']
    """

    label: str
    confidence: float
    labels: dict[str, float]
    thought: str
    text: str
    well_formed: bool
    modalities: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    duration_s: float = 0.0
    transcript: str | None = None
    evidence: tuple[Evidence, ...] = ()
    gates: dict[str, float] | None = None
    maps: tuple[Look, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values: tuples become lists, looks objects, numbers plain floats."""
        row = asdict(self) | {"maps": [look._asdict() for look in self.maps]}
        row["labels"] = {label: float(p) for label, p in self.labels.items()}
        row |= {"confidence": float(self.confidence), "duration_s": float(self.duration_s)}
        return row | {name: list(row[name]) for name in ("modalities", "warnings", "evidence")}


class Parsed(NamedTuple):
    """A completion taken apart. `label` is as written, in no label space yet; None without an answer tag."""

    label: str | None
    thought: str
    well_formed: bool


def prompt(
    question: str | None,
    labels: LabelSpace | str | Sequence[str],
    *,
    think: bool = True,
    modalities: Sequence[str] = ("video", "audio"),
    transcript: str | None = None,
) -> str:
    """The text of the user turn that follows the clip's placeholders.

    The model is told which senses exist, so that it need not guess from silence or from a black frame. The
    transcript is one line of JSON-quoted text: whatever is said in the clip stays a quotation and cannot add
    lines or tags.

    Args:
        question: None or blank means `QUESTION`; put on one line.
        modalities: the senses of the clip, of "video" and "audio"; neither, if there is nothing to go by.
        transcript: words heard, cut to `TRANSCRIPT_LENGTH` characters; left out if blank or without audio.

    Raises:
        ValueError: `modalities` has another word.

    >>> print(prompt(None, "angry,happy", think=False, modalities=["audio"], transcript='He said "no".\\n'))
    The clip has sound only.
    Words spoken: "He said \\"no\\"."
    Which emotion does the person express?
    Emotions: angry, happy
    Output the final emotion in <answer> </answer> tags.
    """
    senses = tuple(name for name in ("video", "audio") if name in modalities)
    if senses not in SENSES or set(modalities) - set(senses):
        raise ValueError(f"modalities must be of 'video' and 'audio'; got {list(modalities)}.")
    lines = [SENSES[senses]]
    words = TAG.sub(" ", _line(transcript))[:TRANSCRIPT_LENGTH].strip()
    if words and "audio" in senses:
        lines.append(f"Words spoken: {json.dumps(words, ensure_ascii=False)}")
    lines.append(_line(question) or QUESTION)
    lines.append(f"Emotions: {', '.join(label_space(labels).labels)}")
    lines.append(INSTRUCTIONS[think])
    return "\n".join(lines)


def _line(text: str | None) -> str:
    """One line, in which nothing is a control token of a chat template (`<|im_end|>`)."""
    return " ".join((text or "").split()).replace("<|", "< |")


def format_answer(label: str, thought: str = "") -> str:
    """The assistant's turn for a label and its reasons; `parse_answer` is the inverse.

    Raises:
        ValueError: the label is blank, or one of the two contains a tag.

    >>> format_answer("angry", "The brows are lowered.")
    '<think>The brows are lowered.</think>\\n<answer>angry</answer>'
    >>> format_answer("angry")
    '<answer>angry</answer>'
    """
    label, thought = label.strip(), thought.strip()
    if not label:
        raise ValueError("The label is blank. Give a word of the label space.")
    for name, text in (("label", label), ("thought", thought)):
        if TAG.search(text):
            raise ValueError(f"The {name} contains a <think> or <answer> tag. Remove it: {text[:80]!r}")
    answer = f"<answer>{label}</answer>"
    return f"<think>{thought}</think>\n{answer}" if thought else answer


def parse_answer(text: str) -> Parsed:
    """Take a completion apart.

    Well-formed is: optional white space, at most one think block, exactly one answer block that is not blank,
    in this order and with nothing else. Otherwise the label and the thought are recovered as far as they can
    be (the *last* answer block counts, since a model that corrects itself means the last one), and
    `well_formed` is False.

    >>> parse_answer("<think>A smile.</think><answer>happy</answer>")
    Parsed(label='happy', thought='A smile.', well_formed=True)
    >>> parse_answer("A smile. <answer> Happy")
    Parsed(label='Happy', thought='', well_formed=False)
    >>> parse_answer("happy")
    Parsed(label=None, thought='', well_formed=False)
    """
    match = WELL_FORMED.fullmatch(text)
    if match:
        label, thought = match["label"].strip(), (match["thought"] or "").strip()
        if label and not TAG.search(label) and not TAG.search(thought):
            return Parsed(label, thought, True)
    found = [label.strip() for label in LENIENT_LABEL.findall(text)]
    thought_match = LENIENT_THOUGHT.search(text)
    thought = TAG.sub(" ", thought_match[1]).strip() if thought_match else ""
    return Parsed(next((label for label in reversed(found) if label), None), thought, False)
