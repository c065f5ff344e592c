"""Attention over shared prompts is attention over whole rows."""

from types import SimpleNamespace

import pytest
import torch

from omni.shared_prompt import SharedPrompts, attend

U, P, T, H, K, D = 3, 5, 4, 6, 2, 8


def whole(query, key, value, prompts, mask, groups, scaling):
    """Every row with its own copy of the prompt, by torch."""
    keys, values = (torch.cat([x[groups], own], 2) for x, own in zip(prompts, (key, value), strict=True))
    sees = torch.cat([mask[groups][:, None].expand(-1, T, -1), torch.ones(T, T).tril().expand(len(groups), -1, -1)], 2)
    read = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, sees[:, None].bool(), scale=scaling, enable_gqa=True
    )
    return read.transpose(1, 2)


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], [2, 0, 2, 1, 2], [1, 1], [0]])
def test_completions_read_what_whole_rows_read(groups):
    torch.manual_seed(0)
    groups = torch.tensor(groups)
    query, key, value = (torch.randn(len(groups), n, T, D, dtype=torch.float64) for n in (H, K, K))
    prompts = tuple(torch.randn(U, K, P, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    shared = SharedPrompts([prompts], mask, groups)
    module = SimpleNamespace(layer_idx=0)
    sees = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
    ours, _ = attend(module, query, key, value, sees, D**-0.5, shared)
    expected = whole(query, key, value, prompts, mask, groups, D**-0.5)
    assert torch.allclose(ours, expected, atol=1e-6)  # softmax is in float32
    weights = torch.randn_like(expected)
    slopes = [torch.autograd.grad((read * weights).sum(), prompts) for read in (ours, expected)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*slopes, strict=True))


def test_rows_come_back_in_their_order_and_missing_ones_are_zero():
    shared = SharedPrompts([], torch.ones(3, 2), torch.tensor([2, 0, 2]))
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    assert shared.grouped(rows)[..., 0].tolist() == [[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]]
    assert torch.equal(shared.rows(shared.grouped(rows)), rows)
