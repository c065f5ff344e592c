"""Before the cold start: turn soft tokens towards the words for what they show.

A fresh fusion adapter puts out vectors that mean nothing to the language model, and most of a short supervised run is
spent on giving them a meaning. This step does it without running the language model at all. With e(w) the mean input
embedding of a phrase w and y the N soft tokens of a clip,

    cue    s(w) = a · max_n cos(y_n, e(w)) + b_w        some token shows it
    label  s(w) = a · mean_n cos(y_n, e(w)) + b_w       every token votes

is trained to tell which cues a clip shows (binary cross-entropy; cues whose truth is unknown count for nothing) and
which label it has (cross-entropy over the labels). Tokens then lie where the language model's own words for the cues
lie, at the length of its embeddings. It takes minutes on cached features. The idea is CLIP's (Radford et al. 2021,
arXiv 2103.00020) with the decoder's embedding table in the place of a text encoder.

That labels are voted on makes face and voice add up, as independent evidence does: with the maximum in both places the
voice was worth 0.03 UAR beside a face, with votes 0.09 (`docs/log.md`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .features import ClipFeatures, collate, to_device
from .fusion import AUX, Fusion
from .fusion.contract import gate


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
        drop_audio: chance that the audio tower's features are left out besides. They know the words spoken, and with
            few sentences in training they are fitted to those; prosody carries over to other voices better.
        noise: standard deviation of the noise on standardised features.
    """

    epochs: int = 20
    batch: int = 64
    rate: float = 1e-3
    drop: float = 0.25
    drop_audio: float = 0.6
    noise: float = 0.15
    seed: int = 0


class WordScores(nn.Module):
    """Scores of phrases for soft tokens.

    Args:
        phrases: their embeddings, (W, E).
        votes: every token votes, instead of the best one deciding.
    """

    def __init__(self, phrases: Tensor, votes: bool = False):
        super().__init__()
        self.register_buffer("phrases", nn.functional.normalize(phrases.float(), dim=-1))  # (W, E)
        self.votes = votes
        self.scale = nn.Parameter(torch.tensor(30.0 if votes else 10.0))
        self.bias = nn.Parameter(torch.zeros(len(phrases)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, E) -> (B, W)."""
        cosine = nn.functional.normalize(tokens.float(), dim=-1) @ self.phrases.T  # (B, N, W)
        return self.scale * (cosine.mean(1) if self.votes else cosine.amax(1)) + self.bias


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
    device = next(fusion.parameters()).device
    fit_streams(fusion, [row.clip for row in rows])
    with torch.no_grad():
        fusion.output[-1].weight.fill_(length)
    cue_scores, label_scores = WordScores(cues).to(device), WordScores(labels, votes=True).to(device)
    parameters = [*fusion.parameters(), *cue_scores.parameters(), *label_scores.parameters()]
    steps = options.epochs * max(1, len(rows) // options.batch)
    optimizer = torch.optim.AdamW(parameters, options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    fusion.train()
    for step in range(steps):
        chosen = torch.randint(len(rows), (options.batch,)).tolist()
        batch = [rows[i] for i in chosen]
        features, times = (to_device(x, device) for x in collate([_dropped(row.clip, options) for row in batch]))
        features = _noisy(fusion, features, options.noise)
        fused = fusion(features, times)
        loss = loss_of(cue_scores(fused.tokens), label_scores(fused.tokens), batch) + AUX * fused.aux
        if fused.gates is not None:
            loss = loss + AUX * gate_loss(fusion, fused.gates, features, times, label_scores, batch)
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
    truth = torch.stack([row.cues for row in rows]).to(cue_logits.device)
    known = ~truth.isnan()
    cue = nn.functional.binary_cross_entropy_with_logits(cue_logits[known], truth[known])
    named = torch.tensor([row.label for row in rows], device=label_logits.device)
    label = nn.functional.cross_entropy(label_logits, named, ignore_index=-100)
    return 2 * cue + label


def gate_loss(
    fusion: Fusion,
    gates: Tensor,
    features: dict[str, Tensor],
    times: dict[str, Tensor],
    scores: WordScores,
    rows: Sequence[Aligned],
) -> Tensor:
    """How far the gate is from what each stream alone knows of the label: mean KL(ρ ‖ g), ρ = softmax_m(-loss_m).

    Labels stand in this loss alone; the gate itself sees the clip. Rows without a label count for nothing.
    """
    truth = torch.tensor([row.label for row in rows], device=gates.device)
    with torch.no_grad():
        alone = [
            nn.functional.cross_entropy(
                scores(fusion({m: features[m]}, {m: times[m]}).tokens), truth, ignore_index=-100, reduction="none"
            )
            if m in features
            else gates.new_zeros(len(rows))
            for m in fusion.streams
        ]
        target = gate(-torch.stack(alone, 1), gates > 0)  # (B, M)
    divergence = nn.functional.kl_div(gates.clamp(min=1e-8).log(), target, reduction="none").sum(1)
    known = (truth != -100) & (gates > 0).any(1)
    return (divergence * known).sum() / known.sum().clamp(min=1)


def fit_streams(fusion: Fusion, clips: Sequence[ClipFeatures]) -> None:
    """Standardise the adapter's input by the features of these clips."""
    parts = {
        name: [c.features[name][~c.times[name].isnan()] for c in clips if name in c.features] for name in fusion.streams
    }
    fusion.standardise({name: steps for name, steps in parts.items() if steps})


def _dropped(clip: ClipFeatures, options: AlignOptions) -> ClipFeatures:
    """The clip with streams left out, sometimes; one always stays."""
    names = sorted(clip.features)
    if len(names) > 1 and torch.rand(()) < options.drop:
        clip = clip.without(names[int(torch.randint(len(names), ()))])
    if len(clip.features) > 1 and torch.rand(()) < options.drop_audio:
        clip = clip.without("audio")
    return clip


def _noisy(fusion: Fusion, features: dict[str, Tensor], size: float) -> dict[str, Tensor]:
    """Features with noise in proportion to each one's spread over the training set."""
    return {m: x + size * getattr(fusion, f"{m}_std") * torch.randn_like(x) for m, x in features.items()}


@torch.no_grad()
def token_scores(fusion: Fusion, scores: WordScores, clips: Sequence[ClipFeatures], batch: int = 64) -> Tensor:
    """Scores (clips, W) of aligned tokens, for measuring."""
    device = next(fusion.parameters()).device
    scores = scores.to(device)
    parts = []
    for i in range(0, len(clips), batch):
        features, times = (to_device(x, device) for x in collate(clips[i : i + batch]))
        parts.append(scores(fusion(features, times).tokens))
    return torch.cat(parts)
