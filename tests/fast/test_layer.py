"""Frozen layers prepared for both directions, against plain products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normtune.fast import linear
from normtune.fast.layer import FrozenLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3])
def test_both_directions_are_the_products(backend: str, dtype: torch.dtype, count: int) -> None:
    layers = [nn.Linear(24, 40, bias=number != 1).to(dtype) for number in range(count)]
    frozen, rows = FrozenLinear(layers), torch.randn(7, 24, dtype=dtype)
    gradient = torch.randn(7, 40 * count, dtype=dtype)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    with torch.no_grad():
        torch.testing.assert_close(frozen(rows), torch.cat([layer(rows) for layer in layers], 1), **near)
        weight = torch.cat([layer.weight for layer in layers])
        torch.testing.assert_close(frozen.back(gradient), gradient @ weight, **near)


@pytest.mark.parametrize("rows", [3, 300, 1500])
def test_laying_out_a_weight_changes_no_bit(rows: int, onednn: str) -> None:
    layer, inputs = nn.Linear(384, 1536), torch.randn(rows, 384)
    with torch.no_grad():
        assert torch.equal(FrozenLinear([layer])(inputs), linear.product(inputs, layer.weight, layer.bias, onednn=True))


@pytest.mark.parametrize("count", [1, 3])
def test_in_bfloat16_inputs_weights_and_results_are_rounded(backend: str, count: int) -> None:
    layers = [nn.Linear(512, 40) for _ in range(count)]
    rows, gradient = torch.rand(7, 512), torch.rand(7, 40 * count)
    # All positive, so no sum is small beside its terms.
    weight = torch.cat([layer.weight.data.abs_() for layer in layers])
    bias = torch.cat([layer.bias.data.abs_() for layer in layers])

    def exactly(value: torch.Tensor) -> torch.Tensor:
        return value.bfloat16().double()

    frozen = FrozenLinear(layers, "bfloat16")
    with torch.inference_mode():  # what is laid out here serves a training too
        inferred = frozen(rows)
    found, wanted = frozen(rows), exactly(rows) @ exactly(weight).t() + exactly(bias)
    assert torch.equal(inferred, found)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found.double(), wanted, rtol=2.0**-8, atol=0)
    torch.testing.assert_close(
        frozen.back(gradient).double(), exactly(gradient) @ exactly(weight), rtol=2.0**-8, atol=0
    )
