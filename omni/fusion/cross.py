"""Mechanisms of the fourth stage, cross fusion: does conditional interaction help, under conflict or loss above all?

    crossmodal_transformer        each stream attends to each other one               [11]
    instruction_gating            what is asked says which streams count               [12]
    dynamic_modality_attention    what is seen and heard says which streams count      [13]
    composite_interaction         inside a stream, over channels, between streams      [14]

Numbers in brackets are those of the review; letters: see `contract.py`; `h_m` is a stream on its own steps, (B, T, d),
and `A(h_m)` the same on the common grid, (B, K, d). g is a gate over streams, (B, M): it sums to one, and is exactly
zero for a stream that is not there.
"""

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Entered, Fusion, Mixed, pool, received, unit, whole, windows
from .layers import AttentionLayer

PARTS = {"self", "channel", "cross"}  # of the composite interaction


class CrossmodalTransformer(Fusion):
    """Every stream attends to every other one, both ways.

        F_mn = LN(W_mn MHA(h_m, h_n, h_n))      s = [F_mn]_{m≠n} along time      tokens = agg of s over N windows

    agg is the minimum, as in the published best, the mean, the maximum or the first step; with one token it is exactly
    theirs. No residual and no feed-forward part, as in the released code, whose third attention is never called.
    Source: [11] MemoCMT (Khan et al., Sci. Rep. 15:5473, 2025); its text is our picture or any other stream. Dropped:
    dropout of 0.05. Fidelity: exact, as the code; the common clock is ours. A pair with an absent stream gives constant
    rows, which can win a minimum. Maps: `m>n`, (B, T_m, T_n), rows summing to one.

    Args (options):
        aggregate: "min", "mean", "max" or "first".
        heads: of the attention; must divide `width`.
    """

    stage, attention, depth = "cross fusion", "bidirectional cross-modal", "1"
    source, fidelity = "[11] MemoCMT, 10.1038/s41598-025-89202-x", "exact"

    def build(self, aggregate: str = "min", heads: int = 4) -> None:
        """Attention and projection for each ordered pair; a single stream attends to itself."""
        if aggregate not in AGGREGATES:
            raise ValueError(f"Unknown aggregate {aggregate!r}. Choose one of: {', '.join(AGGREGATES)}.")
        self.aggregate, d = aggregate, self.width
        pairs = list(permutations(self.streams, 2)) or [(self.streams[0],) * 2]
        self.pairs = {f"{m}>{n}": (m, n) for m, n in pairs}
        self.attend = nn.ModuleDict({p: nn.MultiheadAttention(d, heads, batch_first=True) for p in self.pairs})
        self.norm = nn.ModuleDict({p: nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d)) for p in self.pairs})

    def fuse(self, x: Entered) -> Mixed:
        """All ordered pairs, one after the other."""
        parts, masks, maps = [], [], {}
        seen: dict[str, Tensor] = {}
        for name, (m, n) in self.pairs.items():
            values = x.hidden[n]
            found, maps[name] = self.attend[name](x.hidden[m], values, values, key_padding_mask=~x.masks[n])
            parts.append(self.norm[name](found))
            masks.append(x.masks[m])
            seen[n] = seen.get(n, 0) + received(maps[name], x.masks[m])
        looks = {n: unit(got) for n, got in seen.items()}
        return Mixed(torch.cat(parts, 1), torch.cat(masks, 1), {"maps": maps, "looks": looks})

    def read(self, mixed: Mixed) -> Tensor:
        """Aggregate N windows."""
        return AGGREGATES[self.aggregate](mixed.sequence, mixed.mask, self.tokens)


def largest(x: Tensor, mask: Tensor, size: int) -> Tensor:
    """As `pool`, with the maximum over each window: (B, T, d), (B, T) -> (B, size, d).

    >>> largest(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]), 1)
    tensor([[[3.]]])
    """
    inside = windows(mask, size)  # one window at a time, else the tensor would be (B, size, T, d)
    return torch.stack(
        [x.masked_fill(~inside[:, j, :, None], torch.finfo(x.dtype).min).amax(1) for j in range(size)], 1
    )


def first(x: Tensor, mask: Tensor, size: int) -> Tensor:
    """As `pool`, with the first step of each window: (B, T, d), (B, T) -> (B, size, d)."""
    at = windows(mask, size).int().argmax(-1)  # (B, size)
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


AGGREGATES = {
    "min": lambda x, mask, size: -largest(-x, mask, size),
    "mean": pool,
    "max": largest,
    "first": first,
}


class InstructionGating(Fusion):
    """What is asked says how much each stream counts.

        g = softmax_m(MLP(mean embedding of the instruction))      out = Σ_m g_m MLP_m(A(h_m))

    Source: [12] HumanOmni (arXiv 2501.15111), whose router weighs three readings of the frames by BERT's view of the
    question and never the sound; R1-Omni (arXiv 2503.05379) took it over (`released.py` has it as it is). Here the idea
    weighs all streams, and BERT is replaced by the language model's own frozen embeddings. Without an instruction a
    learned vector stands for it. Fidelity: exact idea. No maps.
    """

    stage, attention, depth = "cross fusion", "dynamic, by the instruction", "0"
    source, fidelity = "[12] HumanOmni / R1-Omni, arXiv 2503.05379", "exact idea"
    conditioned = True

    def build(self) -> None:
        """A branch for each stream, and the router."""
        d = self.width
        self.branch = self.each(lambda: nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)))
        self.route = nn.Sequential(nn.Linear(self.embedding, d), nn.GELU(), nn.Linear(d, len(self.streams)))
        self.unasked = nn.Parameter(torch.randn(self.embedding) * 0.02)

    def fuse(self, x: Entered) -> Mixed:
        """The streams' branches, weighed."""
        asked = self.unasked.expand(len(x.present), -1) if x.instruction is None else x.instruction
        gates = self.gates_of(self.route(asked), x.present)
        return whole(
            sum(gates[:, i, None, None] * self.branch[m](h) for i, (m, h) in enumerate(x.align().items())), gates=gates
        )


class DynamicModalityAttention(Fusion):
    """The clip itself says, without a label, which stream counts, and the gate is where it has an effect.

        a_m = A(h_m + κ_m(h_m))                    κ_m: the stream's knowledge, a bottleneck
        g   = softmax_m(f_m(mean_t a_m) / τ)       over the streams that are there
        s   ← LN(s + Σ_m g_m F_m(s, a_m))          F_m: cross-attention layer, its last LN before the gate; s⁰ = Σ_m a_m
        s   ← self-attention layer of s            `layers` times
        aux = mean over streams of InfoNCE(mean a_m, mean s) in the batch, over clips that have the stream

    Source: [13] KuDA (Feng et al., Findings of EMNLP 2024, arXiv 2410.04491). Repaired: the released block multiplies
    (1 + ρ_m) into a branch *before* that branch's LayerNorm, which divides it out again (a test shows that such a gate
    is inert), computes ρ from the true label and switches it off at inference. Dropped: the pre-training on unimodal
    labels, dropout of 0.3. Labels never enter `forward`; weights made from labels are what the gate is drawn to in
    alignment (`align.gate_loss`).
    Fidelity: repaired. Maps: each stream's attention in the last layer, (B, K, K), rows summing to one.

    Args (options):
        layers: blocks; three in the paper.
        temperature: τ.
        heads: of the attention; must divide `width`.
    """

    stage, attention, depth = "cross fusion", "dynamic gated cross-modal", "1 in each layer"
    source, fidelity = "[13] KuDA, arXiv 2410.04491", "repaired"

    def build(self, layers: int = 2, temperature: float = 1.0, heads: int = 4) -> None:
        """Knowledge, scores and blocks."""
        d, self.temperature = self.width, temperature
        self.know = self.each(lambda: nn.Sequential(nn.Linear(d, d // 4), nn.GELU(), nn.Linear(d // 4, d)))
        self.score = self.each(lambda: nn.Sequential(nn.Linear(d, d // 2), nn.GELU(), nn.Linear(d // 2, 1)))
        self.cross = nn.ModuleList(self.each(lambda: AttentionLayer(d, heads)) for _ in range(layers))
        self.inside = nn.ModuleList(AttentionLayer(d, heads) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))

    def weigh(self, branches: list[Tensor], gates: Tensor) -> Tensor:
        """Branches (B, K, d) by their gates (B, M): (B, K, d)."""
        return sum(gates[:, i, None, None] * branch for i, branch in enumerate(branches))

    def fuse(self, x: Entered) -> Mixed:
        """Score the streams, then let the sum of all ask each of them, block by block."""
        streams = {m: h + self.know[m](h) for m, h in x.align().items()}
        scores = torch.cat([self.score[m](h.mean(1)) for m, h in streams.items()], 1)  # (B, M)
        gates = self.gates_of(scores / self.temperature, x.present)
        s, maps = sum(streams.values()), {}
        for cross, inside, norm in zip(self.cross, self.inside, self.norm, strict=True):
            branches = []
            for m, h in streams.items():
                branch, maps[m] = cross[m](s, h)
                branches.append(branch)
            s = norm(s + self.weigh(branches, gates))
            s, _ = inside(s, s)
        aux = info_nce(s.mean(1), [h.mean(1) for h in streams.values()], x.present)
        looks = {m: x.steps(m, weights.mean(1)) for m, weights in maps.items()}
        return whole(s, gates=gates, maps=maps, aux=aux, looks=looks)


def info_nce(fused: Tensor, streams: list[Tensor], present: Tensor) -> Tensor:
    """How badly the fused vector (B, d) is told by each stream's (B, d) from those of other clips; cosine similarity.

    A clip counts for the streams that it has, (B, M). Zero for a batch of one, which has no others.
    """
    scores = [F.normalize(h, dim=-1) @ F.normalize(fused, dim=-1).T for h in streams]  # (B, B)
    truth = torch.arange(len(fused), device=fused.device)
    losses = torch.stack([F.cross_entropy(score, truth, reduction="none") for score in scores], 1)  # (B, M)
    return (losses * present).sum() / present.sum().clamp(min=1)


class CompositeInteraction(Fusion):
    """Three interactions, one after the other: inside a stream, over its channels, and with all others.

        self       e_m = h_m + SA_m(h_m)                            SA, CA: attention layers
        channel    e_m ← e_m ⊙ σ(MLP(mean_t e_m))                   squeeze and excite
        cross      out_m = CA_m(e_m, [e_n]_{n≠m})                   out = [out_m] along time

    Source: [14] CCIN-SA (Information Fusion, 2025), of which neither text nor code could be read: the parts are what
    the title names, their form is ours. Fidelity: interpretation, "CCIN-SA-style". Maps: `m`, where m looks in all
    others, (B, T_m, Σ T_n), rows summing to one.

    Args (options):
        parts: which of "self", "channel" and "cross" there are.
        squeeze: by how much the excitation's inner width is smaller.
        heads: of the attention; must divide `width`.
    """

    stage, attention, depth = "cross fusion", "self, channel and cross", "2"
    source, fidelity = "[14] CCIN-SA, Information Fusion 2025", "interpretation"

    def build(self, parts: tuple[str, ...] = ("self", "channel", "cross"), squeeze: int = 8, heads: int = 4) -> None:
        """The layers of the parts that there are."""
        d, inner = self.width, max(1, self.width // squeeze)
        self.parts = tuple(parts)
        if not self.parts or set(self.parts) - PARTS:
            raise ValueError(f"parts are some of {', '.join(sorted(PARTS))}, not {', '.join(self.parts) or 'none'}")
        if "self" in parts:
            self.inside = self.each(lambda: AttentionLayer(d, heads))
        if "channel" in parts:
            self.excite = self.each(
                lambda: nn.Sequential(nn.Linear(d, inner), nn.ReLU(), nn.Linear(inner, d), nn.Sigmoid())
            )
        if "cross" in parts:
            self.across = self.each(lambda: AttentionLayer(d, heads))

    def fuse(self, x: Entered) -> Mixed:
        """Each stream by itself, then with the others."""
        own = {m: self._enhance(m, h, x.masks[m]) for m, h in x.hidden.items()}
        masks, maps = torch.cat([x.masks[m] for m in own], 1), {}
        if "cross" not in self.parts:
            return Mixed(torch.cat(list(own.values()), 1), masks, {})
        out = []
        seen: dict[str, Tensor] = {}
        for m, e in own.items():
            others = [n for n in own if n != m] or [m]
            values, there = (torch.cat([part[n] for n in others], 1) for part in (own, x.masks))
            mixed, maps[m] = self.across[m](e, values, there)
            out.append(mixed)
            parts = received(maps[m], x.masks[m]).split([x.masks[n].shape[1] for n in others], 1)
            seen |= {n: seen.get(n, 0) + got for n, got in zip(others, parts, strict=True)}
        looks = {n: unit(got) for n, got in seen.items()}
        return Mixed(torch.cat(out, 1), masks, {"maps": maps, "looks": looks})

    def _enhance(self, name: str, h: Tensor, mask: Tensor) -> Tensor:
        """A stream after its own attention and excitation, (B, T, d)."""
        if "self" in self.parts:
            h = h + self.inside[name](h, h, mask)[0]
        return h * self.excite[name](pool(h, mask, 1)) if "channel" in self.parts else h
