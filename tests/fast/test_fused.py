"""Fused and compiled layers against torch's own: outputs, gradients, dropout, whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from normtune.config import protocol
from normtune.errors import ConfigError
from normtune.fast.compiled import CompiledLayer
from normtune.fast.dropping import dropout_of
from normtune.fast.first_token import FAMILIES, last_layer
from normtune.fast.fused import fused
from normtune.fast.layer import Layer, fits
from normtune.fast.linear import fast_linear
from normtune.fast.unpadded import Packing
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.methods.sparse import Tuning
from normtune.models.base import Base
from normtune.training.session import Session
from tests.conftest import BaseFactory, needs_compiler
from tests.training.test_session import comparable, data

#: Whether layers are compiled, and the class and the protocol's name of both kinds.
COMPILED = [False, pytest.param(True, marks=needs_compiler)]
KINDS = [Layer, pytest.param(CompiledLayer, marks=needs_compiler)]
NAMES = ["fused", pytest.param("compiled", marks=needs_compiler)]


def inputs(base: Base, tokens: int, *, padded: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(5, 30, (4, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, tokens - 3 :] = mask[3, 1:] = 0
    return {"input_ids": ids.where(mask.bool(), base.model.config.pad_token_id), "attention_mask": mask}


def both_ways(
    base: Base, trained: list[Tensor], batch: dict[str, Tensor], *, compiled: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients as torch's and as fused layers give them."""

    def run() -> list[Tensor]:
        outputs = base.model(**batch).logits
        return [outputs, *torch.autograd.grad(outputs.square().sum(), trained)]

    with fast_linear():
        plain = run()
        with fused(base.model, compiled=compiled):
            return plain, run()


def assert_near(plain: list[Tensor], other: list[Tensor], bound: float) -> None:
    for one, two in zip(plain, other, strict=True):
        assert (one - two).norm() <= bound * one.norm() + bound * plain[1].norm() * 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("tokens", "padded"), [(5, False), (5, True), (19, True)])
@pytest.mark.parametrize("norms", ["output.LayerNorm", "2.output.LayerNorm", "LayerNorm"])
@pytest.mark.parametrize("compiled", COMPILED)
def test_in_float64_outputs_and_gradients_are_torchs(
    make_base: BaseFactory, family: str, tokens: int, padded: bool, norms: str, compiled: bool
) -> None:
    base = make_base(family)
    base.model.double()
    chosen = [p for n, p in base.model.named_parameters() if ".layer." in n and f"{norms}." in n]
    for parameter in chosen:
        parameter.requires_grad_()
    assert all(fits(layer) for layer in base.model.base_model.encoder.layer)
    assert_near(*both_ways(base, chosen, inputs(base, tokens, padded=padded), compiled=compiled), 1e-10)


METHODS = ["layernorm", "attention-layernorm", "layernorm@1-", "bitfit", "output.dense@1", "full", "head"]


@pytest.mark.parametrize("method", [*METHODS, "mask"])
@pytest.mark.parametrize("compiled", COMPILED)
def test_in_float32_they_are_to_rounding_whatever_trains(tiny_base: Base, method: str, compiled: bool) -> None:
    selection = select(tiny_base.layout, "layernorm" if method == "mask" else method)
    if method == "mask":
        taken = {place.parameter: selection.indices(place.parameter)[::3] for place in selection}
        selection = Selection(tiny_base.layout, taken)
    tuning = Tuning(tiny_base, selection)
    batch = inputs(tiny_base, 9, padded=True)
    assert_near(*both_ways(tiny_base, list(tuning.parameters()), batch, compiled=compiled), 1e-5)
    tuning.undo()
    assert "forward" not in vars(tiny_base.model.bert.encoder)


@pytest.mark.parametrize("compiled", COMPILED)
def test_evaluation_is_torchs(tiny_base: Base, compiled: bool) -> None:
    batch = inputs(tiny_base, 7, padded=True)
    with torch.inference_mode(), fast_linear():
        plain = tiny_base.model(**batch).logits
        with fused(tiny_base.model, compiled=compiled):
            torch.testing.assert_close(tiny_base.model(**batch).logits, plain, rtol=1e-5, atol=1e-6)


def test_weights_are_those_of_now(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 7, padded=False)
    dense = tiny_base.model.bert.encoder.layer[0].intermediate.dense
    found = []
    for _ in range(2):
        with torch.inference_mode(), fused(tiny_base.model):
            found.append(tiny_base.model(**batch).logits)
        dense.weight.data.mul_(1.5)  # not counted as a change by torch
    with torch.inference_mode():
        dense.weight.data.div_(1.5)
        torch.testing.assert_close(found[1], tiny_base.model(**batch).logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("tokens", [5, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_dropout_are_the_differences_of_outputs(
    make_base: BaseFactory, tokens: int, kind: type[Layer]
) -> None:
    base = make_base("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4)
    module = base.model.double().train().bert.encoder.layer[0]
    lower, upper = module.attention.output.LayerNorm, module.output.LayerNorm
    layer, hidden = kind.of(module), torch.randn(2, tokens, 32, dtype=torch.float64, requires_grad=True)
    values = [hidden, *(p.requires_grad_() for norm in (lower, upper) for p in norm.parameters())]
    own = torch.ones(2, tokens, dtype=torch.bool)
    own[1, 3:] = False
    packing = Packing.of(hidden, own)

    def run(*_: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same masks every time
        return packing.pad(layer(packing.pack(hidden), packing))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_dropout_has_torchs_statistics(make_base: BaseFactory, kind: type[Layer] | None) -> None:
    base = make_base("bert", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    module = base.model.train().bert.encoder.layer[0]
    count = 8000
    hidden = torch.randn(1, 6, 32).expand(count, 6, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = module(hidden)[:, 0]
        packing = Packing.of(hidden, None)
        if kind is None:
            other = last_layer(module, hidden)[:, 0]
        else:
            other = packing.pad(kind.of(module)(packing.pack(hidden), packing))[:, 0]
    deviation = plain.std(0)
    assert bool((deviation > 0).all())
    assert float(((plain.mean(0) - other.mean(0)).abs() / deviation).max()) < 5 * (2 / count) ** 0.5
    assert float((other.std(0) / deviation - 1).abs().max()) < 0.05
    # Rows are dropped out one by one.
    assert not torch.equal(other[0], other[1])


def test_last_layer_without_dropout_is_the_first_token_of_the_layer(tiny_base: Base) -> None:
    module = tiny_base.model.double().eval().bert.encoder.layer[1]
    hidden = torch.randn(3, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(last_layer(module, hidden), module(hidden)[:, :1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("prefix", "method"),
    [(True, "layernorm"), (True, "layernorm@1- + pooler.dense"), (False, "layernorm"), (False, "bitfit")],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_training_is_torchs(tiny_folder: Path, prefix: bool, method: str, name: str) -> None:
    session, runs = Session(str(tiny_folder)), []
    for layers in ("torch", name):
        chosen = protocol("small", epochs=2, batch_size=8, prefix=prefix, layers=layers)
        runs.append(session.run(session.config("animals", method, 1e-2, 0, chosen), data()))
    (plain, values), (fast, others) = runs
    assert plain.id != fast.id
    assert [p.loss for p in fast.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-5)
    assert fast.score == plain.score
    for place, value in values.values.items():
        if "key.bias" in place:  # moves no output: its gradient is rounding, of which Adam makes whole steps
            continue
        assert (value - others.values[place]).norm() <= 2e-5 * value.norm()


def test_what_is_scored_at_the_end_goes_through_the_prefix_too(tiny_folder: Path) -> None:
    scores = []
    for layers in ("torch", "fused"):
        session = Session(str(tiny_folder))
        chosen = protocol("fast", epochs=1, batch_size=8, held_out=0.25, layers=layers)
        scores.append(session.run(session.config("animals", "layernorm", 1e-2, 0, chosen), data())[0].scores)
        assert session._prefix is not None
        assert session._prefix.computed == 40 + 24 * (layers == "fused")
    assert scores[0] == scores[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_with_dropout_repeats_to_the_bit(tiny_folder: Path, name: str) -> None:
    chosen = protocol("small", epochs=2, batch_size=8, dropout=True, dropout_generator="fast", layers=name)
    records = []
    for _ in range(2):
        session = Session(str(tiny_folder))
        records.append(session.run(session.config("animals", "layernorm", 1e-2, 0, chosen), data())[0])
    assert comparable(records[0]) == comparable(records[1])


def test_modes_are_told_of_nothing_within_a_layer(tiny_base: Base) -> None:
    class Counting(TorchFunctionMode):
        told = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counting.told += 1
            return func(*args, **(kwargs or {}))

    layer = Layer.of(tiny_base.model.bert.encoder.layer[0])
    hidden = torch.randn(2, 5, 32)
    packing = Packing.of(hidden, None)
    rows = packing.pack(hidden)
    with torch.no_grad(), Counting():
        layer(rows, packing)
    assert Counting.told == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_fused_is_refused(make_base: BaseFactory, tiny_folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="fast generator"):
        protocol("paper", layers=name)
    gpt = make_base("gpt2")
    with pytest.raises(ConfigError, match="not for 'gpt2'"), fused(gpt.model, compiled=name == "compiled"):
        pass
    session = Session(str(tiny_folder), memory="lean")
    with pytest.raises(ConfigError, match="leave out --memory"):
        session.run(session.config("animals", "layernorm", 1e-2, 0, protocol("small", layers=name)), data())


def test_dropout_of_other_modules_stays_with_the_generator(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 6, padded=False)
    tiny_base.model.train()
    outputs = []
    with dropout_of("fast"), fused(tiny_base.model), torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(tiny_base.model(**batch).logits.numpy())
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
