from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from normtune.errors import GuessWarning, SelectionError
from normtune.methods.components import attention_layernorm, layernorm, random
from normtune.models.base import skeleton
from normtune.models.families import FAMILIES, norms_of
from normtune.models.layout import Layout, Place, layout
from normtune.models.sources import quiet
from normtune.records.run import Norms
from tests import conftest as tiny

#: By hand: the modules of layer 1 that the paper's method trains, and those of its counterpart for the attention.
BY_HAND = {
    "bert": (["bert.encoder.layer.1.output.LayerNorm"], ["bert.encoder.layer.1.attention.output.LayerNorm"]),
    "roberta": (["roberta.encoder.layer.1.output.LayerNorm"], ["roberta.encoder.layer.1.attention.output.LayerNorm"]),
    "mpnet": (["mpnet.encoder.layer.1.output.LayerNorm"], ["mpnet.encoder.layer.1.attention.LayerNorm"]),
    "distilbert": (
        ["distilbert.transformer.layer.1.output_layer_norm"],
        ["distilbert.transformer.layer.1.sa_layer_norm"],
    ),
    "xlnet": (["transformer.layer.1.ff.layer_norm"], ["transformer.layer.1.rel_attn.layer_norm"]),
    "gpt2": (["transformer.h.1.ln_2"], ["transformer.h.1.ln_1"]),
    "llama": (["model.layers.1.post_attention_layernorm"], ["model.layers.1.input_layernorm"]),
    "gemma2": (["model.layers.1.post_feedforward_layernorm"], ["model.layers.1.post_attention_layernorm"]),
    "modernbert": (["model.layers.1.mlp_norm"], ["model.layers.1.attn_norm"]),
    "t5": (
        ["transformer.encoder.block.1.layer.1.layer_norm", "transformer.decoder.block.1.layer.2.layer_norm"],
        ["transformer.encoder.block.1.layer.0.layer_norm", "transformer.decoder.block.1.layer.0.layer_norm"],
    ),
    "bart": (
        ["model.encoder.layers.1.final_layer_norm", "model.decoder.layers.1.final_layer_norm"],
        ["model.encoder.layers.1.self_attn_layer_norm", "model.decoder.layers.1.self_attn_layer_norm"],
    ),
}


#: The listed families that read texts.
TEXTS = [family for family in FAMILIES if family in tiny.FAMILIES]


def owners(selection, layer):
    return list(dict.fromkeys(place.parameter.rpartition(".")[0] for place in selection if place.layer == layer))


LAYER = re.compile(r"(.*?\.\d+)\.")


@pytest.mark.parametrize("family", TEXTS)
def test_every_layer_of_every_stack_has_its_closing_norm(family, make_base):
    layout = make_base(family).layout
    selection = layernorm(layout)
    assert all(place.norm and selection.is_whole(place.parameter) for place in selection)
    layers = {match.group(1) for place in layout.body if (match := LAYER.match(place.parameter))}
    chosen = {place.parameter.rpartition(".")[0] for place in selection}
    assert sorted(LAYER.match(module).group(1) for module in chosen) == sorted(layers)


@pytest.mark.parametrize("family", TEXTS)
def test_the_closing_norm_runs_last_of_its_layer(family, make_base):
    base = make_base(family)
    ran: dict[str, list[str]] = {}

    def note(path, layer):
        base.model.get_submodule(path).register_forward_hook(lambda *_: ran.setdefault(layer, []).append(path))

    for path in {place.parameter.rpartition(".")[0] for place in base.layout.body if place.norm}:
        if match := LAYER.match(f"{path}."):
            note(path, match.group(1))
    base.model(input_ids=torch.tensor([[2, 7, 8, 9, 3]]))
    closing = {place.parameter.rpartition(".")[0] for place in layernorm(base.layout)}
    attention = {place.parameter.rpartition(".")[0] for place in attention_layernorm(base.layout)}
    assert {order[-1] for order in ran.values()} == closing
    assert attention <= {path for order in ran.values() for path in order[:-1]}


@pytest.mark.parametrize("family", TEXTS)
def test_the_attentions_norm_is_another(family, make_base):
    layout = make_base(family).layout
    attention, output = attention_layernorm(layout), layernorm(layout)
    assert not (attention & output)
    assert all(place.norm for place in attention)
    # ModernBERT's first layer has no norm before its attention.
    missing = 1 if family == "modernbert" else 0
    assert len({p.layer for p in attention}) == layout.layers - missing


_SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 16, "patch_size": 2}
#: Of image models: the name of a layer's attention norm, that of its closing norm, and a tiny configuration.
IMAGES = {
    **dict.fromkeys(
        ("vit", "vit_msn", "beit", "data2vec-vision"), ("layernorm_before", "layernorm_after", tiny.PICTURES["vit"])
    ),
    **dict.fromkeys(("swin", "swinv2"), ("layernorm_before", "layernorm_after", _SWIN)),
    "dinov2": ("norm1", "norm2", tiny.PICTURES["vit"]),
    **dict.fromkeys(("convnext", "convnextv2"), ("", "layernorm", tiny.PICTURES["convnext"])),
}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - TEXTS))
def test_the_norms_of_image_models_by_hand(family):
    attention, closing, options = IMAGES[family]
    with quiet(), torch.device("meta"):
        model = AutoModelForImageClassification.from_config(AutoConfig.for_model(family, **options))
    places = layout(model, ["classifier.weight", "classifier.bias"])
    numbers = list(range(3 if "depths" in options else 2))
    for name, method in ((closing, layernorm), (attention, attention_layernorm)):
        if name:
            assert sorted({place.layer for place in method(places)}) == numbers
            assert {place.parameter.split(".")[-2] for place in method(places)} == {name}
    if not attention:
        with pytest.raises(SelectionError, match=f"this '{family}' model have no attention"):
            attention_layernorm(places)


def test_layers_within_stages_are_counted_through(image_folders):
    places = skeleton(str(image_folders["convnext"])).by_name
    stages = "convnext.encoder.stages"
    found = [(places[f"{stages}.{at}.layernorm.weight"].layer) for at in ("0.layers.0", "1.layers.0", "1.layers.1")]
    assert found == [0, 1, 2]
    between = places[f"{stages}.1.downsampling_layer.1.weight"]
    assert (between.layer, between.component) == (1, "downsampling_layer.1")


@pytest.mark.parametrize("family", BY_HAND)
def test_norms_by_hand(family, make_base):
    layout = make_base(family).layout
    output, attention = BY_HAND[family]
    assert owners(layernorm(layout), 1) == output
    assert owners(attention_layernorm(layout), 1) == attention


def test_albert_by_hand(make_base):
    layout = make_base("albert").layout
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert owners(layernorm(layout), 0) == [f"{layer}.full_layer_layer_norm"]
    assert owners(attention_layernorm(layout), 0) == [f"{layer}.attention.LayerNorm"]


#: Families that are not listed, the norms that close their layers, and what makes their configurations tiny.
UNLISTED = {
    "persimmon": (("post_attention_layernorm",), {}),
    "glm": (("post_attention_layernorm",), {"num_key_value_heads": 2, "head_dim": 8}),
    "nystromformer": (("output.LayerNorm",), {}),
}


@pytest.mark.parametrize("family", UNLISTED)
def test_the_closing_norm_of_an_unlisted_family_is_guessed_and_said(family, make_base):
    closing, options = UNLISTED[family]
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    layout = make_base(family, **sizes, max_position_embeddings=64, **options).layout
    with pytest.warns(GuessWarning, match=f"does not list the family '{family}'; .* closes it: {closing[0]}"):
        selection = layernorm(layout)
    assert {place.component for place in selection} == {*closing}
    assert {place.layer for place in selection} == {0, 1, 2}
    assert norms_of(layout) == Norms(closing=closing)  # for records, without a warning
    with pytest.warns(GuessWarning):
        assert len(random(layout)) == len(selection)


PLACES = (
    Place("x.layers.0.one_norm.weight", "one_norm", "weight", 0, (4,), head=False, norm=True),
    Place("x.layers.0.two_norm.weight", "two_norm", "weight", 0, (4,), head=False, norm=True),
    Place("x.layers.0.dense.weight", "dense", "weight", 0, (4,), head=False, norm=False),
    Place("x.final_norm.weight", "final_norm", "weight", None, (4,), head=False, norm=True),
)


def test_an_unlisted_family_is_told_the_norms_that_it_has():
    with pytest.raises(
        SelectionError, match=r"attention in a 'nope' model; its layers have: one_norm, two_norm\. Name"
    ):
        attention_layernorm(Layout("nope", PLACES))
    with pytest.warns(GuessWarning, match=r"closes it: two_norm\."):
        assert [place.component for place in layernorm(Layout("nope", PLACES))] == ["two_norm"]
    for method, words in ((layernorm, "The"), (random, "random draws as many entries as layernorm has. The")):
        with pytest.raises(SelectionError, match=f"^{words} layers of this 'nope' model have no norms"):
            method(Layout("nope", PLACES[2:]))
