"""Attention along the branches of a tree over shared prompts is attention over whole rows."""

from types import SimpleNamespace

import pytest
import torch

from omni.shared_prompt import SharedPrompts, SharedTree, Tree, attend, fused, in_products

U, P, T, H, K, D = 3, 5, 4, 6, 2, 8


def whole(query, key, value, prompts, mask, groups, scaling):
    """Every row with its own copy of the prompt, by torch."""
    keys, values = (torch.cat([x[groups], own], 2) for x, own in zip(prompts, (key, value), strict=True))
    sees = torch.cat([mask[groups][:, None].expand(-1, T, -1), torch.ones(T, T).tril().expand(len(groups), -1, -1)], 2)
    read = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, sees[:, None].bool(), scale=scaling, enable_gqa=True
    )
    return read.transpose(1, 2)


@pytest.mark.parametrize("how", [in_products, fused])
@pytest.mark.parametrize("words", [100, 2, 1])  # hardly anything in common, much, all
@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1], [0, 1, 2]])
def test_nodes_read_what_whole_rows_read(groups, words, how):
    torch.manual_seed(0)
    groups = torch.tensor(groups)
    ids = torch.randint(words, (len(groups), T + 1))  # what comes last is not run
    tree = Tree(ids, torch.ones_like(ids), groups)
    count = len(tree.run)
    query, key, value = (torch.randn(1, n, count, D, dtype=torch.float64, requires_grad=True) for n in (H, K, K))
    prompts = tuple(torch.randn(U, K, P, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    shared = SharedTree(tree, [prompts], mask)
    ours, _ = attend(SimpleNamespace(layer_idx=0), query, key, value, mask, D**-0.5, shared, how)
    at = (tree.run == tree.node[:, :T, None]).int().argmax(-1)  # (B, T) places among those that are run
    rows = [x[0][:, at].transpose(0, 1) for x in (query, key, value)]  # (B, heads, T, D)
    expected = whole(*rows, prompts, mask, groups, D**-0.5)
    assert torch.allclose(ours[0][at], expected, atol=1e-6)  # softmax is in float32
    weights, leaves = torch.randn_like(expected), (query, key, value, *prompts)
    slopes = [torch.autograd.grad((read * weights).sum(), leaves) for read in (ours[0][at], expected)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*slopes, strict=True))


def test_a_tree_has_every_beginning_once_and_runs_what_is_followed():
    ids = torch.tensor([[5, 6, 9, 0], [5, 6, 7, 9], [5, 6, 9, 0], [5, 6, 9, 0], [8, 0, 0, 0]])
    tree = Tree(
        ids,
        torch.tensor([[1, 1, 1, 0], [1] * 4, [1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),
        torch.tensor([0, 0, 0, 1, 2]),
    )
    assert tree.token.tolist() == [5, 6, 9, 7, 9, 5, 6, 9, 8]
    assert tree.node.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [0, 1, 2, 0], [5, 6, 7, 0], [8, 0, 0, 0]]
    assert tree.run.tolist() == [0, 1, 3, 5, 6] and tree.depth.tolist() == [0, 1, 2, 2, 3, 0, 1, 2, 0]
    assert tree.after.tolist() == [0, 3, 4, 4, 5, 1, 6, 7, 2]  # prompts 0, 1, 2, then places in `run`
    assert tree.branches.tolist() == [[[0, 1, 2]], [[3, 4, 0]], [[0, 0, 0]]]
    assert tree.branches.flatten()[tree.slot].tolist() == list(range(5))


def test_rows_come_back_in_their_order_and_missing_ones_are_zero():
    shared = SharedPrompts([], torch.ones(3, 2), torch.tensor([2, 0, 2]))
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    assert shared.grouped(rows)[..., 0].tolist() == [[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]]
    assert torch.equal(shared.rows(shared.grouped(rows)), rows)
