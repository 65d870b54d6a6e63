from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from normtune.methods.selection import where
from normtune.models import layout as layouts
from normtune.models.families import norms_of
from normtune.models.layout import Layout, is_norm, layout

BERT_LAYER = {
    "attention.self.query": 32 * 32 + 32,
    "attention.self.key": 32 * 32 + 32,
    "attention.self.value": 32 * 32 + 32,
    "attention.output.dense": 32 * 32 + 32,
    "attention.output.LayerNorm": 64,
    "intermediate.dense": 32 * 48 + 48,
    "output.dense": 48 * 32 + 32,
    "output.LayerNorm": 64,
}
BERT_OUTSIDE = {
    "embeddings.word_embeddings": (("weight",), False),
    "embeddings.position_embeddings": (("weight",), False),
    "embeddings.token_type_embeddings": (("weight",), False),
    "embeddings.LayerNorm": (("weight", "bias"), False),
    "pooler.dense": (("weight", "bias"), False),
    "classifier": (("weight", "bias"), True),
}


class Fake(nn.Module):
    """As much of a transformers model as `layout` reads."""

    base_model_prefix = "base"

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.base = nn.ModuleDict(modules)
        self.config = SimpleNamespace(model_type="fake")


def components_of(layout: Layout) -> set[str]:
    return {component.name for component in layout.components}


def test_bert_has_the_components_of_the_papers(make_base):
    components = {component.name: component for component in make_base("bert").layout.components}
    assert components.keys() == {*BERT_LAYER, *BERT_OUTSIDE}
    for name, entries in BERT_LAYER.items():
        component = components[name]
        assert (component.layers, component.subs, component.head) == ((0, 1, 2), ("weight", "bias"), False)
        assert component.entries == 3 * entries
        assert component.norm == name.endswith("LayerNorm")
    for name, (subs, head) in BERT_OUTSIDE.items():
        component = components[name]
        assert (component.subs, component.head, component.layers) == (subs, head, ())


def test_output_layernorm_never_catches_that_of_the_attention(make_base):
    layout = make_base("bert").layout
    named = [place.parameter for place in layout if place.component == "output.LayerNorm"]
    assert named == [f"bert.encoder.layer.{i}.output.LayerNorm.{sub}" for i in range(3) for sub in ("weight", "bias")]
    attention = [place.parameter for place in layout if place.component == "attention.output.LayerNorm"]
    assert len(attention) == 6
    assert not {*named} & {*attention}


def test_albert_has_its_shared_layer_once(make_base):
    layout = make_base("albert").layout
    assert layout.layers == 1
    by_name = {component.name: component for component in layout.components}
    assert by_name["attention.query"].entries == 32 * 32 + 32
    assert by_name["full_layer_layer_norm"].layers == (0,)
    assert by_name["encoder.embedding_hidden_mapping_in"].layers == ()


def test_albert_with_two_groups_keeps_them_apart(make_base):
    layout = make_base("albert", num_hidden_groups=2).layout
    assert layout.layers == 2
    by_name = {component.name: component for component in layout.components}
    assert by_name["attention.query"].layers == (0, 1)


def test_t5_shares_its_embeddings_between_stacks(make_base):
    base = make_base("t5")
    model = base.model.transformer
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    embeddings = [place for place in base.layout if place.shape == (model.config.vocab_size, 32)]
    assert [place.component for place in embeddings] == ["shared"]


@pytest.mark.parametrize(("family", "encoder", "decoder"), [("t5", 2, 3), ("bart", 2, 3)])
def test_two_stacks_have_components_of_their_own(family, encoder, decoder, make_base):
    layout = make_base(family).layout
    layered = [component for component in layout.components if component.layers]
    assert {component.name.split(".")[0] for component in layered} == {"encoder", "decoder"}
    for component in layered:
        depth = encoder if component.name.startswith("encoder.") else decoder
        # T5's first layer alone holds the stack's relative positions.
        expected = (0,) if "relative_attention_bias" in component.name else tuple(range(depth))
        assert component.layers == expected
    assert layout.layers == decoder


def test_t5_tells_its_blocks_apart_by_their_number(make_base):
    names = components_of(make_base("t5").layout)
    assert {f"encoder.layer.{i}.layer_norm" for i in range(2)} <= names
    assert {f"decoder.layer.{i}.layer_norm" for i in range(3)} <= names


def test_one_stack_has_no_prefix(make_base):
    names = components_of(make_base("opt").layout)
    assert {"self_attn.q_proj", "fc1", "final_layer_norm"} <= names
    assert "decoder.final_layer_norm" in names  # the one after all layers, outside them


def test_parameters_that_belong_to_no_module_are_their_own_component(make_base):
    layout = make_base("xlnet").layout
    by_name = {component.name: component for component in layout.components}
    assert by_name["rel_attn.q"].subs == ("weight",)
    assert by_name["rel_attn.r_w_bias"].subs == ("bias",)
    assert by_name["mask_emb"].layers == ()


def test_stacks_that_start_alike_are_named_in_full():
    def block() -> nn.ModuleList:
        return nn.ModuleList([nn.ModuleDict({"dense": nn.Linear(2, 2)})])

    model = Fake(net=nn.ModuleDict({"left": block(), "right": block()}))
    assert components_of(layout(model, [])) == {"net.left.dense", "net.right.dense"}
    model = Fake(left=block(), right=block())
    assert components_of(layout(model, [])) == {"left.dense", "right.dense"}
    model = Fake(left=block())
    assert components_of(layout(model, [])) == {"dense"}


def test_a_list_of_one_inside_a_layer_leaves_no_number():
    layer = nn.ModuleDict({"experts": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(2, 2)})])})
    assert components_of(layout(Fake(stack=nn.ModuleList([layer])), [])) == {"up"}
    layer["experts"].append(nn.ModuleDict({"up": nn.Linear(2, 2)}))
    assert components_of(layout(Fake(stack=nn.ModuleList([layer])), [])) == {"experts.0.up", "experts.1.up"}


#: Families that nest or name their layers in ways of their own: the norm that closes a layer, and how many layers the
#: configuration says there are.
NESTED = {
    "funnel": ("ffn.layer_norm", lambda config: sum(config.block_sizes)),
    "xlm": ("layer_norm2", lambda config: config.n_layers),
    "markuplm": ("output.LayerNorm", lambda config: config.num_hidden_layers),  # its tables are numbered, too
    "segformer": ("layernorm_after", lambda config: sum(config.depths)),
    "pvt": ("encoder.block.layer_norm_2", lambda config: sum(config.depths)),
    "poolformer": ("encoder.block.after_norm", lambda config: sum(config.depths)),
    "swin": ("layernorm_after", lambda config: sum(config.depths)),
    "focalnet": ("norm2", lambda config: sum(config.depths)),
    "mobilevit": ("layernorm_after", lambda config: 2 + 4 + 3),  # after four of MobileNet's
}


@pytest.mark.parametrize("family", NESTED)
def test_layers_are_those_of_the_configuration(family):
    config = AutoConfig.for_model(family)
    pictures = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    with torch.device("meta"):
        kind = AutoModelForImageClassification if pictures else AutoModelForSequenceClassification
        found = layout(kind.from_config(config), [])
    closing, count = NESTED[family]
    [norm] = [component for component in found.components if component.name == closing]
    before = 4 if family == "mobilevit" else 0
    assert norm.norm
    assert norm.subs == ("weight", "bias")
    assert norm.layers == tuple(range(before, before + count(config)))
    assert found.layers == before + count(config)
    assert [name for name in norms_of(found).closing if name != "reduce_1x1.normalization"] == [closing]


def test_a_stage_of_one_layer_is_a_layer():
    """The list of its convolutions is no list of layers, though all are alike and have a norm."""
    config = AutoConfig.for_model("resnet", depths=[1, 1, 1, 1])
    with torch.device("meta"):
        assert layout(AutoModelForImageClassification.from_config(config), []).layers == 4


def test_the_fingerprint_leaves_the_head_out(make_base):
    two = make_base("bert").layout
    assert two.fingerprint == make_base("bert", num_labels=5).layout.fingerprint
    assert two.fingerprint != make_base("bert", num_hidden_layers=2).layout.fingerprint
    assert two.fingerprint != make_base("bert", intermediate_size=64).layout.fingerprint


def test_a_meta_model_has_the_same_layout(make_model):
    model = make_model("bert")
    with torch.device("meta"):
        twin = type(model)(model.config)
    assert layout(twin, ["classifier.weight", "classifier.bias"]) == layout(
        model, ["classifier.weight", "classifier.bias"]
    )


def test_a_pooler_can_be_of_the_head(make_model):
    model = make_model("bert")
    whole = layout(model, ["classifier.weight", "classifier.bias"])
    less = layout(model, [name for name, _ in model.named_parameters() if "pooler" in name or "classifier" in name])
    assert whole.size - less.size == less.head_size - whole.head_size == 32 * 32 + 32
    assert not where(less, lambda place: "pooler" in place.component)


class OwnNorm(nn.Module):
    """A root-mean-square norm as families define their own."""

    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.zeros(width)), offset

    def forward(self, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + 1e-6)
        return hidden * scale * (self.offset + self.weight)


class GemmaLike(OwnNorm):
    """Scales by one plus its weight."""

    def __init__(self, width: int) -> None:
        super().__init__(width, offset=1.0)


class Gated(OwnNorm):
    """Takes a gate beside the hidden states, as Qwen3-Next's norms do."""

    def forward(self, hidden: Tensor, gate: Tensor) -> Tensor:
        return super().forward(hidden) * nn.functional.silu(gate)


class ScaleNorm(OwnNorm):
    """Scales without normalising, whatever its name says."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight


class Unused(OwnNorm):
    """Normalises, but ignores its weight."""

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.normalize(hidden, dim=-1)


class Holder(OwnNorm):
    """Has a module inside."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.inner = nn.Identity()


NORMS = (
    *(partial(nn.LayerNorm, 6), partial(nn.RMSNorm, 6), partial(nn.GroupNorm, 2, 6), partial(nn.BatchNorm1d, 6)),
    *(partial(nn.BatchNorm2d, 6), partial(nn.InstanceNorm2d, 6, affine=True), partial(OwnNorm, 6)),
    *(partial(GemmaLike, 6), partial(Gated, 6)),
)
OTHERS = (
    *(partial(nn.Linear, 6, 6), partial(nn.Linear, 1, 6), partial(nn.Embedding, 6, 6), partial(nn.Conv1d, 6, 6, 1)),
    *(nn.PReLU, nn.Identity, partial(ScaleNorm, 6), partial(Unused, 6), partial(Holder, 6)),
)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("make", "expected"), [*((make, True) for make in NORMS), *((make, False) for make in OTHERS)], ids=str
)
def test_is_norm_goes_by_what_a_module_computes(monkeypatch, make, expected, device):
    monkeypatch.setattr(layouts, "_TRIED", {})  # so that each device is tried
    with torch.device(device):
        module = make()
    state = torch.get_rng_state()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    assert is_norm(module) is expected
    assert torch.equal(torch.get_rng_state(), state)
    assert device == "meta" or all(map(torch.equal, before, module.parameters()))


def test_is_norm_runs_no_hook_and_takes_any_dtype():
    norm = OwnNorm(6).to(torch.bfloat16)
    norm.register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    assert is_norm(norm)
