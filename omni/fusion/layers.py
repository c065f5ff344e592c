"""The attention layer that several mechanisms are built from."""

from torch import Tensor, nn


class AttentionLayer(nn.Module):
    """Multi-head attention with residual and feed-forward part: q' = LN(q + MHA(q, kv, kv)), out = LN(q' + FFN(q')).

    Args:
        width: of queries, keys and values.
        heads: must divide the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, Q, d), (B, T, d), which of the T are there, to (B, Q, d) and the weights (B, Q, T), mean over heads."""
        found, weights = self.attend(queries, values, values, key_padding_mask=None if mask is None else ~mask)
        queries = self.norm(queries + found)
        return self.norm_out(queries + self.feed(queries)), weights
