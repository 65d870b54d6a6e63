"""Products in bfloat16: against float64 products of the same rounded numbers, and never where anything trains."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.nn.functional import linear

from normtune.fast.linear import bfloat16_pays_off, fast_linear
from normtune.methods.entries import Entries, mark
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable

#: Wide, so that sums in bfloat16 would be far off.
TOKENS, WIDE, NARROW = (2, 9), 2048, 24
#: Half a step of bfloat16 at one, which bounds the relative error of a rounding.
ROUNDED = 2.0**-8


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # All positive, so no sum is small beside its terms and a relative error is meaningful.
    return draw(*TOKENS, WIDE).abs(), draw(NARROW, WIDE, seed=1).abs(), draw(NARROW, seed=2).abs()


def exactly(value: torch.Tensor) -> torch.Tensor:
    """`value` rounded to bfloat16, as float64."""
    return value.detach().bfloat16().double()


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((found.detach().double() - wanted) / wanted).abs().max())


@pytest.mark.parametrize("with_bias", [True, False])
def test_sums_run_in_float32_and_only_inputs_weights_and_results_are_rounded(with_bias: bool) -> None:
    inputs, weight, bias = parts()
    inputs.requires_grad_()
    with fast_linear("bfloat16"):
        result = linear(inputs, weight, bias if with_bias else None)
    assert result.dtype == torch.float32
    assert torch.equal(result, result.bfloat16().float())
    assert off(result, linear(exactly(inputs), exactly(weight), exactly(bias) if with_bias else None)) <= ROUNDED
    grad = draw(*TOKENS, NARROW, seed=3).abs()
    result.backward(grad)
    assert inputs.grad is not None
    assert inputs.grad.dtype == torch.float32
    assert off(inputs.grad, exactly(grad) @ exactly(weight)) <= ROUNDED


@pytest.mark.parametrize("trains", ["weight", "bias", "entries"])
def test_a_layer_of_which_anything_trains_is_computed_in_float32(trains: str) -> None:
    inputs, weight, bias = parts()
    leaf = weight.reshape(-1)[:2].clone().requires_grad_()
    if trains == "entries":
        weight = mark(weight, leaf, Entries(torch.tensor([0, 1]), weight.shape))
    else:
        (weight if trains == "weight" else bias).requires_grad_()
    with fast_linear("bfloat16"):
        result = linear(inputs, weight, bias)
    assert off(result, linear(inputs.double(), weight.detach().double(), bias.detach().double())) <= 1e-5


def test_a_copy_that_was_made_in_inference_mode_serves_a_training() -> None:
    inputs, weight, bias = parts()
    with fast_linear("bfloat16"):
        with torch.inference_mode():
            linear(inputs, weight, bias)
        linear(inputs.requires_grad_(), weight, bias).sum().backward()
    assert inputs.grad is not None
    assert off(inputs.grad, exactly(weight).sum(0).expand_as(inputs)) <= ROUNDED


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_left_to_torch(dtype: torch.dtype) -> None:
    inputs, weight, bias = (value.to(dtype) for value in parts())
    with fast_linear("bfloat16"):
        result = linear(inputs, weight, bias)
    assert torch.equal(result, linear(inputs, weight, bias))


def test_a_copy_is_made_once_and_goes_with_its_tensor() -> None:
    inputs, weight, bias = parts()
    with fast_linear("bfloat16") as mode:
        linear(inputs, weight, bias)
        first = mode._copies[weight]
        linear(inputs, weight, bias)
        assert mode._copies[weight] is first
        alive = weakref.ref(first)
        del weight, first
        gc.collect()
        assert alive() is None


def test_inputs_are_not_kept() -> None:
    inputs, weight, bias = parts()
    kept: list[tuple[torch.dtype, torch.Size]] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append((t.dtype, t.shape)) or t, lambda t: t)
    with hooks, fast_linear("bfloat16"):
        linear(inputs.requires_grad_(), weight, bias)
    assert kept == [(torch.bfloat16, weight.shape)]


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "llama", "deberta"])
def test_any_family_learns_nearly_the_same(family: str, make_base) -> None:
    base = make_base(family)
    ids, labels = torch.tensor([[2, 7, 8, 9, 3], [2, 12, 13, 14, 3]]), torch.tensor([0, 1])
    found = []
    for products in ("float32", "bfloat16"):
        tuning = Trainable(base, select(base.layout, "layernorm"))
        with fast_linear(products):
            logits = base.model(input_ids=ids).logits
            torch.nn.functional.cross_entropy(logits, labels).backward()
        found.append((logits.detach(), torch.cat([leaf.grad for leaf in tuning.leaves.values()])))
        tuning.undo()
    for exact, low in zip(*found, strict=True):
        assert 0 < (low - exact).norm() <= 0.06 * exact.norm()


@pytest.mark.parametrize(
    ("known", "pays"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64"}, True),  # not known to be slow
    ],
)
def test_it_pays_off_where_the_processor_has_such_products(
    known: dict[str, object], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert bfloat16_pays_off() is pays
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16_pays_off()
