"""The contract of every fusion mechanism: streams in, a fixed number of soft tokens out.

    h_m = LN(W_m (x_m - mu_m) / sigma_m) + clock(t_m)      input projection and common clock, in seconds
    s   = fuse(h, k, …)                                    what a mechanism adds
    y   = LN(MLP(pool_N(s)))                               N tokens as wide as the language model's embeddings

Letters: `B` clips, `M` streams, `T` steps of a stream, `D` its width, `d` the width inside, `K` bins of the common
grid of time, `N` soft tokens, `E` the width of the language model, `L` tokens of the instruction. The base class owns
the projections, the clock, one learned absent token per stream, masked pooling and the output; a mechanism overrides
only `build` and `fuse`, so that rows of a comparison differ in nothing else.

What is said in a clip is a stream like any other; what is *asked* of it, the instruction, is a condition. A further
series (EEG, heart rate) is one more stream, `physio`, with a width of its own.

Mechanisms that relate streams step by step need one axis of time: `Entered.align` brings every stream to K bins between
the first and the last second at which any stream of the clip has a step. With c_j the bins' centres, Delta apart,

    A(h)_j = Σ_t w_jt h_t,   w_j = softmax_t(-2 (t - c_j)² / Delta²)     over the steps that are there

so a bin without a step of its own takes the nearest, whatever the stream's rate, and padding changes nothing.

Features are standardised by statistics of the training set (`mean`, `std`, kept with the weights), not by a
LayerNorm on each vector: the length of a vector of log-probabilities is its confidence, and a LayerNorm erases it.

A gated stream is believed only where it is like what was trained on. Of standardised steps z, with Q the first
principal axes of the training set,

    novelty = mean_t |z_t - Q Q' z_t|² / mean_t |z_t|²

and a clip whose novelty exceeds nearly all of the training set counts as if the stream were missing: features that are
good on one kind of picture and mislead on another then step back for those that hold on both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

AUX = 0.1  # weight of an auxiliary loss, the same for all mechanisms
CLOCK_PERIODS = (0.5, 64.0)  # seconds; from a syllable to a minute
AXES = 100  # principal axes that make a stream familiar
FAMILIAR = 0.99  # share of training clips within the limit of novelty
STEPS = 12_000  # training steps that the axes are taken from


class Instruction(NamedTuple):
    """What the clip is asked: ids and mask (B, L), and for the mechanisms of this contract the frozen input embeddings
    (B, L, E) of these ids. The released projectors read ids of BERT's own words and get no embeddings.
    """

    ids: Tensor
    mask: Tensor
    embeds: Tensor | None = None


@dataclass(frozen=True)
class Fused:
    """What a fusion adapter puts out.

    Attributes:
        parts: soft tokens {placeholder: (B, N, E)}; one part, "clip", for all but the released projectors.
        present: {placeholder: (B, N)}, which tokens there are; all of them, for a part that is not named here.
        gates: weight of each stream, (B, M), in the order of `Fusion.streams`: sums to one, and is exactly zero for a
            stream that is not there (all are, if none is there). None for mechanisms without a gate.
        maps: attention maps by name; what their axes are, the mechanism's docstring says.
        aux: an auxiliary loss, which training adds to its own with weight `AUX`.
        bins: seconds of the centres of the common grid, (B, K): the time axis of maps over bins.
        looks: what of the maps can be read as attention to a stream's own steps: {stream: (B, T)}, summing to one over
            the steps that are there, zero for a stream that is not; empty for mechanisms that do not weigh time.
    """

    parts: dict[str, Tensor]
    present: dict[str, Tensor] = field(default_factory=dict)
    gates: Tensor | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)
    aux: Tensor | float = 0.0
    bins: Tensor | None = None
    looks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor:
        """The tokens of all parts, one after the other, (B, N, E)."""
        return torch.cat(list(self.parts.values()), 1)


@dataclass(frozen=True)
class Entered:
    """The streams of B clips as a mechanism gets them.

    Attributes:
        hidden: {stream: (B, T, d)}, projected; a stream that is not there holds its one learned absent token.
        masks: {stream: (B, T)}, the steps that are there; the absent token counts as one.
        seconds: {stream: (B, T)}; zero where masked.
        present: which streams are really there, (B, M).
        bins: centres of the common grid, in seconds, (B, K).
        spacing: seconds between two centres, (B,).
        instruction: mean embedding of what is asked, (B, E), or None.
    """

    hidden: dict[str, Tensor]
    masks: dict[str, Tensor]
    seconds: dict[str, Tensor]
    present: Tensor
    bins: Tensor
    spacing: Tensor
    instruction: Tensor | None = None

    def align(self) -> dict[str, Tensor]:
        """All streams on the common grid: {stream: (B, K, d)}."""
        return {m: self._weights(m).to(h.dtype) @ h for m, h in self.hidden.items()}

    def steps(self, name: str, weights: Tensor) -> Tensor:
        """Weights of bins (B, K) as weights of a stream's own steps, (B, T), summing to one."""
        return unit((weights[:, None].float() @ self._weights(name))[:, 0])

    def _weights(self, name: str) -> Tensor:
        """How much each step counts in each bin, (B, K, T); rows sum to one."""
        away = (self.seconds[name][:, None] - self.bins[..., None]) / self.spacing[:, None, None]
        return (-2 * away.square()).masked_fill(~self.masks[name][:, None], -math.inf).softmax(-1)


class Mixed(NamedTuple):
    """What a mechanism returns from `fuse`: a sequence (B, S, d), its mask (B, S), and extras of `Fused`."""

    sequence: Tensor
    mask: Tensor
    extras: dict


def whole(sequence: Tensor, **extras) -> Mixed:
    """A sequence without padding, with its extras."""
    return Mixed(sequence, sequence.new_ones(sequence.shape[:2], dtype=torch.bool), extras)


class Fusion(nn.Module):
    """Base class of the mechanisms in `FUSIONS`. Its class attributes are the descriptive columns of a comparison.

    Attributes:
        stage: of the review's four (foundation, optimization, multi-scale, cross fusion), or control.
        attention: the kind of attention.
        depth: multiplicative interactions of streams that are stacked in the adapter.
        source: the paper.
        fidelity: how faithful we are to it: exact, repaired, ancestor's equations, inferred or interpretation.
        conditioned: whether it reads the instruction, as embeddings of the language model.

    Args:
        widths: width of every stream, by name.
        embedding: `E`, the width of the language model.
        tokens: `N`, how many soft tokens to put out.
        width: `d`, the width inside.
        clock: add the common clock to every stream.
        gated: streams that count as missing where they are unlike the training set.
        bins: `K`, bins of the common grid of time.
        options: of the mechanism.
    """

    stage: ClassVar[str]
    attention: ClassVar[str]
    depth: ClassVar[str]
    source: ClassVar[str]
    fidelity: ClassVar[str]
    conditioned: ClassVar[bool] = False

    def __init__(
        self,
        widths: dict[str, int],
        embedding: int,
        tokens: int,
        width: int = 256,
        clock: bool = True,
        gated: Sequence[str] = (),
        bins: int = 32,
        **options,
    ):
        super().__init__()
        self.streams, self.tokens, self.width, self.clock = tuple(widths), tokens, width, clock
        self.embedding, self.bins = embedding, bins
        self.regate: Callable[[Tensor], Tensor] | None = None  # what a control does to the gates, (B, M) to (B, M)
        self.gated = tuple(gated)
        for name, size in widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        for name in self.gated:
            self.register_buffer(f"{name}_axes", torch.zeros(widths[name], min(AXES, widths[name])))
            self.register_buffer(f"{name}_limit", torch.tensor(math.inf))  # until `standardise`: all is familiar
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width)) for m, size in widths.items()}
        )
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.randn(width) * 0.02) for m in widths})
        self.output = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, embedding),
            nn.GELU(),
            nn.Linear(embedding, embedding),
            nn.LayerNorm(embedding),
        )
        self.build(**options)

    def build(self) -> None:
        """Make the mechanism's own layers."""

    def fuse(self, x: Entered) -> Mixed:
        """Mix the streams of B clips."""
        raise NotImplementedError

    def read(self, mixed: Mixed) -> Tensor:
        """The sequence of a mechanism to N places: (B, N, d)."""
        return pool(mixed.sequence, mixed.mask, self.tokens)

    def gates_of(self, scores: Tensor, present: Tensor) -> Tensor:
        """The gate (B, M) of scores (B, M), or what a control makes of it."""
        gates = gate(scores, present)
        return gates if self.regate is None else self.regate(gates)

    def each(self, make: Callable[[], nn.Module]) -> nn.ModuleDict:
        """One layer for every stream."""
        return nn.ModuleDict({m: make() for m in self.streams})

    def forward(
        self, features: dict[str, Tensor], times: dict[str, Tensor], instruction: Instruction | None = None
    ) -> Fused:
        """Fuse the streams of B clips.

        Args:
            features: {stream: (B, T, D)}; a stream that is not there is absent.
            times: {stream: (B, T)} in seconds, NaN where a step is padding or missing.
            instruction: for mechanisms conditioned on it.
        """
        mixed = self.fuse(entered := self.enter(features, times, instruction))
        looks = mixed.extras.pop("looks", {})
        there = {m: entered.present[:, i, None] for i, m in enumerate(self.streams)}
        return Fused(
            {"clip": self.output(self.read(mixed))},
            bins=entered.bins,
            looks={m: weights * there[m] for m, weights in looks.items()},
            **mixed.extras,
        )

    def enter(
        self, features: dict[str, Tensor], times: dict[str, Tensor], instruction: Instruction | None = None
    ) -> Entered:
        """The streams of B clips, projected, with absent tokens where there are none; arguments as in `forward`."""
        batch = len(next(iter(features.values())))
        hidden, masks, seconds, present = {}, {}, {}, []
        for name in self.streams:
            if name in features:
                hidden[name], masks[name], there = self._enter(name, features[name], times[name])
                seconds[name] = times[name].float().nan_to_num(0.0)
            else:
                hidden[name] = self.absent[name].expand(batch, 1, -1)
                masks[name] = torch.ones(batch, 1, dtype=torch.bool, device=hidden[name].device)
                seconds[name] = torch.zeros(batch, 1, device=hidden[name].device)
                there = ~masks[name][:, 0]
            present.append(there)
        here = torch.stack(present, 1)  # (B, M)
        centres, spacing = self._grid([masks[m] & here[:, i, None] for i, m in enumerate(self.streams)], seconds)
        asked = None
        if instruction is not None and instruction.embeds is not None:
            asked = pool(instruction.embeds.to(self.output[1].weight.dtype), instruction.mask.bool(), 1)[:, 0]
        return Entered(hidden, masks, seconds, here, centres, spacing, asked)

    def _grid(self, masks: list[Tensor], seconds: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Centres of K bins over the time that the streams cover, and their spacing: (B, K), (B,)."""
        real, at = torch.cat(masks, 1), torch.cat(list(seconds.values()), 1)
        start = at.masked_fill(~real, math.inf).amin(1).nan_to_num(posinf=0.0)  # (B,); no stream at all: zero
        end = at.masked_fill(~real, -math.inf).amax(1).nan_to_num(neginf=0.0)
        spacing = ((end - start) / self.bins).clamp(min=1e-3)
        steps = torch.arange(self.bins, device=at.device) + 0.5
        return start[:, None] + steps * spacing[:, None], spacing

    def _enter(self, name: str, x: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = ~seconds.isnan()  # (B, T)
        z = self._standard(name, x, mask)
        if name in self.gated:
            mask = mask & ~self._strange(name, z, mask)[:, None]
        h = self.project[name](z)  # (B, T, d)
        if self.clock:
            h = h + clock(seconds.nan_to_num(0.0), self.width).to(h.dtype)
        missing = ~mask.any(1)  # (B,)
        h = torch.where(missing[:, None, None], self.absent[name].to(h.dtype), h)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        mask = torch.where(missing[:, None], first, mask)
        return h * mask[..., None], mask, ~missing

    def _standard(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
        return ((x.to(mean.dtype) - mean) / std).clamp(-8, 8).masked_fill(~mask[..., None], 0.0)

    @torch.no_grad()
    def unfamiliar(self, features: dict[str, Tensor], times: dict[str, Tensor]) -> dict[str, Tensor]:
        """Clips whose gated stream is left aside since it is unlike the training set: {stream: (B,) bool}."""
        masks = {name: ~times[name].isnan() for name in self.gated if name in features}
        return {
            name: self._strange(name, self._standard(name, features[name], mask), mask) for name, mask in masks.items()
        }

    def _strange(self, name: str, z: Tensor, mask: Tensor) -> Tensor:
        """Whether the standardised steps (B, T, D) of a gated stream are there and beyond its limit: (B,)."""
        return mask.any(1) & (novelty(z, mask, getattr(self, f"{name}_axes")) > getattr(self, f"{name}_limit"))

    @torch.no_grad()
    def standardise(self, clips: dict[str, Sequence[Tensor]]) -> None:
        """Set the statistics of the streams from the features of training clips, {stream: [(T, D), …]}."""
        for name, parts in clips.items():
            x = torch.cat(list(parts)).float()
            getattr(self, f"{name}_mean").copy_(x.mean(0))
            spread = x.std(0, correction=min(1, len(x) - 1))  # of a single step: none
            getattr(self, f"{name}_std").copy_(spread.clamp(min=1e-4))
            if name in self.gated:
                self._learn_familiar(name, parts)

    def _learn_familiar(self, name: str, parts: Sequence[Tensor]) -> None:
        """Axes from one half of the clips, the limit from the other, which the axes have not seen.

        With fewer steps than axes, or no other half, all is familiar.
        """
        axes, limit = getattr(self, f"{name}_axes"), getattr(self, f"{name}_limit")
        parts = [x.to(axes.device) for x in parts]
        every = torch.ones(1, max(map(len, parts)), dtype=torch.bool, device=axes.device)
        z = [self._standard(name, x.float()[None], every[:, : len(x)]) for x in parts]
        seen = torch.cat([x[0] for x in z[::2]])
        generator = torch.Generator().manual_seed(0)
        seen = seen[torch.randperm(len(seen), generator=generator)[:STEPS]]
        found = torch.linalg.svd(seen, full_matrices=False).Vh[: axes.shape[1]].T  # (D, K), or fewer columns
        axes.zero_()[:, : found.shape[1]] = found
        limit.fill_(math.inf)
        if len(z) > 1 and found.shape == axes.shape:
            values = torch.cat([novelty(x, every[:, : x.shape[1]], axes) for x in z[1::2]])
            limit.copy_(values.quantile(FAMILIAR))


def novelty(z: Tensor, mask: Tensor, axes: Tensor) -> Tensor:
    """Share of the steps' square length that lies outside the axes, 0 to 1; 0 for a clip without steps: (B,).

    Args:
        z: standardised steps (B, T, D), zero where masked.
        mask: (B, T).
        axes: orthonormal columns (D, K).

    >>> novelty(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[True]]), torch.tensor([[1.0], [0.0]]))
    tensor([0.6400])
    """
    whole = z.square().sum((1, 2))
    inside = (z @ axes).square().sum((1, 2))
    return torch.where(mask.any(1), (whole - inside) / whole.clamp(min=1e-6), 0.0)


def clock(seconds: Tensor, width: int) -> Tensor:
    """Sinusoids of time in seconds, (..., width), periods from 0.5 s to 64 s: one time axis for all streams.

    >>> clock(torch.tensor([0.0]), 4)
    tensor([[0., 0., 1., 1.]])
    """
    low, high = (math.log(p) for p in CLOCK_PERIODS)
    periods = torch.linspace(low, high, width // 2, device=seconds.device).exp()
    phase = seconds[..., None].float() * (2 * math.pi / periods)
    return torch.cat([phase.sin(), phase.cos()], -1)


def pool(x: Tensor, mask: Tensor, size: int) -> Tensor:
    """Masked adaptive average pooling over time: (B, T, d), (B, T) -> (B, size, d).

    Bin j of row b averages the valid steps with rank in [floor(jL/size), ceil((j+1)L/size)), L valid steps in all, so
    padding changes nothing and fewer steps than bins are repeated.

    >>> pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]), 1)
    tensor([[[2.]]])
    """
    weight = windows(mask, size).to(x.dtype)
    return (weight / weight.sum(-1, keepdim=True).clamp(min=1)) @ x


def unit(weights: Tensor) -> Tensor:
    """Weights (B, T) scaled to sum to one; for reading, so without a gradient."""
    weights = weights.detach().float()
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def received(attention: Tensor, mask: Tensor) -> Tensor:
    """How much each key gets of the queries that are there: (B, Q, T), (B, Q) -> (B, T)."""
    return pool(attention, mask, 1)[:, 0]


def windows(mask: Tensor, size: int) -> Tensor:
    """Which steps each bin of `pool` holds: (B, T) -> (B, size, T), bool."""
    length = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    rank = (mask.cumsum(1) - 1)[:, None]  # (B, 1, T)
    bins = torch.arange(size, device=mask.device)[None]  # (1, size)
    low, high = bins * length // size, ((bins + 1) * length + size - 1) // size
    return (rank >= low[..., None]) & (rank < high[..., None]) & mask[:, None]


def gate(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the streams that are there, (B, M); exactly zero for the others, and for all where none is there.

    >>> gate(torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    some = present | ~present.any(1, keepdim=True)  # a softmax over nothing would be NaN
    return scores.masked_fill(~some, -math.inf).softmax(-1) * present


def shares_of(tokens: int, streams: Sequence[str]) -> dict[str, int]:
    """Equal shares of the tokens, the first streams taking what is left over.

    >>> shares_of(5, ["video", "audio"])
    {'video': 3, 'audio': 2}
    """
    equal, rest = divmod(tokens, len(streams))
    return {m: equal + (i < rest) for i, m in enumerate(streams)}
