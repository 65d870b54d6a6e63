from __future__ import annotations

import pytest
import torch

from normtune.methods import entries as module
from normtune.methods.entries import Entries, mark, marked

OUTPUTS, WIDTH, TOKENS = 12, 20, 37


def drawn(count, shape=(OUTPUTS, WIDTH), seed=0):
    size = shape[0] * shape[1]
    indices = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return Entries(indices, torch.Size(shape))


def randn(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_rows_and_columns():
    entries = Entries(torch.tensor([1, 2, 9, 11]), torch.Size((4, 3)))
    assert (len(entries), entries.width, entries.share) == (4, 3, 1 / 3)
    assert entries.rows.tolist() == [0, 0, 3, 3]
    assert entries.columns.tolist() == [1, 2, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 5, 19, 20, 60, OUTPUTS * WIDTH])
@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_a_products_gradients_are_the_dense_ones(block, count, dtype, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    entries = drawn(count)
    grad, inputs = randn(TOKENS, OUTPUTS, dtype=dtype), randn(TOKENS, WIDTH, seed=2, dtype=dtype)
    weight = torch.zeros(OUTPUTS, WIDTH, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.linear(inputs.double(), weight).backward(grad.double())
    found = entries.of_product(grad, entries.seen(inputs))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = weight.grad.view(-1)[entries.indices]
    # Numbers of lower precision are multiplied and summed in float32 too.
    assert (found.double() - expected).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * 10


def test_of_the_inputs_only_what_is_needed_is_kept():
    inputs = randn(TOKENS, WIDTH)
    few = Entries(torch.tensor([3, 7, 23, 27, 43]), torch.Size((OUTPUTS, WIDTH)))  # in two columns
    assert torch.equal(few.seen(inputs), inputs[:, [3, 7]])
    assert drawn(60).seen(inputs) is inputs


def test_a_mark_is_found_again():
    weight, leaf, entries = randn(3, 4), randn(2), drawn(2, (3, 4))
    assert marked(weight) is None
    assert mark(weight, leaf, entries) is weight
    assert marked(weight) == (leaf, entries)
    assert marked(weight.detach()) is None
