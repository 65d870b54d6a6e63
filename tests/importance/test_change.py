from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normtune.importance.movement import changes
from normtune.methods.expression import select
from normtune.methods.selection import Selection, everything, nothing
from normtune.methods.trainable import Trainable
from normtune.records.run import Change


@pytest.fixture(scope="module")
def layout(make_base):
    return make_base("bert").layout


def by_hand(place, before, after):
    """Equation 1, entry by entry."""
    old, new = before.tolist(), after.tolist()
    total, scale, differ = [], [], 0
    for one, other in zip(old, new, strict=True):
        total.append(abs(other - one))
        scale.append(abs(one))
        differ += other != one
    mean = math.fsum(total) / len(total)
    return {
        "component": place.component,
        "layer": place.layer,
        "sub": place.sub,
        "entries": len(old),
        "mean": mean,
        "relative": mean / (math.fsum(scale) / len(scale)) if any(scale) else None,
        "l0": differ,
        "l1": math.fsum(total),
    }


def packed(selection, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(selection.count(name), generator=generator) for name in selection.chosen}


@pytest.mark.parametrize("what", ["full", "layernorm", "random", "mask"])
def test_it_is_the_loop_by_hand(what, layout):
    if what == "mask":
        name = "bert.encoder.layer.1.output.dense.weight"
        selection = Selection(layout, {name: np.arange(0, layout.by_name[name].size, 7)})
    else:
        selection = select(layout, what)
    before, after = packed(selection, 1), packed(selection, 2)
    for name in [*before][::2]:  # half of the entries of every other parameter stay
        after[name][::2] = before[name][::2]
    found = changes(selection, before, after)
    wanted = [by_hand(place, before[place.parameter], after[place.parameter]) for place in selection]
    assert len(found) == len(wanted) == len(selection.chosen)
    for one, other in zip(found, wanted, strict=True):
        for field, value in one.model_dump().items():
            exact = value is None or isinstance(value, (str, int))
            assert value == (other[field] if exact else pytest.approx(other[field], rel=1e-12)), field
    assert sum(change.entries for change in found) == len(selection)


def test_the_head_is_left_out_and_the_order_is_the_models(layout):
    selection = everything(layout)
    values = packed(selection, 1)
    shuffled = {name: values[name] for name in [*values][::-1]} | {"classifier.weight": torch.ones(64)}
    found = changes(selection, shuffled, shuffled)
    assert [(c.component, c.layer, c.sub) for c in found] == [(p.component, p.layer, p.sub) for p in layout.body]
    assert not any(change.component == "classifier" for change in found)
    assert all(change.mean == change.l0 == change.l1 == 0 for change in found)
    assert all(change.relative == 0 for change in found)


def test_nothing_selected_nothing_changed(layout):
    assert changes(nothing(layout), {}, {}) == []


def test_relative_to_nothing_is_no_number(layout):
    selection = Selection(layout, {"bert.pooler.dense.bias": None})
    zeros = {"bert.pooler.dense.bias": torch.zeros(32)}
    (change,) = changes(selection, zeros, {"bert.pooler.dense.bias": torch.full((32,), 0.5)})
    assert change.relative is None
    assert (change.mean, change.l0, change.l1) == (0.5, 32, 16.0)


def test_sums_are_in_float64(layout):
    name = "bert.pooler.dense.weight"
    before = {name: torch.zeros(1024)}
    after = {name: torch.full((1024,), 1e-8)}
    after[name][0] = 1.0
    (change,) = changes(Selection(layout, {name: None}), before, after)
    assert change.l1 == pytest.approx(1 + 1023 * float(torch.tensor(1e-8)), rel=1e-14)
    assert change.l0 == 1024


def test_values_that_a_tuning_gives(make_base):
    base = make_base("bert")
    tuning = Trainable(base, select(base.layout, "layernorm"))
    before = tuning.values()
    with torch.no_grad():
        tuning.leaves["bert.encoder.layer.1.output.LayerNorm.bias"].add_(0.25)
    found = {(c.layer, c.sub): c for c in changes(tuning.spec.places, before, tuning.values())}
    tuning.undo()
    assert found[1, "bias"].mean == pytest.approx(0.25, rel=1e-6)
    assert found[1, "bias"].l0 == 32
    assert {place for place, change in found.items() if change.l0} == {(1, "bias")}
    assert {change.component for change in found.values()} == {"output.LayerNorm"}


def test_a_change_refuses_what_it_does_not_know():
    fields = {
        "component": "x",
        "layer": None,
        "sub": "bias",
        "entries": 1,
        "mean": 0,
        "relative": None,
        "l0": 0,
        "l1": 0,
    }
    assert Change(**fields).mean == 0
    with pytest.raises(ValidationError):
        Change(**fields, l2=0)
    with pytest.raises(ValidationError):
        Change(**{**fields, "sub": "gamma"})
