from __future__ import annotations

import pytest
import torch
from torch.nn.functional import embedding
from torch.utils._python_dispatch import TorchDispatchMode

from normtune.fast.linear import fast_linear
from normtune.methods.entries import Entries
from normtune.methods.packed import Packed

SIZE, WIDTH = 50, 8
TOKENS = torch.tensor([[1, 4, 4, 49, 0], [7, 1, 0, 30, 4]])
GRAD = torch.randn(*TOKENS.shape, WIDTH, generator=torch.Generator().manual_seed(1))


class Largest(TorchDispatchMode):
    """Records the size of the largest new tensor, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else (result,)
        held = (len(t._values()) * WIDTH if t.is_sparse else t.numel() for t in made if isinstance(t, torch.Tensor))
        self.numbers = max([self.numbers, *held])
        return result


def pack(count=120, dtype=torch.float32):
    """A weight of which `count` entries train, some of them in rows of `TOKENS`."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SIZE, WIDTH, generator=generator).to(dtype)
    indices = torch.randperm(weight.numel(), generator=generator)[:count].sort().values
    packed = Packed(torch.nn.Parameter(weight, requires_grad=False), Entries(indices, weight.shape), in_place=True)
    return packed.leaf, indices, packed(packed.leaf), weight


def dense(weight, grad, *options, tokens=TOKENS):
    exact = weight.double().requires_grad_()
    embedding(tokens, exact, *options).backward(grad.double())
    return exact.grad.view(-1)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
@pytest.mark.parametrize("padding", [None, 0, 4, -1, -SIZE, SIZE - 1])
@pytest.mark.parametrize("count", [1, 120, SIZE * WIDTH])
def test_the_entries_gradients_are_the_dense_ones(count, padding, kind):
    leaf, indices, composed, weight = pack(count)
    composed.register_hook(lambda grad: made.append(grad.is_sparse))
    made: list[bool] = []
    with fast_linear():
        result = embedding(TOKENS.to(kind), composed, padding)
    assert torch.equal(result, embedding(TOKENS, weight, padding))
    result.backward(GRAD)
    assert made == [True]
    assert (leaf.grad.double() - dense(weight, GRAD, padding)[indices]).abs().max() < 1e-6


def test_sums_over_a_lower_precision_are_in_float32():
    leaf, indices, composed, weight = pack(SIZE * WIDTH, torch.bfloat16)
    tokens, grad = torch.full((400,), 3), torch.full((400, WIDTH), 0.01, dtype=torch.bfloat16)
    with fast_linear():
        embedding(tokens, composed).backward(grad)
    expected = dense(weight, grad, tokens=tokens)[indices]
    # torch rounds a bfloat16 leaf's gradient once; a sum in bfloat16 would stop at 2.
    assert (leaf.grad.double() - expected).abs().max() <= expected.max() / 256


@pytest.mark.parametrize("tokens", [torch.empty(2, 0, dtype=torch.int64), torch.full((2, 3), 4), torch.tensor(7)])
def test_where_nothing_is_looked_up_the_gradient_is_zero(tokens):
    leaf, indices, composed, _ = pack(2)
    assert not {4, 7} & {*(indices // WIDTH).tolist()}
    with fast_linear():
        embedding(tokens, composed, 4).sum().backward()
    assert leaf.grad.tolist() == [0, 0]


def test_a_layer_and_the_output_that_is_tied_to_it():
    leaf, indices, composed, weight = pack()
    layer = torch.nn.Embedding(SIZE, WIDTH, padding_idx=4)
    del layer.weight
    layer.weight = composed
    with fast_linear():
        hidden = layer(TOKENS)
        torch.nn.functional.linear(hidden.detach(), composed).sum().backward()
        hidden.backward(GRAD)
    tied = hidden.detach().sum((0, 1)).double().repeat(SIZE)
    assert (leaf.grad.double() - (dense(weight, GRAD, 4) + tied)[indices]).abs().max() < 1e-5


def test_nothing_as_large_as_the_embedding_is_made():
    weight = torch.nn.Parameter(torch.randn(5000, WIDTH), requires_grad=False)
    packed = Packed(weight, Entries(torch.tensor([32, 35, 4999 * WIDTH]), weight.shape), in_place=True)
    with fast_linear():
        result = embedding(TOKENS, packed(packed.leaf))
    with Largest() as largest:
        result.backward(GRAD)
    assert 0 < largest.numbers <= 5000  # a number for each row
    expected = torch.stack([GRAD[TOKENS == 4].sum(0)[0], GRAD[TOKENS == 4].sum(0)[3], torch.zeros(())])
    assert (packed.leaf.grad - expected).norm() < 1e-5


def test_a_gradient_by_frequency_is_left_to_torch():
    leaf, indices, composed, weight = pack()
    options = (4, None, 2.0, True)
    with fast_linear():
        embedding(TOKENS, composed, *options).backward(GRAD)
    assert (leaf.grad.double() - dense(weight, GRAD, *options)[indices]).abs().max() < 1e-6


def test_what_torch_refuses_is_refused():
    _, _, composed, _ = pack()
    with fast_linear():
        with pytest.raises(AssertionError, match="Padding_idx must be within"):
            embedding(TOKENS, composed, SIZE)
        with pytest.raises(IndexError):
            embedding(TOKENS + SIZE, composed)


def test_an_embedding_that_trains_whole_is_torchs():
    *_, weight = pack()
    whole = torch.nn.Parameter(weight)
    with fast_linear():
        embedding(TOKENS, whole).backward(GRAD)
        assert torch.equal(embedding(input=TOKENS, weight=whole), embedding(TOKENS, weight))
    assert not whole.grad.is_sparse
