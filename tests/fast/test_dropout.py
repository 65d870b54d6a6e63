"""Dropout from the fast generator: the rates and statistics of torch's, told by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from normtune.fast.dropout import Rate, draw_bits, dropout

SIZE = 1 << 20


def kept(p: float, seed: int = 0, size: int = SIZE) -> np.ndarray:
    torch.manual_seed(seed)
    return (dropout(torch.ones(size), p) != 0).numpy()


@pytest.mark.parametrize("p", [0.1, 0.05, 0.5, 0.9])
def test_it_drops_at_the_rate_and_keeps_the_expectation(p: float) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(SIZE, dtype=torch.float64) + 3
    outputs = dropout(inputs, p)
    dropped = int((outputs == 0).sum())
    assert stats.binomtest(dropped, SIZE, p).pvalue > 1e-4
    # The variance that dropout adds to an element x is x^2 p / (1 - p).
    error = outputs - inputs
    spread = (inputs.square() * p / (1 - p)).sum().sqrt()
    assert abs(error.sum() / spread) < 4
    assert error.square().sum() == pytest.approx(float(spread**2), rel=0.01)


def test_the_rate_is_met_to_sixteen_bits_and_the_scale_undoes_it_exactly() -> None:
    for p in (0.1, 0.123456, 0.5, 0.999):
        rate = Rate.of(p)
        probability = (rate.threshold + 32768) / 65536
        assert abs(probability - p) <= 1 / 131072
        assert rate.scale * (1 - probability) == pytest.approx(1.0, abs=1e-12)


def test_elements_are_independent_of_their_neighbours_and_of_other_draws() -> None:
    first, second = (kept(0.1, seed).astype(float) - 0.9 for seed in (0, 1))
    bound = 4 * 0.09 / math.sqrt(SIZE)
    # Four elements come from one number of the generator; rows of matrices lie hundreds apart.
    for lag in (1, 2, 3, 4, 8, 384, 1536):
        assert abs(np.mean(first[lag:] * first[:-lag])) < bound, lag
    assert abs(np.mean(first * second)) < bound
    bits = draw_bits(torch.Size((SIZE,))).numpy()
    counts = np.bincount(bits.astype(np.int64) + 32768 >> 6, minlength=1024)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_it_follows_torchs_random_state() -> None:
    torch.manual_seed(3)
    one, state = dropout(torch.ones(1000), 0.3), torch.get_rng_state()
    two = dropout(torch.ones(1000), 0.3)
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(1000), 0.3), two)
    assert not torch.equal(one, two)


def test_the_gradient_is_that_of_the_mask() -> None:
    inputs = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    outputs = dropout(inputs, 0.4)
    outputs.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad == 0, outputs == 0)
    assert torch.allclose(inputs.grad * inputs.detach(), outputs.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 1, 7)])
def test_any_shape_and_layout(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape
    assert dropout(torch.ones(6, 4).t(), 0.5).shape == (4, 6)


def test_no_rate_and_the_whole_rate() -> None:
    inputs = torch.randn(9)
    assert dropout(inputs, 0.0) is inputs
    assert not dropout(inputs, 1.0).any()


def test_lower_precision_keeps_its_dtype() -> None:
    outputs = dropout(torch.ones(4096, dtype=torch.bfloat16), 0.5)
    assert outputs.dtype == torch.bfloat16
    assert set(outputs.tolist()) == {0.0, 2.0}
