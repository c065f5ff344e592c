"""Attention of many completions to few prompts, without a copy of a prompt's keys and values for each completion.

A group of completions continues one prompt. Their queries look at two stretches of keys, and one softmax is over both:

    s = [ Q K_pᵀ , Q K_oᵀ + causal ] / √D      K_p of the prompt, once for the group; K_o the completion's own
    o = softmax(s) [ V_p ; V_o ]

so that the G completions of a prompt are one product with its keys. It is exact; on the way back the sums over the
group are those of the products. The idea of a cascade over a shared prefix is Hydragen's (arXiv 2402.05099).

Letters: `U` prompts of `P` tokens, `B` completions, at most `G` of them to a prompt, each with keys of `S` tokens and
queries of the last `T` of these; `H` heads that share `K` pairs of keys and values, `r` = H / K; `D` a head's width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "omni_shared_prompt"


class SharedPrompts:
    """Keys and values of U prompts, and which of them each of B completions goes on from.

    Args:
        layers: keys and values (U, K, P, D) of every layer.
        mask: 1 for the tokens of a prompt, 0 for its padding, (U, P).
        groups: which prompt each completion has, (B,).
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], mask: Tensor, groups: Tensor):
        self.layers, self.padding, self.groups = layers, ~mask.bool(), groups
        number, rows = len(mask), len(groups)
        sizes = torch.bincount(groups, minlength=number)
        order = groups.argsort(stable=True)
        rank = torch.arange(rows, device=groups.device) - (sizes.cumsum(0) - sizes)[groups[order]]
        self.shape = (number, int(sizes.max()))  # U, G
        self.place = torch.empty_like(groups)
        self.place[order] = groups[order] * self.shape[1] + rank  # of each row among U · G places
        self.full = rows == number * self.shape[1] and bool((self.place == torch.arange(rows).to(groups)).all())

    def grouped(self, x: Tensor) -> Tensor:
        """Rows (B, …) as (U, G, …); places of groups that have fewer rows are zero."""
        if not self.full:
            x = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:]).index_copy(0, self.place, x)
        return x.unflatten(0, self.shape)

    def rows(self, x: Tensor) -> Tensor:
        """(U, G, …) as rows (B, …)."""
        x = x.flatten(0, 1)
        return x if self.full else x[self.place]


@contextmanager
def sharing(language_model: nn.Module) -> Iterator[None]:
    """The attention of this language model is `attend`, for calls with `shared=SharedPrompts(…)`."""
    config = language_model.config
    usual, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    shared: SharedPrompts,
    **_,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: `read`, and no map."""
    return read(query, key, value, attention_mask, scaling, module.layer_idx, shared), None


def read(
    query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scaling: float, layer: int, shared: SharedPrompts
) -> Tensor:
    """What completions read of their prompts and of themselves in one layer: (B, T, H, D).

    Args:
        query: (B, H, T, D).
        key, value: (B, K, S, D), of the completions alone.
        sees: what completions see of themselves, bool (1, 1, T, S).
    """
    pairs, steps = key.shape[1], query.shape[2]
    size = shared.shape[1]
    keys, values = shared.layers[layer]  # (U, K, P, D)
    q = shared.grouped(query).unflatten(2, (pairs, -1)).transpose(1, 2)  # (U, K, G, r, T, D)
    k, v = (shared.grouped(x).transpose(1, 2) for x in (key, value))  # (U, K, G, S, D)
    q = q.flatten(3, 4)  # (U, K, G, r·T, D)
    before = (q.flatten(2, 3) @ keys.transpose(-1, -2)).unflatten(2, (size, -1))  # (U, K, G, r·T, P)
    before = before.masked_fill(shared.padding[:, None, None, None], torch.finfo(before.dtype).min)
    own = (q @ k.transpose(-1, -2)).unflatten(3, (-1, steps))  # (U, K, G, r, T, S)
    own = own.masked_fill(~sees[:, :, None, None], torch.finfo(own.dtype).min)
    weights = (torch.cat([before, own.flatten(3, 4)], -1) * scaling).softmax(-1, dtype=torch.float32).to(query.dtype)
    of_prompt, of_own = weights.split([keys.shape[2], k.shape[3]], -1)
    seen = (of_prompt.flatten(2, 3) @ values).unflatten(2, (size, -1)) + of_own @ v  # (U, K, G, r·T, D)
    seen = seen.unflatten(3, (-1, steps)).permute(0, 2, 4, 1, 3, 5)  # (U, G, T, K, r, D)
    return shared.rows(seen.flatten(3, 4))


AttentionInterface.register(NAME, attend)
