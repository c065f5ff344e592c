"""Examples and their encoded clips to rows for TRL's `SFTTrainer`.

    {"messages": [user: clip + prompt, assistant: answer], "images": []}

An empty `images` column makes TRL take its collator for multimodal models, which hands the clips to our processor.
A row holds the path of an encoded clip, never its features: rows are copied, shuffled and logged.

One clip gives up to two rows: a reasoned answer, and a plain label (`--no-think`). In shares of the rows something is
taken away, and the answer is then what is true of the rest:
 - the face's detail, so that what is learned from the expression net's own probabilities, which carry over to real
   faces best, does not wither beside features that are better on rendered faces; `extra["rationale_plain"]` claims
   nothing that only the detail could show. Rows in which the net misreads the rendered face are mostly spared, so that
   its reading is worth about as much in training as it is on real faces
 - the audio tower's features, which know the words of the training sentences too well; prosody stays
 - the picture or the sound; `extra["face"]`, `extra["voice"]` and `extra["rationale_mute"]`, `…_blind` say what is left
 - everything; the label is then drawn by lot, so that a model with nothing to go by is not sure of anything
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from .align import Aligned, phrase_embeddings
from .answer import format_answer, prompt
from .cues.lexicon import CUES
from .cues.truth import cue_truth
from .emotions import EKMAN7, LabelSpace, canonical, label_space
from .errors import ClipError, LabelError
from .features import ClipFeatures, FeatureCache
from .manifest import Example, read_manifest

Encoded = tuple[Example, ClipFeatures, Path]  # with the file of the encoded clip
CHECKABLE = tuple(name for name, cue in CUES.items() if cue.phrases)  # cues that have words and a truth
NOTHING = "No face is visible and no voice is heard, so this can only be a guess."


@dataclass(frozen=True)
class RowOptions:
    """What rows are made of a clip.

    Attributes:
        reasoned: share of clips that give a row with reasons.
        labelled: share of clips that give a row with the label only.
        plain: share of rows without the face's detail, where the expression net reads the face right.
        misread: the same share where it does not.
        prosody_only: share of rows whose sound is its prosody alone.
        words: share of rows that quote the transcript, where there is one.
        blind, mute: shares of rows without the picture or the sound; the label is then what the other sense shows.
        nothing: share of rows with nothing to see or hear.
    """

    reasoned: float = 1.0
    labelled: float = 1.0
    plain: float = 0.5
    misread: float = 0.1
    prosody_only: float = 0.5
    words: float = 0.5
    blind: float = 0.12
    mute: float = 0.1
    nothing: float = 0.02
    seed: int = 0


def encode_examples(manifests: Sequence[str], cache: FeatureCache) -> tuple[list[Encoded], list[str]]:
    """Every readable example of some manifests with its encoded clip, and what was left out and why."""
    examples = [example for manifest in manifests for example in read_manifest(Path(manifest))]
    encoded, left_out = [], []
    for example in track(examples, "encoding clips", disable=not sys.stderr.isatty()):
        try:
            clip = cache.processor.read(example.clip)
        except ClipError as err:
            left_out.append(str(err))
            continue
        words = example.extra.get("text")
        encoded.append((example, cache(clip, words), cache.path(clip, told=bool(words))))
    return encoded, left_out


def check_labels(manifests: Sequence[str], space: LabelSpace) -> None:
    """Refuse a wrong label before hours have gone into encoding.

    Raises:
        LabelError: as `true_label`.
    """
    for manifest in manifests:
        for example in read_manifest(Path(manifest)):
            true_label(example, space)


def true_label(example: Example, space: LabelSpace) -> str:
    """The label of an example as the label space spells it.

    Raises:
        LabelError: it has none, or one that is not in the space.
    """
    label = canonical(example.label or "", space)
    if label is None:
        raise LabelError(
            f"{example.clip}: the label {example.label!r} is not in the label space ({', '.join(space.labels)}). "
            "Correct the manifest, or give another space with --labels.",
            code="label",
        )
    return label


def sft_rows(
    examples: Sequence[Encoded],
    options: RowOptions,
    ask: Callable[..., str] = prompt,
    labels: LabelSpace | str = "ekman7",
) -> list[dict]:
    """Rows for the cold start.

    Args:
        ask: writes the user's turn, `OmniProcessor.prompt` of the model that learns.
        labels: the label space.

    Raises:
        LabelError: a label is not in the label space.
    """
    rng, space = random.Random(options.seed), label_space(labels)
    rows = []
    for given, clip, path in examples:
        example = replace(given, label=true_label(given, space))
        for share, think in ((options.reasoned, True), (options.labelled, False)):
            if rng.random() < share:
                seen, changed, without = _varied(example, clip, options, rng, space)
                if "prosody" in changed.features and rng.random() < options.prosody_only:
                    without = [*without, "audio"]
                words = changed.transcript if rng.random() < options.words else None
                if seen.rationale or not think:
                    text = _asked(seen, changed, think, words, ask, space)
                    rows.append(_row(text, seen, path, think, without))
    rng.shuffle(rows)
    return rows


def _varied(
    example: Example, clip: ClipFeatures, options: RowOptions, rng: random.Random, space: LabelSpace
) -> tuple[Example, ClipFeatures, list[str]]:
    """The clip as it is, or with something taken away and the answer that is then true; and the streams left out."""
    facts, lot = example.extra, rng.random()
    both = len(clip.modalities) == 2
    if lot < options.nothing:
        return (
            replace(example, label=rng.choice(space.labels), rationale=NOTHING),
            clip.blind().mute(),
            sorted(clip.features),
        )
    if both and "voice" in facts and lot < options.nothing + options.blind:
        changed = clip.blind()
        return (
            replace(example, label=facts["voice"], rationale=facts.get("rationale_blind")),
            changed,
            _gone(clip, changed),
        )
    if both and "face" in facts and lot < options.nothing + options.blind + options.mute:
        changed = clip.mute()
        return (
            replace(example, label=facts["face"], rationale=facts.get("rationale_mute")),
            changed,
            _gone(clip, changed),
        )
    right = expression_label(clip) == facts.get("face", example.label)
    if "expression" in clip.features and rng.random() < (options.plain if right else options.misread):
        return replace(example, rationale=facts.get("rationale_plain")), clip, ["video"]
    return example, clip, []


def expression_label(clip: ClipFeatures) -> str | None:
    """What the expression net makes of the clip: its most probable emotion, probabilities averaged over frames."""
    if "expression" not in clip.features:
        return None
    seen = clip.features["expression"][~clip.times["expression"].isnan()]  # (T, 7), log-probabilities
    return EKMAN7[int(seen.exp().mean(0).argmax())]


def _gone(clip: ClipFeatures, changed: ClipFeatures) -> list[str]:
    return sorted(set(clip.features) - set(changed.features))


def _asked(
    example: Example, clip: ClipFeatures, think: bool, words: str | None, ask: Callable[..., str], space: LabelSpace
) -> str:
    return ask(example.question, space, think=think, modalities=clip.modalities, transcript=words)


def _row(text: str, example: Example, path: Path, think: bool, without: list[str]) -> dict:
    answer = format_answer(example.label or "", (example.rationale or "") if think else "")
    part = {"type": "video", "path": str(path), "text": None, "without": without}
    return {
        "messages": [
            {"role": "user", "content": [part, {"type": "text", "path": None, "text": text, "without": []}]},
            {"role": "assistant", "content": [{"type": "text", "path": None, "text": answer, "without": []}]},
        ],
        "images": [],
    }


def vocabulary(model, processor, labels: LabelSpace | str = "ekman7") -> tuple[Tensor, Tensor, float]:
    """What tokens are aligned with: cues (W, E) and labels (labels, E) as embeddings, and how long embeddings are."""
    table = model.get_input_embeddings()
    cues = phrase_embeddings(table, processor.tokenizer, [CUES[name].phrases[0] for name in CHECKABLE])
    named = phrase_embeddings(table, processor.tokenizer, label_space(labels).labels)
    return cues, named, float(table.weight.detach().float().square().mean().sqrt())


def align_rows(examples: Sequence[Encoded], labels: LabelSpace | str = "ekman7") -> list[Aligned]:
    """What each clip shows, by the truth in its manifest row; without truth only the label counts."""
    rows, space = [], label_space(labels)
    for example, clip, _ in examples:
        truth = cue_truth(example.extra.get("action_units"), example.extra.get("prosody"))
        cues = torch.tensor([torch.nan if truth.get(cue) is None else float(truth[cue]) for cue in CHECKABLE])
        rows.append(Aligned(clip, cues, space.labels.index(true_label(example, space))))
    return rows
