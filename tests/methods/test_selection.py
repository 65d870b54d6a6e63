from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from normtune.deltas.delta import Delta
from normtune.errors import SelectionError
from normtune.methods.expression import tune
from normtune.methods.selection import Selection, at, everything, nothing, where
from normtune.models.base import load_base
from normtune.models.layout import Layout, Place

SHAPES = {"a.weight": (2, 3), "a.bias": (3,), "b.weight": (1,), "c.weight": (2, 2, 2)}
HEAD = "classifier.weight"


def make_layout(shapes=SHAPES):
    places = [
        Place(name, name.rpartition(".")[0], name.rpartition(".")[2], None, shape, head=False, norm=False)
        for name, shape in shapes.items()
    ]
    return Layout("toy", (*places, Place(HEAD, "classifier", "weight", None, (2, 2), head=True, norm=False)))


LAYOUT = make_layout()
SIZES = {place.parameter: place.size for place in LAYOUT.body}
ENTRIES = [(name, position) for name, size in SIZES.items() for position in range(size)]
TOTAL = len(ENTRIES)

sets = st.sets(st.sampled_from(ENTRIES))


def select(entries):
    chosen: dict[str, list[int]] = {}
    for name, position in entries:
        chosen.setdefault(name, []).append(position)
    return Selection(LAYOUT, {name: np.array(positions) for name, positions in chosen.items()})


def entries_of(selection):
    return {(place.parameter, int(i)) for place in selection for i in selection.indices(place.parameter)}


@given(sets, sets, sets)
def test_it_is_an_algebra_of_sets(one, two, three):
    a, b, c = select(one), select(two), select(three)
    assert entries_of(a | b) == one | two
    assert entries_of(a & b) == one & two
    assert entries_of(a - b) == one - two
    assert entries_of(~a) == {*ENTRIES} - one
    assert entries_of((a | b) - c) == (one | two) - three
    # The operands stay as they were.
    assert (entries_of(a), entries_of(b), entries_of(c)) == (one, two, three)
    assert ~~a == a
    assert ~(a | b) == ~a & ~b
    assert a - b == a & ~b
    assert (a & b) | (a & c) == a & (b | c)


@given(sets, sets)
def test_equality_is_that_of_the_entries(one, two):
    a, b = select(one), select(two)
    assert (a == b) == (one == two)
    assert (a.fingerprint == b.fingerprint) == (one == two)
    assert a != one
    if one == two:
        assert hash(a) == hash(b)
    assert len({a, select(one), b}) == len({frozenset(one), frozenset(two)})


@given(sets)
def test_counts(entries):
    selection = select(entries)
    assert len(selection) == len(entries)
    assert selection.share == len(entries) / TOTAL
    for name, size in SIZES.items():
        own = sorted(position for owner, position in entries if owner == name)
        assert selection.count(name) == len(own)
        assert selection.indices(name).tolist() == own
        assert selection.indices(name).dtype == np.int64
        assert selection.is_whole(name) == (len(own) == size)
        assert (name in selection.chosen) == bool(own)
    assert [place.parameter for place in selection] == [name for name in SIZES if selection.count(name)]
    assert bool(selection) == bool(entries)


@given(st.lists(st.integers(0, TOTAL - 1)))
def test_at_counts_through_the_parameters_in_order(positions):
    assert entries_of(at(LAYOUT, positions)) == {ENTRIES[position] for position in positions}
    assert at(LAYOUT, np.array(positions, dtype=np.int32)) == at(LAYOUT, positions[::-1])


def test_everything_and_nothing():
    assert entries_of(everything(LAYOUT)) == {*ENTRIES}
    assert all(everything(LAYOUT).is_whole(name) for name in SIZES)
    assert len(nothing(LAYOUT)) == 0
    assert nothing(LAYOUT).share == 0
    assert everything(LAYOUT).share == 1
    assert ~everything(LAYOUT) == nothing(LAYOUT)
    assert everything(LAYOUT) == at(LAYOUT, range(TOTAL))


def test_where_takes_whole_parameters():
    assert entries_of(where(LAYOUT, lambda place: place.sub == "bias")) == {("a.bias", i) for i in range(3)}
    # The head is never among them, whatever is asked for.
    assert where(LAYOUT, lambda place: True) == everything(LAYOUT)


def test_repeats_and_order_do_not_matter():
    tidy = Selection(LAYOUT, {"a.weight": np.array([1, 4]), "a.bias": None})
    assert Selection(LAYOUT, {"a.bias": np.array([2, 0, 1, 1]), "a.weight": np.array([4, 1, 4])}) == tidy
    assert [*tidy.chosen] == ["a.weight", "a.bias"]
    assert tidy.chosen["a.bias"] is None


def test_selecting_nothing_of_a_parameter_is_not_selecting_it():
    assert Selection(LAYOUT, {"a.weight": np.array([], dtype=np.int64)}) == nothing(LAYOUT)
    assert not nothing(LAYOUT).chosen


def test_the_fingerprint_tells_positions_and_layouts_apart():
    prints = {
        selection.fingerprint
        for selection in (
            nothing(LAYOUT),
            everything(LAYOUT),
            Selection(LAYOUT, {"a.weight": np.array([0])}),
            Selection(LAYOUT, {"a.weight": np.array([1])}),
            Selection(LAYOUT, {"a.bias": np.array([0])}),
            Selection(LAYOUT, {"a.weight": np.array([0]), "a.bias": np.array([0])}),
            nothing(make_layout({**SHAPES, "d.bias": (1,)})),
            nothing(make_layout({**SHAPES, "a.weight": (3, 2)})),
        )
    }
    assert len(prints) == 8


@pytest.mark.parametrize("name", [HEAD, "a", "weight", "a.weight.x"])
def test_only_pretrained_parameters_can_be_selected(name):
    with pytest.raises(SelectionError, match=f"'{name}' is no pre-trained parameter"):
        Selection(LAYOUT, {name: None})


@pytest.mark.parametrize("position", [-1, 6])
def test_positions_lie_inside_the_parameter(position):
    with pytest.raises(SelectionError, match=r"outside 'a\.weight', which has 6 entries"):
        Selection(LAYOUT, {"a.weight": np.array([0, position])})


@pytest.mark.parametrize("positions", [np.array([False, True] * 3), np.array([1.5, 2.0])])
def test_positions_are_integers(positions):
    with pytest.raises(SelectionError, match="Positions are integers"):
        Selection(LAYOUT, {"a.weight": positions})
    with pytest.raises(SelectionError, match="Positions are integers"):
        at(LAYOUT, positions)


@pytest.mark.parametrize("position", [-1, TOTAL])
def test_positions_lie_inside_the_model(position):
    with pytest.raises(SelectionError, match=f"outside the model's {TOTAL} pre-trained entries"):
        at(LAYOUT, [0, position])


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__"])
def test_selections_of_two_models_do_not_mix(operation):
    other = make_layout({**SHAPES, "a.bias": (4,)})
    with pytest.raises(SelectionError, match="different models"):
        getattr(everything(LAYOUT), operation)(everything(other))


def test_selections_go_with_any_head():
    wider = Layout("toy", (*LAYOUT.body, Place(HEAD, "classifier", "weight", None, (9, 2), head=True, norm=False)))
    assert everything(wider) == everything(LAYOUT)
    assert len(everything(wider) & at(LAYOUT, [0, 7])) == 2


def test_it_says_how_much_it_selects():
    assert repr(at(LAYOUT, [0, 1, 7])) == "Selection(3 of 18 entries in 2 parameters)"


def test_a_delta_of_weights_in_another_memory_format_is_put_on(image_folders: dict[str, Path]) -> None:
    base = load_base(str(image_folders["resnet"]), 10)
    base.model.to(memory_format=torch.channels_last)
    tuning = tune(base, "full")
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter.add_(torch.rand_like(parameter))
    values, delta = tuning.values(), Delta.capture(tuning)
    tuning.undo()
    with delta.apply(base):
        own = dict(base.model.named_parameters())
        assert all(torch.equal(own[name].detach().reshape(-1), value.reshape(-1)) for name, value in values.items())
