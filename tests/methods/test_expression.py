from __future__ import annotations

import re

import pytest

from normtune.errors import SelectionError, UnknownNameError
from normtune.methods.components import last_layers, random
from normtune.methods.expression import select, specify, tune
from normtune.methods.selection import nothing, where
from tests.conftest import TEXT_METHODS as METHODS


@pytest.fixture(scope="module")
def layout(make_base):
    return make_base("bert", num_hidden_layers=6).layout


def parameters(layout, component, subs=("weight", "bias"), layers=range(6)):
    return {f"bert.encoder.layer.{layer}.{component}.{sub}" for layer in layers for sub in subs}


def named(selection):
    return {place.parameter for place in selection}


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.selects])
def test_a_method_by_its_name(method, layout):
    assert select(layout, method) == METHODS[method](layout)


@pytest.mark.parametrize(
    ("expression", "component", "subs", "layers"),
    [
        ("output.LayerNorm", "output.LayerNorm", ("weight", "bias"), range(6)),
        ("output.LayerNorm.bias", "output.LayerNorm", ("bias",), range(6)),
        ("attention.output.LayerNorm.weight", "attention.output.LayerNorm", ("weight",), range(6)),
        ("output.LayerNorm@3", "output.LayerNorm", ("weight", "bias"), [3]),
        ("output.LayerNorm@3-5", "output.LayerNorm", ("weight", "bias"), [3, 4, 5]),
        ("output.LayerNorm.bias@4-", "output.LayerNorm", ("bias",), [4, 5]),
        ("output.LayerNorm@0,2-4", "output.LayerNorm", ("weight", "bias"), [0, 2, 3, 4]),
        ("output.LayerNorm@0,3,5-", "output.LayerNorm", ("weight", "bias"), [0, 3, 5]),
        ("output.LayerNorm@1,3,5", "output.LayerNorm", ("weight", "bias"), [1, 3, 5]),
        ("  output.LayerNorm@1  ", "output.LayerNorm", ("weight", "bias"), [1]),
        ("layernorm@2", "output.LayerNorm", ("weight", "bias"), [2]),
    ],
)
def test_a_component_its_part_and_its_layers(expression, component, subs, layers, layout):
    assert named(select(layout, expression)) == parameters(layout, component, subs, layers)


@pytest.mark.parametrize(
    ("expression", "components"),
    [
        ("attention.self.*", ("attention.self.query", "attention.self.key", "attention.self.value")),
        ("attention.*.dense", ("attention.output.dense",)),
        ("*.LayerNorm", ("output.LayerNorm",)),
        ("*.output.LayerNorm", ("attention.output.LayerNorm",)),
        ("*.*.LayerNorm", ("attention.output.LayerNorm",)),
        ("output.*", ("output.dense", "output.LayerNorm")),
    ],
)
def test_a_star_stands_for_one_part(expression, components, layout):
    assert named(select(layout, f"{expression}@0-")) == set().union(
        *(parameters(layout, component) for component in components)
    )


def test_a_star_for_the_part_of_a_component(layout):
    assert select(layout, "output.LayerNorm.*") == select(layout, "output.LayerNorm")
    assert select(layout, "attention.self.*.bias@2") == where(
        layout, lambda place: place.component.startswith("attention.self.") and place.sub == "bias" and place.layer == 2
    )


def test_names_are_whole(layout):
    assert not named(select(layout, "output.LayerNorm")) & named(select(layout, "attention.output.LayerNorm"))
    for name in (
        "LayerNorm",
        "output",
        "utput.LayerNorm",
        "output.Layer",
        "put.LayerNorm",
        "OUTPUT.LAYERNORM",
        "dense",
    ):
        with pytest.raises(UnknownNameError):
            select(layout, name)


def test_terms_are_joined_from_left_to_right(layout):
    norm, bias, last = (select(layout, term) for term in ("layernorm", "bitfit", "last-layers@2"))
    assert select(layout, "layernorm + bitfit") == norm | bias
    assert select(layout, "layernorm+bitfit") == norm | bias
    assert select(layout, "layernorm & bitfit") == norm & bias
    assert select(layout, "bitfit - layernorm") == bias - norm
    assert select(layout, "layernorm + bitfit & last-layers@2") == (norm | bias) & last
    assert select(layout, "full - last-layers@2 + layernorm - bitfit") == ((~last) | norm) - bias
    assert select(layout, "layernorm\t&  bitfit") == norm & bias


def test_without_a_space_a_dash_is_part_of_a_name(layout):
    assert select(layout, "attention-layernorm") == METHODS["attention-layernorm"](layout)
    with pytest.raises(UnknownNameError):
        select(layout, "bitfit-layernorm")


@pytest.mark.parametrize(
    "expression", ["layernorm - layernorm", "layernorm & pooler.dense", "head & full", "head + head"]
)
def test_what_selects_nothing_is_refused_but_for_the_head(expression, layout):
    with pytest.raises(SelectionError, match=f"{re.escape(repr(expression))} selects nothing. .* write head"):
        select(layout, expression)
    assert select(layout, "head") == nothing(layout)
    assert select(layout, "head + layernorm") == select(layout, "layernorm")


def test_the_last_layers_are_those_of_each_stack(make_base):
    base = make_base("bart", encoder_layers=4, decoder_layers=2)
    kept = {re.sub(r"(\d+)\..*", r"\1", place.parameter) for place in select(base.layout, "last-layers")}
    assert kept == {"model.encoder.layers.3", "model.decoder.layers.1"}
    kept = {re.sub(r"(\d+)\..*", r"\1", place.parameter) for place in select(base.layout, "last-layers@3")}
    assert kept == {f"model.encoder.layers.{n}" for n in (1, 2, 3)} | {f"model.decoder.layers.{n}" for n in (0, 1)}


def test_the_number_of_last_layers(layout):
    assert select(layout, "last-layers@3") == last_layers(layout, option=3)
    assert select(layout, "last-layers") == last_layers(layout)
    with pytest.raises(SelectionError, match="layers of 1 to 6"):
        select(layout, "last-layers@7")


@pytest.mark.parametrize("expression", ["random", "random + layernorm", "layernorm + random", "random@0-2"])
def test_the_seed_reaches_random(expression, layout):
    first = select(layout, expression, seed=1)
    assert first == select(layout, expression, seed=1)
    assert first != select(layout, expression, seed=2)


def test_random_takes_the_seed_that_is_given(layout):
    assert select(layout, "random", seed=4) == random(layout, seed=4)
    lower = where(layout, lambda place: place.layer in {0, 1, 2})
    assert select(layout, "random@0-2", seed=4) == random(layout, seed=4) & lower


@pytest.mark.parametrize(
    ("expression", "guess"),
    [
        ("layernrom", "layernorm"),
        ("bit-fit", "bitfit"),
        ("output.LayerNrom", "output.LayerNorm"),
        ("atention.self.query", "attention.self.query"),
        ("layernorm + bitfat", "bitfit"),
    ],
)
def test_an_unknown_name_says_what_is_known_and_what_was_meant(expression, guess, layout):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{guess}'") as raised:
        select(layout, expression)
    message = str(raised.value)
    assert "last-layers" in message
    assert "attention.self.key" in message
    assert "classifier" not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["classifier", "classifier.weight", "classifier (head)", "layernorm + classifier"])
def test_the_head_is_no_component_to_select(name, layout):
    with pytest.raises(SelectionError, match=r"'classifier.*' is the head, which every method trains; head alone"):
        select(layout, name)


@pytest.mark.parametrize(
    "expression",
    ["", "   ", "@3", "layernorm@", "layernorm@x", "layernorm@-3", "layernorm@3-2-1", "layernorm@1,", "layernorm@1 2"],
)
def test_what_cannot_be_read_is_refused(expression, layout):
    with pytest.raises(SelectionError, match="Cannot read"):
        select(layout, expression)


@pytest.mark.parametrize(
    "expression", ["layernorm +", "+ layernorm", "layernorm + + bitfit", "layernorm -", "& bitfit"]
)
def test_an_operator_has_two_sides(expression, layout):
    with pytest.raises((SelectionError, UnknownNameError)):
        select(layout, expression)


@pytest.mark.parametrize(
    ("layers", "term"),
    [
        *((layers, "layernorm") for layers in ("6", "6-", "0-9", "1,3,7", "4-99", "0,2-6", f"0-{10**20}")),
        *((layers, term) for layers in ("6", "0-6", f"0-{10**29}") for term in ("bitfit", "output.*")),
        ("0-6", "random"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, term, layout):
    with pytest.raises(
        SelectionError, match=f"'{re.escape(term)}@{layers}' names layers .* not there; there are 0 to 5"
    ):
        select(layout, f"layernorm + {term}@{layers}")


def test_a_seed_is_a_whole_number_from_0(tiny_base):
    with pytest.raises(SelectionError, match="A seed is a whole number from 0; got -1"):
        tune(tiny_base, "random", seed=-1)


def test_layers_count_up(layout):
    with pytest.raises(SelectionError, match="'layernorm@5-3' counts layers down; write 3-5"):
        select(layout, "layernorm@5-3")


def test_a_size_is_a_size_however_large(layout):
    with pytest.raises(SelectionError, match=r"random takes a number of entries of 1 to .*; got 5,000,000,000\."):
        select(layout, "random@5000000000")


@pytest.mark.parametrize("term", ["pooler.dense@0", "head@1"])
def test_what_has_no_layers_is_not_asked_for_some(term, layout):
    with pytest.raises(SelectionError, match="there are none"):
        select(layout, term)


@pytest.mark.parametrize("number", ["1" * 5000, "²", "-1", "1.5", ""])
def test_a_number_that_is_none_is_refused(number, layout):
    for term in ("last-layers", "lora"):
        with pytest.raises(SelectionError):
            specify(layout, f"{term}@{number}")


def test_a_number_that_is_no_size_is_refused_with_what_to_do(layout):
    with pytest.raises(SelectionError, match=r"'ia3@2': ia3 takes no number\."):
        specify(layout, "ia3@2")
    with pytest.raises(SelectionError, match=r"^lora@100000 would train .* smaller rank\."):
        specify(layout, "lora@100000")


def test_a_layer_counts_where_the_component_is(make_base):
    layout = make_base("modernbert").layout  # whose first layer has no norm before its attention
    assert len(select(layout, "attn_norm@1-")) == len(select(layout, "attn_norm"))
    with pytest.raises(SelectionError, match="there are 1 to 2"):
        select(layout, "attn_norm@0,1")
    stacks = make_base("t5").layout  # with 2 layers below 3
    with pytest.raises(SelectionError, match="there are 0 to 1"):
        select(stacks, "encoder.layer.0.layer_norm@0-2")


def test_components_of_two_stacks(make_base):
    layout = make_base("t5").layout
    chosen = select(layout, "encoder.layer.0.layer_norm@1")
    assert named(chosen) == {"transformer.encoder.block.1.layer.0.layer_norm.weight"}
    both = select(layout, "*.layer.0.layer_norm@1")
    assert named(both) == named(chosen) | {"transformer.decoder.block.1.layer.0.layer_norm.weight"}
