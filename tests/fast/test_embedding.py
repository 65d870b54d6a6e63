from __future__ import annotations

import pytest
import torch
from torch.nn.functional import embedding
from torch.utils._python_dispatch import TorchDispatchMode

from normtune.fast.linear import fast_linear
from normtune.methods.entries import Entries, mark

SIZE, WIDTH = 50, 8
TOKENS = torch.tensor([[1, 4, 4, 49, 0], [7, 1, 0, 30, 4]])


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else (result,)
        self.numbers = max([self.numbers, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
        return result


def pack(count=120):
    """A weight of which `count` entries train, some of them in rows of `TOKENS`."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SIZE, WIDTH, generator=generator)
    indices = torch.randperm(weight.numel(), generator=generator)[:count].sort().values
    leaf = weight.view(-1)[indices].requires_grad_()
    composed = weight.view(-1).scatter(0, indices, leaf).view(weight.shape)
    composed.retain_grad()
    return leaf, indices, mark(composed, leaf, Entries(indices, weight.shape)), weight


def dense(weight, grad, *options):
    exact = weight.double().requires_grad_()
    embedding(TOKENS, exact, *options).backward(grad.double())
    return exact.grad.view(-1)


GRAD = torch.randn(*TOKENS.shape, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padding", [None, 0, 4, -1, -SIZE, SIZE - 1])
@pytest.mark.parametrize("count", [1, 120, SIZE * WIDTH])
def test_the_entries_gradients_are_the_dense_ones(count, padding):
    leaf, indices, composed, weight = pack(count)
    with fast_linear():
        result = embedding(TOKENS, composed, padding)
    assert torch.equal(result, embedding(TOKENS, weight, padding))
    result.backward(GRAD)
    assert composed.grad is None  # the dense gradient is never made
    assert (leaf.grad.double() - dense(weight, GRAD, padding)[indices]).abs().max() < 1e-6


@pytest.mark.parametrize("padding", [None, 4])
def test_a_layer_takes_the_path_too(padding):
    leaf, indices, composed, weight = pack()
    layer = torch.nn.Embedding(SIZE, WIDTH, padding_idx=padding)
    del layer.weight
    layer.weight = composed
    with fast_linear():
        layer(TOKENS).backward(GRAD)
    assert composed.grad is None
    assert (leaf.grad.double() - dense(weight, GRAD, padding)[indices]).abs().max() < 1e-6


def test_nothing_as_large_as_the_embedding_is_made():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5000, WIDTH, generator=generator)
    indices = torch.tensor([4 * WIDTH, 4 * WIDTH + 3, 4999 * WIDTH])
    leaf = weight.view(-1)[indices].requires_grad_()
    entries = Entries(indices, weight.shape)
    assert len(entries.starts) == 5001  # made once
    with fast_linear(), Largest() as largest:
        embedding(TOKENS, mark(weight.detach(), leaf, entries)).backward(GRAD)
    assert 0 < largest.numbers <= weight.numel()  # an alias of the embedding itself
    with Largest() as largest:
        entries.of_lookup(GRAD, TOKENS, None)
    assert largest.numbers <= 5000
    assert (
        leaf.grad - torch.stack([GRAD[TOKENS == 4].sum(0)[0], GRAD[TOKENS == 4].sum(0)[3], torch.zeros(())])
    ).norm() < 1e-5


# Positions: padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse.
@pytest.mark.parametrize("options", [(None, None, 2.0, True), (4, None, 2.0, True), (None, None, 2.0, False, True)])
def test_other_options_are_left_to_torch(options):
    leaf, indices, composed, weight = pack()
    with fast_linear():
        result = embedding(TOKENS, composed, *options)
    assert type(result.grad_fn).__name__ == "EmbeddingBackward0"
    if not options[-1] or len(options) == 4:
        result.backward(GRAD)
        assert (leaf.grad.double() - dense(weight, GRAD, *options)[indices]).abs().max() < 1e-6


def test_a_maximal_norm_is_left_to_torch():
    *_, composed, weight = pack()
    with torch.no_grad(), fast_linear():
        result = embedding(TOKENS, composed, None, 1.0)
    assert torch.equal(result, embedding(TOKENS, weight.clone(), None, 1.0))


def test_named_tokens_are_left_to_torch():
    *_, composed, weight = pack()
    with fast_linear():
        assert torch.equal(embedding(input=TOKENS, weight=composed), embedding(TOKENS, weight))
        assert torch.equal(embedding(TOKENS, weight=composed, padding_idx=3), embedding(TOKENS, weight))


def test_what_torch_refuses_is_refused():
    _, _, composed, _ = pack()
    with fast_linear():
        with pytest.raises(AssertionError, match="Padding_idx must be within"):
            embedding(TOKENS, composed, SIZE)
        with pytest.raises(IndexError):
            embedding(TOKENS + SIZE, composed)


def test_an_embedding_without_a_mark_is_torchs():
    *_, weight = pack()
    with fast_linear():
        result = embedding(TOKENS, weight.requires_grad_())
    assert type(result.grad_fn).__name__ == "EmbeddingBackward0"
