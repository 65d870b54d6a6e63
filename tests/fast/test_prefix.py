"""The frozen prefix: the same gradients and the same training as without, and never a stale one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from normtune.config import Layers, protocol
from normtune.data.encode import Encoded, encode
from normtune.errors import ConfigError
from normtune.fast import layer as fused_layer
from normtune.fast.first_token import FAMILIES
from normtune.fast.point import Point
from normtune.fast.prefix import Prefix
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import Base
from normtune.training.session import Session
from tests.conftest import BaseFactory, needs_compiler
from tests.training.test_session import data, split

METHODS = ["layernorm", "head", "layernorm@2", "attention.output.LayerNorm@1-", "output.dense@0"]


def examples(base: Base, seed: int = 1, length: int = 64) -> Encoded:
    return encode(split(12, seed), base.need_tokenizer(), length)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", ["torch", "fused", pytest.param("compiled", marks=needs_compiler)])
def test_outputs_and_gradients_are_those_of_the_whole_model(
    tiny_base: Base, method: str, dtype: torch.dtype, layers: Layers
) -> None:
    tiny_base.model.to(dtype)
    selection, encoded = select(tiny_base.layout, method), examples(tiny_base)
    states = Prefix(tiny_base, Point.of(tiny_base, selection), layers=layers).states(encoded)
    tuning, rows = Tuning(tiny_base, selection), np.array([3, 0, 7, 11])
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


@pytest.mark.parametrize("layers", ["fused", pytest.param("compiled", marks=needs_compiler)])
@pytest.mark.parametrize("method", ["layernorm@1-", "head", "attention.output.LayerNorm@1-"])
def test_it_is_computed_by_the_layers_that_are_asked_for(
    tiny_base: Base, method: str, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own layers are never called, and what was computed in another way is not taken for it."""
    point, encoded = Point.of(tiny_base, select(tiny_base.layout, method)), examples(tiny_base)
    plain = Prefix(tiny_base, point)
    wanted, called = plain.states(encoded).kept, []
    for layer in tiny_base.model.bert.encoder.layer:
        layer.register_forward_pre_hook(lambda *_: called.append(True))
    attended, attend = [], fused_layer.attend
    monkeypatch.setattr(fused_layer, "attend", lambda *args: attended.append(True) or attend(*args))
    prefix = Prefix(tiny_base, point, layers=layers)
    torch.testing.assert_close(prefix.states(encoded).kept, wanted, rtol=1e-5, atol=1e-5)
    assert not called
    assert bool(attended) == (layers == "fused")
    assert prefix.key(encoded) != plain.key(encoded)


def test_where_fused_layers_do_not_fit_it_is_torchs(tiny_base: Base) -> None:
    """Only normalisations may train in a fused layer, and the prefix lies below all that does in a training."""
    point, encoded = Point(2, last_norm=True), examples(tiny_base)
    wanted = Prefix(tiny_base, point).states(encoded).kept
    tiny_base.model.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.GELU()
    assert torch.equal(Prefix(tiny_base, point, layers="fused").states(encoded).kept, wanted)


@pytest.mark.parametrize("side", ["right", "left"])
def test_states_are_filled_up_where_tokens_are(tiny_base: Base, side: str) -> None:
    encoded = replace(examples(tiny_base), side=side)
    states, numbers = Prefix(tiny_base, Point(1, last_norm=False)).states(encoded), np.array([5, 0, 11, 5])
    padded, own = states.padded(numbers), encoded.batch(numbers)["attention_mask"].bool()
    assert not own.all()
    assert torch.equal(padded[own], torch.cat([states.kept[states.starts[i] : states.starts[i + 1]] for i in numbers]))
    assert not padded[~own].any()


def test_the_point_is_the_highest_below_what_trains(tiny_base: Base) -> None:
    points = [Point.of(tiny_base, select(tiny_base.layout, method)) for method in METHODS]
    assert points == [Point(0, True), Point(3, False), Point(2, True), Point(1, False), Point(0, False)]
    with pytest.raises(ConfigError, match="trains embeddings"):
        Point.of(tiny_base, select(tiny_base.layout, "full"))


def test_a_whole_training_is_that_without_prefix_and_rates_and_seeds_share_it(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    runs = {}
    for prefix in (False, True):
        chosen = protocol("small", epochs=3, batch_size=8, prefix=prefix)
        for rate, seed in ((1e-2, 0), (3e-2, 1)):
            runs[prefix, seed] = session.run(session.config("animals", "layernorm", rate, seed, chosen), data())
    assert session._prefix is not None
    assert session._prefix.computed == 40 + 24
    for seed in (0, 1):
        (plain, values), (fast, others) = runs[False, seed], runs[True, seed]
        assert plain.id != fast.id
        assert [p.loss for p in fast.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-5)
        assert fast.score == plain.score
        for name, value in values.values.items():
            assert (value - others.values[name]).norm() <= 1e-5 * value.norm()


def test_a_session_computes_it_anew_for_other_layers_and_products(tiny_folder: Path) -> None:
    session, found = Session(str(tiny_folder)), []
    wanted = [("torch", "float32"), ("fused", "float32"), ("fused", "bfloat16"), ("fused", "bfloat16")]
    for layers, products in wanted:
        chosen = protocol("small", epochs=1, batch_size=8, prefix=True, layers=layers, inference_products=products)
        session.run(session.config("animals", "layernorm", 1e-2, 0, chosen), data())
        found.append(session._prefix)
    assert [(prefix.layers, prefix.products) for prefix in found if prefix is not None] == wanted
    assert found[2] is found[3]


@pytest.mark.parametrize("layers", ["torch", "fused"])
def test_its_products_are_computed_in_what_is_asked_for(tiny_base: Base, layers: Layers) -> None:
    encoded, point = examples(tiny_base), Point(1, True)
    exact, lower = (Prefix(tiny_base, point, layers=layers, products=products) for products in ("float32", "bfloat16"))
    assert exact.key(encoded) != lower.key(encoded)
    off = lower.states(encoded).kept - exact.states(encoded).kept
    assert 1e-5 < off.norm() / exact.states(encoded).kept.norm() < 2e-2


def test_a_stale_prefix_is_never_used(tiny_base: Base) -> None:
    prefix = Prefix(tiny_base, Point(1, False))
    encoded = examples(tiny_base)
    first = prefix.states(encoded)
    assert prefix.states(examples(tiny_base)).kept is first.kept
    changed = tuple(ids.clone() for ids in encoded.fields["input_ids"])
    changed[4][1] += 1
    others = [
        examples(tiny_base, seed=2),
        examples(tiny_base, length=6),
        replace(encoded, fields={**encoded.fields, "input_ids": changed}),  # as another tokenizer would give
    ]
    assert len({prefix.key(other) for other in [encoded, *others]}) == 4
    with torch.no_grad():
        tiny_base.model.get_parameter("bert.encoder.layer.0.output.dense.bias")[0] += 1
    again = prefix.states(encoded)
    assert not torch.equal(again.kept, first.kept)


def test_what_is_too_large_for_the_budget_lies_in_a_file(tiny_base: Base) -> None:
    encoded = examples(tiny_base)
    kept = [Prefix(tiny_base, Point(2, True), budget).states(encoded).kept for budget in (0, 1 << 20)]
    assert torch.equal(*kept)


def test_dropout_and_other_families_are_refused(make_base: BaseFactory) -> None:
    with pytest.raises(ConfigError, match="dropout off"):
        protocol("paper", prefix=True)
    gpt = make_base("gpt2")
    with pytest.raises(ConfigError, match="not for 'gpt2'"):
        Point.of(gpt, select(gpt.layout, "layernorm"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_goes_on_as_the_whole_model(make_base: BaseFactory, family: str) -> None:
    base = make_base(family)
    base.model.double()
    lengths = (9, 4, 7)
    ids = tuple(torch.randint(4, 30, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths)
    pad = {"input_ids": base.model.config.pad_token_id, "attention_mask": 0}
    encoded = Encoded({"input_ids": ids, "attention_mask": tuple(torch.ones_like(i) for i in ids)}, None, 0, pad)
    rows = np.arange(3)
    for method in ("layernorm", "layernorm@1-", "layernorm@2", "head"):
        states = Prefix(base, Point.of(base, select(base.layout, method))).states(encoded)
        whole = base.model(**encoded.batch(rows)).logits
        short = states.logits(base.model, rows, torch.device("cpu"))
        assert (whole - short).abs().max() <= 1e-12 * whole.abs().max()


def test_the_last_layer_is_computed_for_one_token(tiny_base: Base) -> None:
    encoded, shapes = examples(tiny_base), []
    states = Prefix(tiny_base, Point(0, True)).states(encoded)
    dense = tiny_base.model.bert.encoder.layer[-1].intermediate.dense
    hook = dense.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    states.logits(tiny_base.model, np.arange(12), torch.device("cpu"))
    hook.remove()
    assert shapes == [(12, 1, 32)]
    assert "forward" not in vars(tiny_base.model.bert.encoder.layer[-1])
