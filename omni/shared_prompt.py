"""Completions that share: a prompt's keys and values are not copied, and what completions have in common is run once.

A group of completions continues one prompt. Their queries look at two stretches of keys, and one softmax is over both:

    s = [ Q K_pᵀ , Q K_oᵀ + causal ] / √D      K_p of the prompt, once for the group; K_o the completion's own
    o = softmax(s) [ V_p ; V_o ]

so that the G completions of a prompt are one product with its keys: a cascade over a shared prefix, as Hydragen's
(arXiv 2402.05099). That is for processors, and keeps all weights for the way back; where the language model has fused
attention, keys are copied, which are small beside them. Completions that begin alike are a tree: its nodes are their
distinct beginnings, each run by the layers once, and laid out row by row for attention alone. All of it is exact, the
way back included: there, the slopes of copies add up.

Letters: `U` prompts of `P` tokens; `B` completions of up to `C` tokens; `N` nodes, of which `M` are followed by
something; `G` longest branches of a prompt at most, `T` their tokens; `H` heads that share `K` pairs of keys and
values, `r` = H / K; `D` a head's width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

PLAIN, FUSED = "omni_shared_plain", "omni_shared_fused"
Layers = Sequence[tuple[Tensor, Tensor]]


class SharedPrompts:
    """Keys and values of U prompts, and which of them each of B rows goes on from.

    Args:
        layers: keys and values (U, K, P, D) of every layer.
        mask: 1 for the tokens of a prompt, 0 for its padding, (U, P).
        groups: which prompt each row has, (B,).
    """

    def __init__(self, layers: Layers, mask: Tensor, groups: Tensor):
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


class Tree:
    """The distinct beginnings of some completions. A node is a prompt with some tokens after it.

    Args:
        ids, mask: right-padded completions, (B, C); one that is masked whole keeps a token all the same.
        groups: which of U prompts each continues, (B,), all of them in use.

    Attributes:
        node: of every token of the completions, (B, C); 0 for padding.
        token: the last one of each node, (N,).
        depth: number of its tokens but one, (N,).
        group: its prompt, (N,).
        run: the nodes that are followed by something, (M,); one of them at least.
        after: what each node follows, (N,): one of the U prompts, or U + the place in `run`.
        branches: nodes along each of the longest branches, as places in `run`, (U, G, T); 0 where there is none.
        slot: a place among the U · G · T of each node that is run, (M,).

    >>> tree = Tree(torch.tensor([[5, 6, 9], [5, 7, 9], [5, 6, 9]]), torch.ones(3, 3), torch.tensor([0, 0, 0]))
    >>> tree.node.tolist(), tree.token.tolist(), tree.run.tolist()
    ([[0, 1, 2], [0, 3, 4], [0, 1, 2]], [5, 6, 9, 7, 9], [0, 1, 3])
    >>> tree.after.tolist(), tree.branches.tolist()
    ([0, 1, 2, 1, 3], [[[0, 1], [0, 2]]])
    """

    def __init__(self, ids: Tensor, mask: Tensor, groups: Tensor):
        prompts, device = int(groups.max()) + 1, ids.device
        numbers: dict[tuple[int, int], int] = {}  # (what it follows, its token): the node; a prompt is -1, -2, …
        depth, group_of = [], []
        node = torch.zeros(ids.shape, dtype=torch.long)
        for row, length, group, own in zip(ids.tolist(), mask.sum(1).tolist(), groups.tolist(), node, strict=True):
            at, path = -1 - group, []
            for place, token in enumerate(row[: max(1, int(length))]):
                if (at, token) not in numbers:
                    numbers[at, token] = len(numbers)
                    depth.append(place)
                    group_of.append(group)
                at = numbers[at, token]
                path.append(at)
            own[: len(path)] = torch.tensor(path)
        before, tokens = zip(*numbers, strict=True)
        run = sorted({at for at in before if at >= 0}) or [0]
        place_of = {at: place for place, at in enumerate(run)}
        branches: list[list[list[int]]] = [[] for _ in range(prompts)]
        for at in set(run) - {before[at] for at in run}:  # those that end a branch
            branch, group = [], group_of[at]
            while at >= 0:
                branch.append(place_of[at])
                at = before[at]
            branches[group].append(branch[::-1])
        self.branches, there = _padded(branches)
        self.slot = torch.zeros(len(run), dtype=torch.long)
        self.slot[self.branches[there]] = torch.arange(there.numel()).view(there.shape)[there]
        after = [prompts + place_of[at] if at >= 0 else -1 - at for at in before]
        self.node, self.branches, self.slot = node.to(device), self.branches.to(device), self.slot.to(device)
        self.token, self.run, self.after, self.group, self.depth = (
            torch.tensor(x, device=device) for x in (tokens, run, after, group_of, depth)
        )


def _padded(groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Lists of lists of different lengths as one tensor, zeros after them, and where they are."""
    most, longest = max(map(len, groups)), max(len(row) for rows in groups for row in rows)
    rows = [[*row, *[-1] * (longest - len(row))] for rows in groups for row in [*rows, *[[]] * (most - len(rows))]]
    filled = torch.tensor(rows).view(len(groups), most, longest)
    return filled.clamp(min=0), filled >= 0


class SharedTree:
    """What the layers need to run the nodes of a tree: where each stands, and what of prompts and branches it sees.

    Args:
        tree: completions of U prompts.
        layers: keys and values (U, K, P, D) of the prompts in every layer.
        mask: 1 for the tokens of a prompt, 0 for its padding, (U, P).
    """

    def __init__(self, tree: Tree, layers: Layers, mask: Tensor):
        self.tree, self.layers = tree, layers
        steps = tree.branches.shape[2]
        later = mask.new_ones(steps, steps, dtype=torch.bool).triu(1)  # (T, T)
        unseen = torch.cat([~mask.bool()[:, None].expand(-1, steps, -1), later.expand(len(mask), -1, -1)], 2)
        self.unseen = unseen[:, None, None, None]  # (U, 1, 1, 1, T, P + T)

    def rows(self, x: Tensor) -> Tensor:
        """Of the nodes that are run, (1, X, M, D), laid out along the branches: (U, G, T, X, D)."""
        nodes = x[0].transpose(0, 1)  # (M, X, D)
        rows = F.embedding(self.tree.branches, nodes.flatten(1))  # on the way back faster than an index
        return rows.unflatten(3, nodes.shape[1:])

    def nodes(self, x: Tensor) -> Tensor:
        """(U, G, T, X) back to the nodes that are run, (1, M, X)."""
        return x.flatten(0, 2).index_select(0, self.tree.slot)[None]


@contextmanager
def sharing(language_model: nn.Module) -> Iterator[None]:
    """The attention of this language model knows trees, for calls with `shared=SharedTree(…)`."""
    config = language_model.config
    usual = config._attn_implementation
    config._attn_implementation = PLAIN if usual == "eager" else FUSED
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
    shared: SharedTree,
    read: Callable[..., Tensor],
    **_,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; its mask is not used, since the tree has its own.

    Args:
        query: (1, H, M, D).
        key, value: (1, K, M, D).
        read: `in_products` or `fused`.

    Returns:
        (1, M, H, D), and no map.
    """
    laid_out = (shared.rows(x) for x in (query * scaling, key, value))  # (U, G, T, X, D)
    out = read(*laid_out, *shared.layers[module.layer_idx], shared.unseen)  # (U, G, T, H, D)
    return shared.nodes(out.flatten(3)).unflatten(2, out.shape[3:]), None


def in_products(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, unseen: Tensor) -> Tensor:
    """What branches read, by plain products: all of a prompt's are one product with its keys.

    Args:
        q: scaled queries of the branches, (U, G, T, H, D); `k`, `v` their keys and values, (U, G, T, K, D).
        keys, values: of the prompts, (U, K, P, D).
        unseen: (U, 1, 1, 1, T, P + T).

    Returns:
        (U, G, T, H, D).
    """
    k, v = (x.permute(0, 3, 1, 2, 4) for x in (k, v))  # (U, K, G, T, D)
    q = q.unflatten(3, (k.shape[1], -1)).permute(0, 3, 1, 4, 2, 5)  # (U, K, G, r, T, D)
    size = q.shape[2:5]
    q = q.flatten(3, 4)  # (U, K, G, r·T, D)
    before = (q.flatten(2, 3) @ keys.transpose(-1, -2)).unflatten(2, q.shape[2:4])  # (U, K, G, r·T, P)
    scores = torch.cat([before, q @ k.transpose(-1, -2)], -1)  # (U, K, G, r·T, P + T)
    scores.unflatten(3, size[1:]).masked_fill_(unseen, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    of_prompt, of_own = weights.split([keys.shape[2], k.shape[3]], -1)
    read = (of_prompt.flatten(2, 3) @ values).unflatten(2, q.shape[2:4]) + of_own @ v  # (U, K, G, r·T, D)
    return read.unflatten(3, size[1:]).permute(0, 2, 4, 1, 3, 5).flatten(3, 4)


def fused(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, unseen: Tensor) -> Tensor:
    """`in_products` by torch's fused attention, with a copy of a prompt's keys and values for each of its branches."""
    size, repeats = q.shape[:2], q.shape[3] // k.shape[3]

    def whole(prompt: Tensor, own: Tensor) -> Tensor:
        """(U, K, P, D) and (U, G, T, K, D) as (U·G, H, P + T, D)."""
        rows = torch.cat([prompt[:, None].expand(-1, size[1], -1, -1, -1), own.transpose(2, 3)], 3)
        return rows.flatten(0, 1).repeat_interleave(repeats, 1)

    sees = ~unseen[:, 0].expand(-1, size[1], -1, -1, -1).flatten(0, 1)  # (U·G, 1, T, P + T)
    queries = q.flatten(0, 1).transpose(1, 2)  # (U·G, H, T, D)
    read = F.scaled_dot_product_attention(queries, whole(keys, k), whole(values, v), sees, scale=1.0)
    return read.transpose(1, 2).unflatten(0, size)


AttentionInterface.register(PLAIN, partial(attend, read=in_products))
AttentionInterface.register(FUSED, partial(attend, read=fused))
