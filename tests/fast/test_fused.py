"""Fused layers against torch's own: outputs, gradients and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.activations import GELUActivation

from normtune.fast.dropout import FastDropout
from normtune.fast.first_token import BERTS, first_token, last_layer
from normtune.fast.fused import fusable, fused
from normtune.fast.layer import Layer, fits
from normtune.fast.linear import fast_linear
from normtune.fast.unpadded import Unpadded
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from tests.conftest import BaseFactory


def inputs(base: Base, tokens: int, *, padded: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(5, 30, (4, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, tokens - 3 :] = mask[3, 1:] = 0
    return {"input_ids": ids.where(mask.bool(), base.model.config.pad_token_id), "attention_mask": mask}


def both_ways(base: Base, trained: list[Tensor], batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of torch's layers and of fused ones."""

    def run() -> list[Tensor]:
        outputs = base.model(**batch).logits
        return [outputs, *torch.autograd.grad(outputs.square().sum(), trained)]

    with fast_linear():
        plain = run()
        with fused(base.model, fusable(base.model)):
            return plain, run()


def assert_near(plain: list[Tensor], other: list[Tensor], bound: float) -> None:
    for one, two in zip(plain, other, strict=True):
        assert (one - two).norm() <= bound * one.norm() + bound * plain[1].norm() * 1e-2


@pytest.mark.parametrize("family", BERTS)
@pytest.mark.parametrize(("tokens", "padded"), [(5, False), (5, True), (19, True)])
@pytest.mark.parametrize("norms", ["output.LayerNorm", "2.output.LayerNorm", "LayerNorm"])
def test_in_float64_outputs_and_gradients_are_torchs(
    make_base: BaseFactory, family: str, tokens: int, padded: bool, norms: str
) -> None:
    base = make_base(family)
    base.model.double()
    chosen = [p for n, p in base.model.named_parameters() if ".layer." in n and f"{norms}." in n]
    for parameter in chosen:
        parameter.requires_grad_()
    assert all(fits(layer) for layer in base.model.base_model.encoder.layer)
    assert_near(*both_ways(base, chosen, inputs(base, tokens, padded=padded)), 1e-10)


METHODS = ["layernorm", "attention-layernorm", "layernorm@1-", "bitfit", "output.dense@1", "full", "head"]


@pytest.mark.parametrize("method", [*METHODS, "mask"])
def test_in_float32_they_are_to_rounding_whatever_trains(tiny_base: Base, method: str) -> None:
    selection = select(tiny_base.layout, "layernorm" if method == "mask" else method)
    if method == "mask":
        taken = {place.parameter: selection.indices(place.parameter)[::3] for place in selection}
        selection = Selection(tiny_base.layout, taken)
    tuning = Trainable(tiny_base, selection)
    batch = inputs(tiny_base, 9, padded=True)
    assert_near(*both_ways(tiny_base, list(tuning.parameters()), batch), 1e-5)
    tuning.undo()
    assert "forward" not in vars(tiny_base.model.bert.encoder)


def test_evaluation_is_torchs(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 7, padded=True)
    with torch.inference_mode(), fast_linear():
        plain = tiny_base.model(**batch).logits
        with fused(tiny_base.model, fusable(tiny_base.model)):
            torch.testing.assert_close(tiny_base.model(**batch).logits, plain, rtol=1e-5, atol=1e-6)


def test_weights_are_those_of_now(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 7, padded=False)
    dense = tiny_base.model.bert.encoder.layer[0].intermediate.dense
    found = []
    for _ in range(2):
        with torch.inference_mode(), fused(tiny_base.model, fusable(tiny_base.model)):
            found.append(tiny_base.model(**batch).logits)
        dense.weight.data.mul_(1.5)  # torch's version counter misses this
    with torch.inference_mode():
        dense.weight.data.div_(1.5)
        torch.testing.assert_close(found[1], tiny_base.model(**batch).logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("tokens", [5, 17])
def test_gradients_with_dropout_are_the_differences_of_outputs(make_base: BaseFactory, tokens: int) -> None:
    base = make_base("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4)
    module = base.model.double().train().bert.encoder.layer[0]
    lower, upper = module.attention.output.LayerNorm, module.output.LayerNorm
    layer, hidden = Layer.of(module), torch.randn(2, tokens, 32, dtype=torch.float64, requires_grad=True)
    values = [hidden, *(p.requires_grad_() for norm in (lower, upper) for p in norm.parameters())]
    own = torch.ones(2, tokens, dtype=torch.bool)
    own[1, 3:] = False
    batch = Unpadded.of(hidden, own)

    def run(*_: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same masks every time
        return batch.pad(layer(batch.strip(hidden), batch))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize("last", [None, last_layer, first_token])
def test_dropout_has_torchs_statistics(make_base: BaseFactory, last: Callable[..., Tensor] | None) -> None:
    base = make_base("bert", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    module = base.model.train().bert.encoder.layer[0]
    count = 8000
    hidden = torch.randn(1, 6, 32).expand(count, 6, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = module(hidden)[:, 0]
        batch = Unpadded.of(hidden, None)
        found = last(module, hidden) if last else batch.pad(Layer.of(module)(batch.strip(hidden), batch))
        other = found[:, 0]
    deviation = plain.std(0)
    assert bool((deviation > 0).all())
    assert float(((plain.mean(0) - other.mean(0)).abs() / deviation).max()) < 5 * (2 / count) ** 0.5
    assert float((other.std(0) / deviation - 1).abs().max()) < 0.05
    # Each row has its own mask.
    assert not torch.equal(other[0], other[1])


def test_last_layer_without_dropout_is_the_first_token_of_the_layer(tiny_base: Base) -> None:
    module = tiny_base.model.double().eval().bert.encoder.layer[1]
    hidden = torch.randn(3, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(last_layer(module, hidden), module(hidden)[:, :1], rtol=1e-12, atol=1e-12)


def test_modes_are_told_of_nothing_within_a_layer(tiny_base: Base) -> None:
    class Counting(TorchFunctionMode):
        told = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counting.told += 1
            return func(*args, **(kwargs or {}))

    layer = Layer.of(tiny_base.model.bert.encoder.layer[0])
    hidden = torch.randn(2, 5, 32)
    batch = Unpadded.of(hidden, None)
    rows = batch.strip(hidden)
    with torch.no_grad(), Counting():
        layer(rows, batch)
    assert Counting.told == 0


def test_dropout_of_other_modules_stays_with_the_generator(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 6, padded=False)
    tiny_base.model.train()
    outputs = []
    with FastDropout(), fused(tiny_base.model, fusable(tiny_base.model)), torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(tiny_base.model(**batch).logits.numpy())
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_an_activation_of_the_users_own_is_computed(make_base):
    layer = make_base("bert").model.bert.encoder.layer[0]
    assert fits(layer)
    layer.intermediate.intermediate_act_fn = type("Relu", (GELUActivation,), {"forward": lambda _, x: x.relu()})()
    assert not fits(layer)
