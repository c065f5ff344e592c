"""Before the cold start: turn soft tokens towards the words for what they show.

A fresh fusion adapter puts out vectors that mean nothing to the language model, and most of a short supervised run is
spent on giving them a meaning. This step does it without running the language model at all. With e(w) the mean input
embedding of a phrase w and y the N soft tokens of a clip,

    score(w) = a · max_n cos(y_n, e(w)) + b_w

is trained to tell which cues a clip shows (binary cross-entropy; cues whose truth is unknown count for nothing) and
which label it has (cross-entropy over the labels). Tokens then lie where the language model's own words for the cues
lie, at the length of its embeddings. It takes minutes on cached features. The idea is CLIP's (Radford et al. 2021,
arXiv 2103.00020) with the decoder's embedding table in the place of a text encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .features import ClipFeatures, collate
from .fusion import Fusion


@dataclass(frozen=True)
class Aligned:
    """What a clip shows: `cues` is 1, 0 or NaN (unknown) for every phrase, `label` an index, or -100 if unknown."""

    clip: ClipFeatures
    cues: Tensor  # (phrases,)
    label: int


@dataclass(frozen=True)
class AlignOptions:
    """Settings of `align`.

    Attributes:
        epochs: passes over the clips.
        batch: clips in a step.
        rate: learning rate, with a linear decay to zero.
        drop: chance that one stream of a clip is left out, so that no stream is relied on alone.
    """

    epochs: int = 30
    batch: int = 64
    rate: float = 1e-3
    drop: float = 0.25
    seed: int = 0


class WordScores(nn.Module):
    """Scores of phrases for soft tokens: a · max_n cos(y_n, e(w)) + b_w."""

    def __init__(self, phrases: Tensor):
        super().__init__()
        self.register_buffer("phrases", nn.functional.normalize(phrases.float(), dim=-1))  # (W, E)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.zeros(len(phrases)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, E) -> (B, W)."""
        cosine = nn.functional.normalize(tokens.float(), dim=-1) @ self.phrases.T  # (B, N, W)
        return self.scale * cosine.amax(1) + self.bias


def phrase_embeddings(table: nn.Embedding, tokenizer, phrases: Sequence[str]) -> Tensor:
    """Mean input embedding of each phrase, centred on the table's mean, (W, E): without it all phrases look alike."""
    rows = [tokenizer(" " + p, add_special_tokens=False, return_tensors="pt").input_ids[0] for p in phrases]
    weight = table.weight.detach().float()
    return torch.stack([weight[ids].mean(0) for ids in rows]) - weight.mean(0)


def align(
    fusion: Fusion,
    rows: Sequence[Aligned],
    cues: Tensor,
    labels: Tensor,
    length: float,
    options: AlignOptions = AlignOptions(),
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[WordScores, WordScores]:
    """Train a fusion adapter in place; returns the two scorers, for measuring.

    Args:
        cues: phrase embeddings of the cues, (W, E).
        labels: phrase embeddings of the labels, (labels, E).
        length: root mean square of the language model's embeddings; tokens get the same.
        progress: called with (step, steps, loss).
    """
    torch.manual_seed(options.seed)
    fit_streams(fusion, [row.clip for row in rows])
    with torch.no_grad():
        fusion.output[-1].weight.fill_(length)
    cue_scores, label_scores = WordScores(cues), WordScores(labels)
    parameters = [*fusion.parameters(), *cue_scores.parameters(), *label_scores.parameters()]
    steps = options.epochs * max(1, len(rows) // options.batch)
    optimizer = torch.optim.AdamW(parameters, options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    fusion.train()
    for step in range(steps):
        chosen = torch.randint(len(rows), (options.batch,)).tolist()
        batch = [rows[i] for i in chosen]
        tokens = fusion(*collate([_dropped(row.clip, options.drop) for row in batch])).tokens
        loss = loss_of(cue_scores(tokens), label_scores(tokens), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, steps, float(loss.detach()))
    fusion.eval()
    return cue_scores, label_scores


def loss_of(cue_logits: Tensor, label_logits: Tensor, rows: Sequence[Aligned]) -> Tensor:
    """Cross-entropy of known cues and labels."""
    truth = torch.stack([row.cues for row in rows])
    known = ~truth.isnan()
    cue = nn.functional.binary_cross_entropy_with_logits(cue_logits[known], truth[known])
    label = nn.functional.cross_entropy(label_logits, torch.tensor([row.label for row in rows]), ignore_index=-100)
    return 2 * cue + label


def fit_streams(fusion: Fusion, clips: Sequence[ClipFeatures]) -> None:
    """Standardise the adapter's input by the features of these clips."""
    parts = {
        name: [c.features[name][~c.times[name].isnan()] for c in clips if name in c.features] for name in fusion.streams
    }
    fusion.standardise({name: steps for name, steps in parts.items() if steps})


def _dropped(clip: ClipFeatures, chance: float) -> ClipFeatures:
    """The clip with one stream left out, sometimes."""
    if len(clip.features) < 2 or torch.rand(()) > chance:
        return clip
    names = sorted(clip.features)
    return clip.without(names[int(torch.randint(len(names), ()))])


@torch.no_grad()
def token_scores(fusion: Fusion, scores: WordScores, clips: Sequence[ClipFeatures], batch: int = 64) -> Tensor:
    """Scores (clips, W) of aligned tokens, for measuring."""
    parts = [scores(fusion(*collate(clips[i : i + batch])).tokens) for i in range(0, len(clips), batch)]
    return torch.cat(parts)
