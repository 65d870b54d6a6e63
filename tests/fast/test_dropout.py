"""Dropout from the fast generator: torch's rates, statistics and places, in any model."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from normtune.fast import dropout as module
from normtune.fast.dropout import FastDropout, Rate, draw_bits, dropout
from normtune.fast.linear import fast_linear
from normtune.fast.memory import again
from tests.conftest import VOCABULARY, ModelFactory

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


def parts(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shape = (2, 3, 5, 4)
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))  # type: ignore[return-value]


#: Above zero, but nothing is dropped.
NO_RATE = 1e-9

MASKS = {
    "none": None,
    "padding": torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None],
    "causal": torch.ones(5, 5, dtype=torch.bool).tril(),
    "bias a head": torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1)),
    "number": torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("scale", [None, 0.3])
def test_without_dropout_it_is_torchs_own(mask: Tensor | None, scale: float | None) -> None:
    own, other = parts(), parts()
    with FastDropout():
        mine = scaled_dot_product_attention(*own, mask, NO_RATE, scale=scale)
    given = mask if mask is None or mask.dtype == torch.bool else mask.double()
    theirs = scaled_dot_product_attention(*other, attn_mask=given, scale=scale)
    weights = torch.randn_like(mine)
    for outputs in (mine, theirs):
        (outputs * weights).sum().backward()
    assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    for one, two in zip(own, other, strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-12)


def test_a_query_that_sees_nothing_spoils_no_other() -> None:
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[3] = False  # as for padding under a local window
    theirs = scaled_dot_product_attention(*parts())
    for own in (mask, torch.zeros(5, 5).masked_fill(~mask, -torch.inf)):
        with FastDropout():
            mine = scaled_dot_product_attention(*parts(), own, NO_RATE)
        assert bool(mine.isfinite().all())
        assert torch.allclose(mine[:, :, [0, 1, 2, 4]], theirs[:, :, [0, 1, 2, 4]], rtol=1e-12, atol=1e-14)


def test_dropout_is_on_the_probabilities_after_the_softmax() -> None:
    query, key, value = parts()
    drawn: list[Tensor] = []

    def noting(shape: torch.Size) -> Tensor:
        drawn.append(torch.randint(-32768, 32768, shape, dtype=torch.int16))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw_bits", noting)
        with FastDropout():
            outputs = scaled_dot_product_attention(query, key, value, dropout_p=0.25)
    keep = drawn[0] >= 16384 - 32768
    chances = (query @ key.transpose(2, 3) / 2).softmax(-1)
    expected = (chances * keep / 0.75) @ value
    assert torch.allclose(outputs, expected, rtol=1e-12, atol=1e-14)
    mine = torch.autograd.grad(outputs.square().sum(), (query, key, value))
    theirs = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for one, two in zip(mine, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12)


def test_a_mask_that_trains_gets_its_gradient() -> None:
    biases = [torch.zeros(3, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    with FastDropout():
        scaled_dot_product_attention(*parts(), biases[0], NO_RATE).square().sum().backward()
    scaled_dot_product_attention(*parts(), attn_mask=biases[1]).square().sum().backward()
    assert biases[0].grad is not None
    assert biases[1].grad is not None
    assert torch.allclose(biases[0].grad, biases[1].grad, rtol=1e-10, atol=1e-12)


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, len(VOCABULARY), (3, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3  # some families read their answer off the end of the text
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_no_family_draws_from_torch(family: str, make_model: ModelFactory) -> None:
    model = make_model(family).train()
    with profile(activities=[ProfilerActivity.CPU]) as watched, FastDropout(), fast_linear():
        model(**inputs()).logits.sum().backward()
    names = {event.key for event in watched.key_averages()}
    assert not names & {"aten::bernoulli_", "aten::native_dropout"}
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_the_mean_over_many_draws_is_that_of_torch(make_model: ModelFactory) -> None:
    model, given = make_model("bert").train(), inputs()
    means, spreads = [], []
    for generator in ("torch", "fast"):
        torch.manual_seed(0)
        with torch.no_grad(), FastDropout() if generator == "fast" else nullcontext():
            drawn = torch.stack([model(**given).logits for _ in range(400)]).double()
        means.append(drawn.mean(0))
        spreads.append(drawn.std(0))
    assert bool(((means[0] - means[1]).abs() < 4.5 * (2 / 400) ** 0.5 * spreads[0]).all())
    assert torch.allclose(spreads[0], spreads[1], rtol=0.25)


def test_without_training_nothing_is_dropped(make_model: ModelFactory) -> None:
    model, given = make_model("bert"), inputs()
    expected = model(**given).logits
    with FastDropout():
        assert torch.equal(model(**given).logits, expected)


def test_what_is_computed_again_drops_the_same(make_model: ModelFactory) -> None:
    layer = make_model("bert").bert.encoder.layer[0].train()
    hidden = torch.randn(2, 5, 32)
    grads = []
    for less in (False, True):
        own = hidden.clone().requires_grad_()
        torch.manual_seed(5)
        with FastDropout():
            outputs = again(layer, FastDropout, own) if less else layer(own)
            outputs.square().sum().backward()
        grads.append(own.grad)
    assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("inplace", [False, True])
def test_in_place_is_kept(inplace: bool) -> None:
    values = torch.ones(1000)
    with FastDropout():
        result = torch.nn.functional.dropout(values, 0.5, inplace=inplace)
    assert (result.data_ptr() == values.data_ptr()) == inplace
    assert set(result.tolist()) == {0.0, 2.0}
