"""Mechanisms of the second stage, optimization: does it help to model interactions, and to go over them again?

    pairwise_attention           streams two by two, the attended partner multiplied in      [9]
    recursive_joint_attention    each stream against all of them together, several times      [8]

Numbers in brackets are those of the review; letters: see `contract.py`; `h_m` is a stream on the common grid,
(B, K, d).
"""

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Entered, Fusion, Mixed, whole


class PairwiseAttention(Fusion):
    """What a stream attends to in another is multiplied into it: an interaction of second order.

        X = BiGRU(h_m), Y = BiGRU(h_n)      P = softmax(X Y') Y ⊙ X      Q = softmax(Y X') X ⊙ Y
        out = W [relu(W_mn [P; Q]) for all pairs; X for all streams]

    Source: [9] attention-based fusion in conversation (Huddar et al., IJIMAI 6(6), 2021), whose text could not be read;
    the pair is that of its ancestor Multilogue-Net. Dropped: GRUs for the state of each party, since our clips have no
    dialogue, and the stage that fuses pairs of pairs, which is one linear layer here. Earlier clips of a conversation
    can be given as one more stream (`history`). Fidelity: ancestor's equations. Maps: `a>b`, where the steps of a look
    in b, (B, K, K); rows sum to one.
    """

    stage, attention, depth = "optimization", "gated pairwise cross-modal", "2"
    source, fidelity = "[9] Huddar et al., IJIMAI 2021", "ancestor's equations"

    def build(self) -> None:
        """A BiGRU for each stream, a layer for each pair."""
        d, self.pairs = self.width, list(combinations(self.streams, 2))
        self.recur = self.each(lambda: nn.GRU(d, d // 2, batch_first=True, bidirectional=True))
        self.join = nn.ModuleList(nn.Linear(2 * d, d) for _ in self.pairs)
        self.mix = nn.Linear((len(self.pairs) + len(self.streams)) * d, d)

    def fuse(self, x: Entered) -> Mixed:
        """All pairs, and the streams themselves."""
        states = {m: self.recur[m](h)[0] for m, h in x.align().items()}
        found, maps = [], {}
        for (m, n), join in zip(self.pairs, self.join, strict=True):
            joint, maps[f"{m}>{n}"], maps[f"{n}>{m}"] = pair(states[m], states[n])
            found.append(join(joint).relu())
        return whole(self.mix(torch.cat([*found, *states.values()], -1)), maps=maps, looks=self._looks(x, maps))

    def _looks(self, x: Entered, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each stream's steps get from all the others."""
        into = {n: [a.mean(1) for name, a in maps.items() if name.endswith(f">{n}")] for n in self.streams}
        return {n: x.steps(n, torch.stack(parts).sum(0)) for n, parts in into.items() if parts}


def pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[P; Q] of two streams (B, K, d), (B, K, 2d), and the two attentions (B, K, K)."""
    scores = x @ y.transpose(1, 2)
    forth, back = scores.softmax(-1), scores.transpose(1, 2).softmax(-1)
    return torch.cat([forth @ y * x, back @ x * y], -1), forth, back


class RecursiveJointAttention(Fusion):
    """Each stream is correlated with the joint representation of all, and the result is fed back, `recursions` times.

    Paper and released code disagree on the correlation; `form` chooses. With X_m = h_m and D = M d:

        "channel", the code:    J = [X_m]_m            C_m = tanh((V_m X_m)' J / √D)      (B, d, D)
                                X_m ← X_m + relu(W_m relu(tanh(X_m C_m)))                 V_m is K x K, along time
        "time", as printed:     J = W [X_m]_m          C_m = tanh(X_m V_m J' / √D)        (B, K, K)
                                X_m ← X_m + (W_m relu(U_m X_m ∘ C_m))                     U_m, W_m are K x K, along time

    (∘: C_m is applied along time.) out = W [X_m]_m. tanh instead of softmax: correlations have a sign.
    Source: [8] RJCMA (Praveen & Alam, CVPRW 2024, arXiv 2403.13659), three recursions in the paper. Dropped: the TCN
    before it, dropout of 0.6, speech recognition, the CCC head. It says nothing of missing modalities; ours are absent
    tokens, as everywhere. Fidelity: exact equations, of the code or of the paper. Maps: C_m of the last recursion, in
    [-1, 1]; that of "time" says which second of m agrees with which second of everything.

    Args (options):
        form: "channel" or "time".
        recursions: l.
        share: the same weights in every recursion, so that l costs no parameters.
    """

    stage, attention, depth = "optimization", "recursive joint cross-modal", "2 x recursions"
    source, fidelity = "[8] RJCMA, arXiv 2403.13659", "exact, both forms"

    def build(self, form: str = "channel", recursions: int = 3, share: bool = False) -> None:
        """The layers of each recursion."""
        kinds = {"channel": ChannelCorrelation, "time": TimeCorrelation}
        if form not in kinds:
            raise ValueError(f"Unknown form {form!r} of recursive_joint_attention. Choose one of: {', '.join(kinds)}.")
        self.form, self.recursions = form, recursions
        self.rounds = nn.ModuleList(
            kinds[form](self.streams, self.width, self.bins) for _ in range(1 if share else recursions)
        )
        self.mix = nn.Linear(len(self.streams) * self.width, self.width)

    def fuse(self, x: Entered) -> Mixed:
        """Correlate and feed back."""
        streams, maps = x.align(), {}
        for i in range(self.recursions):
            streams, maps = self.rounds[i % len(self.rounds)](streams)
        looks = {m: x.steps(m, c.abs().mean(2)) for m, c in maps.items()} if self.form == "time" else {}
        return whole(self.mix(torch.cat(list(streams.values()), -1)), maps=maps, looks=looks)


class ChannelCorrelation(nn.Module):
    """One recursion of the released code: correlations of channels with all channels, over time."""

    def __init__(self, streams: tuple[str, ...], width: int, bins: int):
        super().__init__()
        self.joint = len(streams) * width
        self.keys = nn.ModuleDict({m: nn.Linear(bins, bins, bias=False) for m in streams})
        self.back = nn.ModuleDict({m: nn.Linear(self.joint, width) for m in streams})

    def forward(self, streams: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams {m: (B, K, d)} to the next ones, and C {m: (B, d, D)}."""
        joint = torch.cat(list(streams.values()), -1)  # (B, K, D)
        out, maps = {}, {}
        for name, x in streams.items():
            maps[name] = (self.keys[name](x.transpose(1, 2)) @ joint / math.sqrt(self.joint)).tanh()
            out[name] = x + F.relu(self.back[name](F.relu((x @ maps[name]).tanh())))
        return out, maps


class TimeCorrelation(nn.Module):
    """One recursion as printed: correlations of times with all times, over channels."""

    def __init__(self, streams: tuple[str, ...], width: int, bins: int):
        super().__init__()
        self.size = len(streams) * width
        self.joint = nn.Linear(self.size, self.size)
        self.keys = nn.ModuleDict({m: nn.Linear(width, self.size, bias=False) for m in streams})
        self.weigh = nn.ModuleDict({m: nn.Linear(bins, bins, bias=False) for m in streams})
        self.back = nn.ModuleDict({m: nn.Linear(bins, bins, bias=False) for m in streams})

    def forward(self, streams: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams {m: (B, K, d)} to the next ones, and C {m: (B, K, K)}."""
        joint = self.joint(torch.cat(list(streams.values()), -1))  # (B, K, D)
        out, maps = {}, {}
        for name, x in streams.items():
            maps[name] = (self.keys[name](x) @ joint.transpose(1, 2) / math.sqrt(self.size)).tanh()
            attended = F.relu(self.weigh[name](x.transpose(1, 2)) @ maps[name])  # (B, d, K)
            out[name] = x + self.back[name](attended).transpose(1, 2)
        return out, maps
