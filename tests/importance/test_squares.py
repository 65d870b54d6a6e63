from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from normtune.importance import squares
from normtune.importance.squares import (
    linear_entries,
    linear_total,
    table_rows,
    tokens_are_cheaper,
)

#: Examples, tokens, inputs, outputs.
SHAPES = [(1, 1, 1, 1), (3, 5, 4, 6), (4, 1, 7, 2), (2, 40, 3, 5), (5, 7, 8, 8)]


class Elsewhere(Tensor):
    """A tensor that says it is not on the CPU."""

    device = property(lambda _: SimpleNamespace(type="elsewhere"))


class Sizes(TorchDispatchMode):
    """Records the size, in numbers, of the largest tensor returned within this context; a view repeats none."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(value, Tensor):
                held = value.untyped_storage().nbytes() // value.element_size()
                self.largest = max(self.largest, min(value.numel(), held))
        return result


def layer(shape, dtype=torch.float64, seed=0):
    """A layer's inputs and the gradient of its outputs."""
    examples, tokens, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(examples, tokens, inputs, generator=generator, dtype=torch.float64)
    grad = torch.randn(examples, tokens, outputs, generator=generator, dtype=torch.float64)
    return given.to(dtype), grad.to(dtype)


def by_hand(inputs, grad):
    """Example by example, token by token."""
    total = torch.zeros(grad.shape[2], inputs.shape[2], dtype=torch.float64)
    for own, out in zip(inputs.double(), grad.double(), strict=True):
        single = torch.zeros_like(total)
        for seen, given in zip(own, out, strict=True):
            single += torch.outer(given, seen)
        total += single * single
    return total


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("where", [Tensor, Elsewhere])
def test_entries_are_the_loop_by_hand(shape, where, monkeypatch):
    monkeypatch.setattr(squares, "_CHUNK", 2 * shape[2] * shape[3] * 8)  # off the CPU: two examples at a time
    inputs, grad = layer(shape)
    found = linear_entries(inputs.as_subclass(where), grad.as_subclass(where)).as_subclass(Tensor)
    torch.testing.assert_close(found, by_hand(inputs, grad), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("where", [Tensor, Elsewhere])
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "gradient"])
def test_a_total_is_the_sum_of_the_entries_by_both_ways(shape, where, tokens, monkeypatch):
    monkeypatch.setattr(squares, "tokens_are_cheaper", lambda *_: tokens)
    if tokens:
        monkeypatch.setattr(squares, "linear_entries", None)  # so that the weight's gradient is never formed
    inputs, grad = layer(shape)
    found = linear_total(inputs.as_subclass(where), grad.as_subclass(where)).as_subclass(Tensor)
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert float(found) == pytest.approx(float(by_hand(inputs, grad).sum()), rel=1e-12)


def test_the_way_is_the_cheaper_one():
    assert tokens_are_cheaper(8, 64, 64)
    assert not tokens_are_cheaper(64, 64, 64)
    # Multiplications: T^2 (I + O) against T I O.
    for tokens, inputs, outputs in [(31, 64, 64), (33, 64, 64), (20, 24, 1000), (30, 24, 1000)]:
        cheaper = tokens**2 * (inputs + outputs) < tokens * inputs * outputs
        assert tokens_are_cheaper(tokens, inputs, outputs) == cheaper


def test_in_float32():
    inputs, grad = layer((4, 9, 33, 17), torch.float32)
    wanted = by_hand(inputs, grad)
    torch.testing.assert_close(linear_entries(inputs, grad).double(), wanted, rtol=1e-4, atol=1e-4)
    assert float(linear_total(inputs, grad)) == pytest.approx(float(wanted.sum()), rel=1e-5)


def test_a_view_of_any_layout():
    inputs, grad = layer((3, 5, 4, 6))
    turned = inputs.transpose(0, 1).contiguous().transpose(0, 1)
    spread = grad[:, :1].expand(3, 5, 6)
    wanted = by_hand(inputs, grad[:, :1].repeat(1, 5, 1))
    torch.testing.assert_close(linear_entries(turned, spread), wanted)
    assert float(linear_total(turned, spread)) == pytest.approx(float(wanted.sum()))


def test_padding_contributes_nothing():
    inputs, grad = layer((2, 3, 4, 5))
    longer = torch.cat([inputs, torch.randn(2, 6, 4, dtype=torch.float64)], 1)
    padded = torch.cat([grad, torch.zeros(2, 6, 5, dtype=torch.float64)], 1)
    torch.testing.assert_close(linear_entries(longer, padded), linear_entries(inputs, grad))
    assert float(linear_total(longer, padded)) == pytest.approx(float(linear_total(inputs, grad)))


def test_of_one_token_no_gradient_is_formed():
    inputs, grad = layer((50, 1, 8, 6))
    with Sizes() as sizes:
        found = linear_entries(inputs, grad)
    assert sizes.largest <= 50 * 8
    torch.testing.assert_close(found, by_hand(inputs, grad), rtol=1e-12, atol=0)


@pytest.mark.parametrize("examples", [4, 64])
def test_memory_is_bounded_whatever_the_batch(examples):
    inputs, grad = layer((examples, 2, 32, 48))
    with Sizes() as sizes:
        linear_entries(inputs, grad)
    assert 32 * 48 <= sizes.largest <= max(32 * 48, examples * 2 * 48)  # the given gradient has the latter size


def test_memory_is_bounded_by_the_chunk_elsewhere(monkeypatch):
    monkeypatch.setattr(squares, "_CHUNK", 3 * 32 * 48 * 8)
    inputs, grad = layer((20, 2, 32, 48))
    with Sizes() as sizes:
        linear_entries(inputs.as_subclass(Elsewhere), grad.as_subclass(Elsewhere))
    assert sizes.largest == 3 * 32 * 48


def test_totals_by_tokens_hold_no_gradient_of_the_weight():
    inputs, grad = layer((6, 3, 64, 96))
    with Sizes() as sizes:
        linear_total(inputs, grad)
    assert sizes.largest <= 6 * 3 * 96


def test_rows_of_a_table_add_within_an_example_and_not_between_examples():
    ids = torch.tensor([[4, 1, 4, 4], [1, 0, 4, 2]])
    grad = torch.randn(2, 4, 3, dtype=torch.float64)
    rows, found = table_rows(ids, grad)
    assert sorted(rows.tolist()) == [0, 1, 1, 2, 4, 4]
    wanted = torch.zeros(6, 3, dtype=torch.float64)
    for own, out in zip(ids, grad, strict=True):
        single = torch.zeros_like(wanted)
        for row, value in zip(own.tolist(), out, strict=True):
            single[row] += value
        wanted += single**2
    torch.testing.assert_close(torch.zeros_like(wanted).index_add_(0, rows, found), wanted, rtol=1e-12, atol=0)


def test_rows_of_a_table_never_hold_the_table():
    ids = torch.tensor([[1, 10**9]])
    rows, found = table_rows(ids, torch.ones(1, 2, 3))
    assert rows.tolist() == [1, 10**9]
    assert found.tolist() == [[1.0] * 3] * 2
