"""Mechanisms of the first stage: no interaction of modalities before the language model."""

import torch
from torch import Tensor

from .contract import Fusion, Instruction, Mixed, pool


class Concat(Fusion):
    """The control: every stream gets its own share of the soft tokens, and the language model does the fusing.

    As in R1-Omni (arXiv 2503.05379), where projected vision and audio tokens are spliced one after the other; the
    common clock is ours. Fidelity: exact idea.

    Args (options):
        shares: soft tokens of each stream, in order; must sum to `tokens`. Default: equal shares.
    """

    def build(self, shares: dict[str, int] | None = None) -> None:
        """Check the shares; there are no layers of its own."""
        equal, rest = divmod(self.tokens, len(self.streams))
        self.shares = shares or {m: equal + (i < rest) for i, m in enumerate(self.streams)}
        if set(self.shares) != set(self.streams) or sum(self.shares.values()) != self.tokens:
            raise ValueError(f"shares {self.shares} must name the streams {self.streams} and sum to {self.tokens}.")

    def fuse(self, hidden: dict[str, Tensor], masks: dict[str, Tensor], instruction: Instruction | None) -> Mixed:
        """Pool every stream to its share and put them one after the other."""
        parts = [pool(hidden[m], masks[m], self.shares[m]) for m in self.streams]
        sequence = torch.cat(parts, 1)  # (B, N, d)
        return Mixed(sequence, torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device), {})
