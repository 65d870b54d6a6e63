"""Change over whole components, against plain loops over the model's own tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import mean, stdev

import pytest
import torch

from normtune.errors import DataError, UnknownNameError
from normtune.importance.movement import MEASURES, Average, average, changes, movement, ranks
from normtune.methods.selection import everything
from normtune.records.run import Change


def moved(base, seed):
    """The body's values before and after a made-up training: some entries stay, some parameters start at zero."""
    generator = torch.Generator().manual_seed(seed)
    before = {p.parameter: base.model.get_parameter(p.parameter).detach().flatten() for p in base.layout.body}
    before = {n: v.clone() * (not n.endswith("dense.bias")) for n, v in before.items()}
    after = {n: v + 1e-3 * torch.randn(v.shape, generator=generator) for n, v in before.items()}
    for name in after:
        after[name][::3] = before[name][::3]
    return before, after


def by_hand(base, before, after, chosen):
    """Every measure over the entries of the places that `chosen` accepts, one entry after the other."""
    gaps, sizes = [], []
    for place in base.layout.body:
        if chosen(place):
            old, new = before[place.parameter].tolist(), after[place.parameter].tolist()
            gaps += [abs(b - a) for a, b in zip(old, new, strict=True)]
            sizes += [abs(a) for a in old]
    shift, size = math.fsum(gaps) / len(gaps), math.fsum(sizes) / len(sizes)
    return {
        "mean": shift,
        "relative": shift / size if size else None,
        "l0": sum(gap != 0 for gap in gaps),
        "l1": math.fsum(gaps),
    }


def same(one, other):
    return one == other or one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert", "t5", "llama"])
@pytest.mark.parametrize("sub", [None, "weight", "bias"])
def test_it_is_the_loop_by_hand(family, sub, make_base):
    base = make_base(family)
    if sub and not any(place.sub == sub for place in base.layout.body):
        return
    seeds = [moved(base, seed) for seed in (1, 2, 3)]
    runs = [changes(everything(base.layout), *values) for values in seeds]
    spots = defaultdict(set)
    for place in base.layout.body:
        if sub in {None, place.sub}:
            spots[place.component].add(place.layer)
    for measure in MEASURES:
        found = movement(runs, measure, sub)

        def wanted(accepts, measure=measure):
            def chosen(place):
                return sub in {None, place.sub} and accepts(place)

            values = [by_hand(base, *each, chosen)[measure] for each in seeds]
            return (None, None) if None in values else (mean(values), stdev(values))

        for name, layers in spots.items():
            value = found.whole[name]
            expected = wanted(lambda place, name=name: place.component == name)
            assert same(value.mean, expected[0]), (name, measure)
            assert value.spread is None if expected[1] is None else value.spread == pytest.approx(expected[1], rel=1e-6)
            for layer in layers - {None}:
                expected = wanted(lambda p, name=name, layer=layer: (p.component, p.layer) == (name, layer))
                assert same(found.cells[name, layer].mean, expected[0]), (name, layer, measure)
        assert {name for name, _ in found.cells} == {*found.inside}
        assert {*found.whole} == {*spots} == {*found.inside, *found.outside}
        assert len(found.cells) == sum(len(layers - {None}) for layers in spots.values())
        numbered = [layer for layers in spots.values() for layer in layers if layer is not None]
        assert found.layers == tuple(sorted({*numbered}))


def change(component="x", layer=0, sub="weight", entries=4, l1=1.0, relative=0.5):
    return Change(
        component=component,
        layer=layer,
        sub=sub,
        entries=entries,
        mean=l1 / entries,
        relative=relative,
        l0=int(l1 != 0),
        l1=l1,
    )


def test_a_weight_counts_for_more_than_its_bias():
    parts = [change(entries=90, l1=9.0), change(sub="bias", entries=10, l1=11.0)]
    assert movement([parts]).whole["x"].mean == pytest.approx(20 / 100)


def test_relative_to_what_is_all_zero_adds_nothing_below():
    parts = [change(l1=1.0, relative=0.5), change(sub="bias", l1=3.0, relative=None)]
    assert movement([parts], "relative").whole["x"].mean == pytest.approx(4.0 / 2.0)
    assert movement([parts], "relative", "bias").whole["x"].mean is None


def test_a_relative_change_that_cannot_be_told_is_not_made_up():
    """A part that did not move has a relative change of zero, which does not reveal its size."""
    still = change(sub="bias", l1=0.0, relative=0.0)
    assert movement([[still]], "relative").whole["x"].mean == 0.0
    assert movement([[still, change()]], "relative").whole["x"].mean is None
    assert movement([[still, change()]]).whole["x"].mean == pytest.approx(1 / 8)
    found = movement([[still, change()], [change(sub="bias"), change()]], "relative")
    assert found.whole["x"] == Average(None)


def test_one_seed_has_no_spread():
    assert average([2.0]) == Average(2.0, None)
    assert average([1.0, 3.0]) == Average(2.0, pytest.approx(math.sqrt(2)))
    assert average([1.0, None]) == average([]) == Average(None)


def test_ranks_share_a_place_and_skip_gaps():
    assert ranks({"a": 1.0, "b": 3.0, "c": None, "d": 3.0, "e": 2.0}) == {"b": 1, "d": 1, "e": 3, "a": 4}


def test_what_cannot_be_aggregated_is_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown measure 'l2'.*l0, l1, mean, relative"):
        movement([[change()]], "l2")
    for runs in ([], [[]], [[change()], []]):
        with pytest.raises(DataError, match="no changes"):
            movement(runs)
    with pytest.raises(DataError, match="no changes of any bias"):
        movement([[change()]], sub="bias")
    with pytest.raises(DataError, match="different parameters"):
        movement([[change()], [change(layer=1)]])
