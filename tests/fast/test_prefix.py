"""The frozen prefix: the same gradients and the same training as without it, and never stale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from normtune.config import Products
from normtune.data.encode import Encoded, encode
from normtune.fast import layer as layer_module
from normtune.fast.first_token import BERTS
from normtune.fast.fused import fusable
from normtune.fast.prefix import HiddenStates, Prefix, PrefixEnd, StateCache
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from tests.conftest import BaseFactory
from tests.training.test_session import split

METHODS = ["layernorm", "head", "layernorm@2", "attention.output.LayerNorm@1-", "output.dense@1"]


def examples(base: Base, seed: int = 1, length: int = 64) -> Encoded:
    return encode(split(12, seed), base.need_tokenizer(), length)


def states_of(base: Base, encoded: Encoded, point: PrefixEnd, **more: Any) -> HiddenStates:
    (states,) = Prefix(base, point, **more).states(encoded)
    assert states is not None
    return states


def tuned(base: Base, method: str) -> PrefixEnd | None:
    """The point below a method, which is undone again."""
    tuning = Trainable(base, select(base.layout, method))
    point = PrefixEnd.of(base)
    tuning.undo()
    return point


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fuse", [False, True])
def test_outputs_and_gradients_are_those_of_the_whole_model(
    tiny_base: Base, method: str, dtype: torch.dtype, fuse: bool
) -> None:
    tiny_base.model.to(dtype)
    encoded, rows = examples(tiny_base), np.array([3, 0, 7, 11])
    tuning = Trainable(tiny_base, select(tiny_base.layout, method))
    point = PrefixEnd.of(tiny_base)
    assert point is not None
    states = states_of(tiny_base, encoded, point, layers=fusable(tiny_base.model) if fuse else None)
    whole = tiny_base.model(**encoded.batch(rows)).logits
    short = states.logits(tiny_base.model, rows, torch.device("cpu"))
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    assert (whole - short).abs().max() <= bound * whole.abs().max()
    trained = list(tuning.parameters())
    for one, two in zip(
        torch.autograd.grad(whole.square().sum(), trained),
        torch.autograd.grad(short.square().sum(), trained),
        strict=True,
    ):
        assert (one - two).norm() <= bound * one.norm()


@pytest.mark.parametrize("method", ["layernorm@1-", "head", "attention.output.LayerNorm@1-"])
def test_it_is_computed_by_fused_layers_where_they_fit(
    tiny_base: Base, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own layers are never called."""
    point, encoded, layers = tuned(tiny_base, method), examples(tiny_base), fusable(tiny_base.model)
    assert point is not None
    wanted, called = states_of(tiny_base, encoded, point).kept, []
    for layer in tiny_base.model.bert.encoder.layer:
        layer.register_forward_pre_hook(lambda *_: called.append(True))
    attended, attend = [], layer_module.attend
    monkeypatch.setattr(layer_module, "attend", lambda *args: attended.append(True) or attend(*args))
    found = states_of(tiny_base, encoded, point, layers=layers)
    torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-5)
    assert not called
    assert attended


def test_layers_that_do_not_fit_are_torchs(tiny_base: Base) -> None:
    point, encoded = PrefixEnd(2, last_norm=True), examples(tiny_base)
    wanted = states_of(tiny_base, encoded, point).kept
    tiny_base.model.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.GELU()
    layers = fusable(tiny_base.model)
    assert len(layers) == 2
    torch.testing.assert_close(states_of(tiny_base, encoded, point, layers=layers).kept, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_states_are_filled_up_where_tokens_are(tiny_base: Base, side: str) -> None:
    encoded = replace(examples(tiny_base), side=side)
    states, numbers = states_of(tiny_base, encoded, PrefixEnd(1, last_norm=False)), np.array([5, 0, 11, 5])
    padded, own = states.padded(numbers), encoded.batch(numbers)["attention_mask"].bool()
    assert not own.all()
    assert torch.equal(padded[own], torch.cat([states.kept[states.starts[i] : states.starts[i + 1]] for i in numbers]))
    assert not padded[~own].any()


def test_the_point_is_the_highest_below_what_trains(tiny_base: Base) -> None:
    points = [tuned(tiny_base, method) for method in METHODS]
    assert points == [
        PrefixEnd(0, True),
        PrefixEnd(3, False),
        PrefixEnd(2, True),
        PrefixEnd(1, False),
        PrefixEnd(1, False),
    ]


@pytest.mark.parametrize("method", ["full", "bitfit", "random", "layernorm + attention.output.LayerNorm@0"])
def test_where_no_layer_lies_below_there_is_none(tiny_base: Base, method: str) -> None:
    assert tuned(tiny_base, method) is None


def test_a_parameter_of_unknown_place_may_come_into_play_anywhere(tiny_base: Base) -> None:
    model = tiny_base.model
    assert PrefixEnd.of(tiny_base) == PrefixEnd(3, False)
    model.prompts = torch.nn.Parameter(torch.zeros(2, 32))
    assert PrefixEnd.of(tiny_base) is None
    del model.prompts
    model.bert.encoder.layer[1].adapter = torch.nn.Linear(32, 2)
    assert PrefixEnd.of(tiny_base) == PrefixEnd(1, False)


def test_other_families_have_none(make_base: BaseFactory) -> None:
    assert tuned(make_base("gpt2"), "layernorm") is None


@pytest.mark.parametrize("fuse", [False, True])
def test_its_products_are_computed_in_what_is_asked_for(tiny_base: Base, fuse: bool) -> None:
    kept, encoded, found = StateCache(), examples(tiny_base), []
    wanted: tuple[Products, ...] = ("float32", "bfloat16", "bfloat16")
    for products in wanted:
        layers = fusable(tiny_base.model, products) if fuse else None
        found.append(
            states_of(tiny_base, encoded, PrefixEnd(1, True), kept=kept, layers=layers, products=products).kept
        )
    assert found[1] is found[2]
    assert 1e-5 < (found[1] - found[0]).norm() / found[0].norm() < 2e-2


def test_a_stale_prefix_is_never_used(tiny_base: Base) -> None:
    kept, encoded, point = StateCache(), examples(tiny_base), PrefixEnd(1, False)
    prefix = Prefix(tiny_base, point, kept)
    first = states_of(tiny_base, encoded, point, kept=kept)
    assert states_of(tiny_base, examples(tiny_base), point, kept=kept).kept is first.kept
    changed = tuple(ids.clone() for ids in encoded.fields["input_ids"])
    changed[4][1] += 1
    others = [
        examples(tiny_base, seed=2),
        examples(tiny_base, length=6),
        replace(encoded, fields={**encoded.fields, "input_ids": changed}),  # as another tokenizer would give
    ]
    prefix.states(encoded, *others)
    assert kept.computed == 4 * len(encoded)
    with torch.no_grad():
        tiny_base.model.get_parameter("bert.encoder.layer.0.output.dense.bias")[0] += 1
    assert not torch.equal(states_of(tiny_base, encoded, point, kept=kept).kept, first.kept)
    states_of(tiny_base, encoded, PrefixEnd(2, False), kept=kept)
    assert kept.computed == 6 * len(encoded)


def test_what_is_too_large_for_the_budget_is_not_kept(tiny_base: Base) -> None:
    kept = StateCache(1000)
    assert Prefix(tiny_base, PrefixEnd(2, True), kept).states(examples(tiny_base)) == [None]
    assert kept.computed == 0


@pytest.mark.parametrize("family", BERTS)
def test_every_known_family_goes_on_as_the_whole_model(make_base: BaseFactory, family: str) -> None:
    base = make_base(family)
    base.model.double()
    lengths = (9, 4, 7)
    ids = tuple(torch.randint(4, 30, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths)
    pad = {"input_ids": base.model.config.pad_token_id, "attention_mask": 0}
    encoded = Encoded({"input_ids": ids, "attention_mask": tuple(torch.ones_like(i) for i in ids)}, None, pad)
    rows = np.arange(3)
    for method in ("layernorm", "layernorm@1-", "layernorm@2", "head"):
        point = tuned(base, method)
        assert point is not None
        states = states_of(base, encoded, point)
        whole = base.model(**encoded.batch(rows)).logits
        short = states.logits(base.model, rows, torch.device("cpu"))
        assert (whole - short).abs().max() <= 1e-12 * whole.abs().max()


def test_the_last_layer_is_computed_for_one_token(tiny_base: Base) -> None:
    encoded, shapes = examples(tiny_base), []
    states = states_of(tiny_base, encoded, PrefixEnd(0, True))
    dense = tiny_base.model.bert.encoder.layer[-1].intermediate.dense
    hook = dense.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    states.logits(tiny_base.model, np.arange(12), torch.device("cpu"))
    hook.remove()
    assert shapes == [(12, 1, 32)]
    assert "forward" not in vars(tiny_base.model.bert.encoder.layer[-1])
