"""The mechanism of the third stage, multi-scale: does granularity help streams that are not aligned?

    multiscale_vlad    streams meet in shared topics, at several scales of time    [10]

The number in brackets is that of the review; letters: see `contract.py`; `R` shared centres, `S` scales.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Entered, Fusion, Mixed, pool, whole
from .layers import AttentionLayer


class MultiscaleVLAD(Fusion):
    """Streams are aligned by a common codebook of topics instead of by attention between them.

        x_i    = W_s · mean of the i-th window of s steps of h_m               for every stream m and scale s
        a_ir   = softmax_r(x_i · c_r + b_r)                                    centres c shared by streams and scales
        v_r    = √d · normalise(Σ_m Σ_i a_ir (x_i - ĉ_r))                      one token for each centre and scale
        out    = attention layer over [v, one mean token for each stream]

    Inside a scale only the clock knows the order. A stream that is not there adds no residuals; its mean token is its
    absent token. Source: [10] ScaleVLAD (Luo et al., arXiv 2112.01368), of which the abstract could be read; assignment
    and residuals are NetVLAD's. Dropped: the shifted clustering loss S3C (its update of centres is not known to us) and
    the three Transformer encoders before it. Fidelity: ancestor's equations. Maps: `m@s`, a of stream m at scale s,
    over windows (B, windows, R), rows summing to one, zero for windows without a step.

    Args (options):
        scales: steps of a window.
        centres: R.
        heads: of the attention layer.
    """

    stage, attention, depth = "multi-scale", "shared-centre assignment", "1 at each scale"
    source, fidelity = "[10] ScaleVLAD, arXiv 2112.01368", "ancestor's equations"

    def build(self, scales: tuple[int, ...] = (1, 2, 3, 10), centres: int = 8, heads: int = 4) -> None:
        """Shared centres, a projection for each scale, one layer over the topics."""
        self.scales = tuple(scales)
        self.centres = nn.Parameter(torch.randn(centres, self.width) * 0.3)
        self.residual_centres = nn.Parameter(torch.randn(centres, self.width) * 0.3)
        self.bias = nn.Parameter(torch.zeros(centres))
        self.scale = nn.ModuleList(nn.Linear(self.width, self.width) for _ in self.scales)
        self.mix = AttentionLayer(self.width, heads)

    def assign(self, x: Tensor) -> Tensor:
        """Steps to topics: (..., d) -> (..., R)."""
        return (x @ self.centres.T + self.bias).softmax(-1)

    def topics(self, steps: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (B, R, d) and assignment (B, T, R) of one stream; steps that are not there add nothing."""
        a = self.assign(steps) * there[..., None]
        return a.transpose(1, 2) @ steps - a.sum(1)[..., None] * self.residual_centres, a

    def fuse(self, x: Entered) -> Mixed:
        """Collect residuals of all streams at every scale, and let topics attend to each other."""
        tokens, maps = [], {}
        for size, project in zip(self.scales, self.scale, strict=True):
            total = torch.zeros_like(self.centres)
            for i, m in enumerate(self.streams):
                steps, there = window_means(x.hidden[m], x.masks[m], size)
                residual, maps[f"{m}@{size}"] = self.topics(project(steps), there & x.present[:, i, None])
                total = total + residual
            tokens.append(F.normalize(total, dim=-1) * math.sqrt(self.width))  # (B, R, d)
        means = [pool(x.hidden[m], x.masks[m], 1) for m in self.streams]
        sequence = torch.cat([*tokens, *means], 1)  # (B, S R + M, d)
        return whole(self.mix(sequence, sequence)[0], maps=maps)


def window_means(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means of the valid steps in consecutive windows: (B, T, d), (B, T) -> (B, ⌈T/size⌉, d), (B, ⌈T/size⌉).

    >>> window_means(torch.tensor([[[1.0], [3.0], [8.0], [9.0]]]), torch.tensor([[True, True, True, False]]), 2)
    (tensor([[[2.], [8.]]]), tensor([[True, True]]))
    """
    rest = -x.shape[1] % size
    steps = F.pad(x, (0, 0, 0, rest)).unflatten(1, (-1, size))  # (B, W, size, d)
    there = F.pad(mask, (0, rest)).unflatten(1, (-1, size))  # (B, W, size)
    total = (steps * there[..., None]).sum(2)
    return total / there.sum(2, keepdim=True).clamp(min=1), there.any(2)
