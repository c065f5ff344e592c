"""Examples and their encoded clips to rows for TRL's `SFTTrainer`.

    {"messages": [user: clip + prompt, assistant: answer], "images": [], "length": tokens, roughly}

An empty `images` column makes TRL take its collator for multimodal models, which hands the clips to our processor.
A row holds the path of an encoded clip, never its features: rows are copied, shuffled and logged.

One clip gives up to two rows: a reasoned answer, and a plain label (`--no-think`). In a share of the rows the face's
detail is left out, so that what is learned from the expression net's own probabilities, which carry over to real
faces best, does not wither beside features that are better on rendered faces (`docs/data.md`). Where the detail is
left out the rationale is `extra["rationale_plain"]`, which claims nothing that only the detail could show.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .align import Aligned, phrase_embeddings
from .answer import QUESTION, format_answer, prompt
from .cues.lexicon import CUES
from .cues.truth import cue_truth
from .emotions import EKMAN7
from .features import ClipFeatures
from .manifest import Example


@dataclass(frozen=True)
class RowOptions:
    """What rows are made of a clip.

    Attributes:
        reasoned: share of clips that give a row with reasons.
        labelled: share of clips that give a row with the label only.
        plain: share of rows without the face's detail.
        words: share of rows that quote the transcript, where there is one.
    """

    reasoned: float = 1.0
    labelled: float = 1.0
    plain: float = 0.3
    words: float = 0.5
    seed: int = 0


def sft_rows(examples: Sequence[tuple[Example, ClipFeatures, Path]], options: RowOptions) -> list[dict]:
    """Rows for the cold start.

    Args:
        examples: an example, its encoded clip, and the file of the encoded clip.
    """
    rng = random.Random(options.seed)
    rows = []
    for example, clip, path in examples:
        for share, think in ((options.reasoned, True), (options.labelled, False)):
            if rng.random() >= share or (think and not example.rationale):
                continue
            plain = "expression" in clip.features and rng.random() < options.plain
            words = (example.extra.get("text") or clip.transcript) if rng.random() < options.words else None
            rows.append(_row(example, clip, path, think, plain, words))
    rng.shuffle(rows)
    return rows


def _row(example: Example, clip: ClipFeatures, path: Path, think: bool, plain: bool, words: str | None) -> dict:
    thought = (example.extra.get("rationale_plain") if plain else example.rationale) or example.rationale
    text = prompt(example.question or QUESTION, EKMAN7, think=think, modalities=clip.modalities, transcript=words)
    answer = format_answer(example.label, thought if think else "")
    part = {"type": "video", "path": str(path), "text": None, "without": ["video"] if plain else []}
    return {
        "messages": [
            {"role": "user", "content": [part, {"type": "text", "path": None, "text": text, "without": []}]},
            {"role": "assistant", "content": [{"type": "text", "path": None, "text": answer, "without": []}]},
        ],
        "images": [],
        "length": len((text + answer).split()),
    }


def vocabulary(model, processor) -> tuple[Tensor, Tensor, float]:
    """What tokens are aligned with: embeddings of the cues (W, E) and labels (labels, E), and the length of embeddings."""
    table = model.get_input_embeddings()
    cues = phrase_embeddings(table, processor.tokenizer, [cue.phrases[0] for cue in CUES.values()])
    labels = phrase_embeddings(table, processor.tokenizer, EKMAN7)
    return cues, labels, float(table.weight.detach().float().square().mean().sqrt())


def align_rows(examples: Sequence[tuple[Example, ClipFeatures, Path]]) -> list[Aligned]:
    """What each clip shows, by the truth in its manifest row; without truth only the label counts."""
    rows = []
    for example, clip, _ in examples:
        truth = cue_truth(example.extra.get("action_units"), example.extra.get("prosody"))
        cues = torch.tensor([torch.nan if truth.get(cue) is None else float(truth[cue]) for cue in CUES])
        rows.append(Aligned(clip, cues, EKMAN7.index(example.label)))
    return rows
