from __future__ import annotations

import copy
import importlib.util
import math

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertModel,
)

from normtune.deltas.delta import Delta
from normtune.errors import DeltaError, ModelError, UnknownNameError
from normtune.methods.expression import tune
from normtune.models.base import load_base, wrap
from normtune.models.head import HeadSpec, head_roots, new_head, read_spec
from tests.conftest import _IDS, FAMILIES

THREE = HeadSpec("classification", ("no", "maybe", "yes"))


def snapshot(model):
    """Copies of all that a head may change."""
    return (
        [(name, value.clone()) for name, value in model.state_dict().items()],
        [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()],
        [(name, id(module), module.training) for name, module in model.named_modules()],
        copy.deepcopy(model.config.to_dict()),
        model.config.num_labels,
        vars(model).get("num_labels", model.config.num_labels),
    )


def assert_same(model, before):
    state, *others = before
    state_now, *others_now = snapshot(model)
    assert [name for name, _ in state] == [name for name, _ in state_now]
    assert all(torch.equal(old, new) for (_, old), (_, new) in zip(state, state_now, strict=True))
    assert others == others_now


@pytest.mark.parametrize("spec", [THREE, HeadSpec("regression")], ids=["three labels", "regression"])
def test_a_head_put_on_and_taken_off_leaves_nothing_behind(family, spec, make_base):
    base = make_base(family)
    model = base.model
    before, layout, random_state = snapshot(model), base.layout, torch.get_rng_state()

    swap = base.put_head(spec, seed=3)
    assert read_spec(model) == base.head == spec
    assert model.config.num_labels == model.num_labels == spec.outputs
    assert (model.config.problem_type == "regression") == (spec.kind == "regression")
    assert base.layout.fingerprint == layout.fingerprint
    assert [place.parameter for place in base.layout.head] == [place.parameter for place in layout.head]
    state = dict(before[0])
    for place in base.layout.body:
        assert torch.equal(model.get_parameter(place.parameter), state[place.parameter])

    swap.undo()
    assert_same(model, before)
    assert base.layout == layout
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "albert", "llama", "t5", "bart", "modernbert"])
@pytest.mark.parametrize("spec", [THREE, HeadSpec("regression")], ids=["three labels", "regression"])
def test_the_model_answers_with_the_head_it_has(family, spec, make_base):
    base = make_base(family)
    ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 11, 12, 13, 14, 3]])
    with torch.no_grad():
        first = base.model(input_ids=ids).logits
        swap = base.put_head(spec)
        assert base.model(input_ids=ids).logits.shape == (2, spec.outputs)
        swap.undo()
        assert torch.equal(base.model(input_ids=ids).logits, first)


def test_no_value_of_a_new_head_is_left_uninitialised(family, make_base):
    base = make_base(family)
    torch.use_deterministic_algorithms(True)  # then fresh memory is filled with NaN
    try:
        modules = new_head(base.model, base.roots, THREE, seed=0)
    finally:
        torch.use_deterministic_algorithms(False)
    for module in modules.values():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            assert torch.isfinite(value).all(), name
            assert value.dtype == torch.float32


def test_a_head_taken_off_goes_where_the_model_went(make_base):
    base = make_base("bert")
    swap = base.put_head(THREE)
    base.model.to("meta")
    swap.undo()
    assert all(parameter.is_meta for parameter in base.model.parameters())


def values(modules):
    return torch.cat([p.detach().reshape(-1) for module in modules.values() for p in module.parameters()])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlnet", "modernbert", "llama", "t5", "bart"])
def test_a_seed_fixes_the_head_whatever_happened_before(family, make_base, monkeypatch):
    base = make_base(family)
    monkeypatch.setattr(torch, "manual_seed", lambda _: pytest.fail("this would seed every GPU"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        first = values(new_head(base.model, base.roots, THREE, seed=5))
        torch.default_generator.manual_seed(2)
        state = torch.get_rng_state()
        second = values(new_head(base.model, base.roots, THREE, seed=5))
        other = values(new_head(base.model, base.roots, THREE, seed=6))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    # Neither the base's values nor its present head matter.
    monkeypatch.undo()
    twin = make_base(family, seed=9, num_labels=7)
    assert torch.equal(first, values(new_head(twin.model, twin.roots, THREE, seed=5)))


def test_a_new_classifier_is_drawn_as_the_family_draws_it(make_base):
    base = make_base("bert", hidden_size=128, initializer_range=0.05)
    head = new_head(base.model, base.roots, HeadSpec.numbered(50), seed=0)["classifier"]
    assert head.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(head.weight.mean().item()) < 5 * 0.05 / math.sqrt(head.weight.numel())
    assert not head.bias.any()


def test_a_head_follows_the_mode_of_its_model(make_base):
    base = make_base("roberta")  # its head has dropout inside
    base.model.train()
    swap = base.put_head(THREE)
    assert base.model.classifier.dropout.training
    base.model.eval()
    assert not base.model.classifier.dropout.training
    swap.undo()
    assert not any(module.training for module in base.model.modules())


def test_swaps_nest(make_base):
    base = make_base("bert")
    before = snapshot(base.model)
    outer = base.put_head(THREE, seed=1)
    between = snapshot(base.model)
    inner = base.put_head(HeadSpec("regression"), seed=2)
    inner.undo()
    assert_same(base.model, between)
    assert base.layout.head_size == 3 * 33
    outer.undo()
    assert_same(base.model, before)


def test_a_head_with_given_values(make_base):
    base = make_base("bert")
    tensors = {"classifier.weight": torch.full((3, 32), 0.25), "classifier.bias": torch.tensor([1.0, 2.0, 3.0])}
    base.put_head(THREE, tensors=tensors)
    assert torch.equal(base.model.classifier.weight, tensors["classifier.weight"])
    assert torch.equal(base.model.classifier.bias, tensors["classifier.bias"])
    assert base.model.classifier.weight.data_ptr() != tensors["classifier.weight"].data_ptr()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"classifier.weight": torch.zeros(3, 32)}, "classifier.bias"),
        ({"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3), "x.y": torch.zeros(1)}, "x.y"),
        ({"classifier.weight": torch.zeros(2, 32), "classifier.bias": torch.zeros(3)}, r"\(2, 32\).*\(3, 32\)"),
    ],
    ids=["missing", "too many", "shape"],
)
def test_values_of_another_head_are_refused_and_change_nothing(tensors, said, make_base):
    base = make_base("bert")
    before = snapshot(base.model)
    with pytest.raises(DeltaError, match=said):
        base.put_head(THREE, tensors=tensors)
    assert_same(base.model, before)


@pytest.mark.parametrize("labels", [(), ("only",), ("a", "b", "a")])
def test_labels_of_a_classifier_are_two_or_more_and_differ(labels):
    with pytest.raises(ModelError):
        HeadSpec("classification", labels)


def test_a_kind_that_is_not_there_is_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown kind of task 'clasification'\. Did you mean 'classification'"):
        HeadSpec("clasification", ("a", "b"))


def test_labels_are_numbered_from_0(make_model):
    model = make_model("bert")
    model.config.id2label = {1: "no", 2: "yes"}
    with pytest.raises(ModelError, match=r"id2label numbers its labels 1, 2, not from 0 on\."):
        read_spec(model)


def test_specs():
    assert HeadSpec.numbered(2) == HeadSpec("classification", ("LABEL_0", "LABEL_1"))
    assert HeadSpec.numbered(2).outputs == 2
    assert HeadSpec("regression").outputs == 1


@pytest.mark.parametrize(
    ("names", "roots"),
    [
        (["classifier.weight", "classifier.bias"], ("classifier",)),
        (["bert.pooler.dense.weight", "bert.pooler.dense.bias"], ("bert.pooler",)),
        (["classifier.weight"], ()),
        ([], ()),
    ],
)
def test_roots_are_the_largest_modules_of_head_parameters_only(names, roots, make_model):
    assert head_roots(make_model("bert"), names) == roots


def test_a_pooler_that_the_checkpoint_lacks_is_of_the_head(make_model, make_folder):
    encoder = BertModel(make_model("bert").config, add_pooling_layer=False)
    folder = str(make_folder(encoder))
    base = load_base(folder, head_seed=4)
    assert [place.parameter for place in base.layout.head] == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ]
    assert base.layout.size == sum(parameter.numel() for parameter in encoder.parameters())
    assert {*base.roots} == {"bert.pooler", "classifier"}
    again, other = load_base(folder, head_seed=4), load_base(folder, head_seed=5)
    for name in ("bert.pooler.dense.weight", "classifier.weight"):
        assert torch.equal(base.model.get_parameter(name), again.model.get_parameter(name))
        assert not torch.equal(base.model.get_parameter(name), other.model.get_parameter(name))
    assert other.identity == base.identity


def test_a_classifier_that_the_checkpoint_brings_is_reset(make_model, make_folder):
    model = make_model("bert", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    folder = str(make_folder(model))
    base, encoder = load_base(folder, head_seed=1), load_base(str(make_folder()), head_seed=1)
    assert not torch.equal(base.model.classifier.weight, model.classifier.weight)
    # The same head as on the same encoder without a classifier.
    assert torch.equal(base.model.classifier.weight, encoder.model.classifier.weight)
    assert base.head == HeadSpec.numbered(2)


def test_a_classifier_is_kept_on_request(make_model, make_folder):
    model = make_model("bert", id2label={0: "no", 1: "maybe", 2: "yes"}, label2id={"no": 0, "maybe": 1, "yes": 2})
    base = load_base(str(make_folder(model)), keep_head=True)
    assert torch.equal(base.model.classifier.weight, model.classifier.weight)
    assert torch.equal(base.model.classifier.bias, model.classifier.bias)
    assert base.head == THREE


def test_a_head_that_is_not_there_cannot_be_kept(tiny_folder):
    with pytest.raises(ModelError, match=r"classifier\.weight"):
        load_base(str(tiny_folder), keep_head=True)


def test_a_head_of_another_width_is_replaced(make_model, make_folder):
    folder = str(make_folder(make_model("bert", num_labels=5)))
    base = load_base(folder, HeadSpec("regression"))
    assert base.model.classifier.weight.shape == (1, 32)
    assert base.head == HeadSpec("regression")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_head_is_float32_on_a_base_of_lower_precision(dtype, make_folder, make_model):
    base = load_base(str(make_folder()), THREE, dtype=dtype, head_seed=2)
    full = load_base(str(make_folder()), THREE, head_seed=2)
    assert base.model.bert.encoder.layer[0].output.dense.weight.dtype == getattr(torch, dtype)
    assert base.model.classifier.weight.dtype == torch.float32
    assert torch.equal(base.model.classifier.weight, full.model.classifier.weight)
    ids = torch.tensor([[2, 7, 8, 9, 10, 3]])
    with torch.no_grad():
        low, high = base.model(input_ids=ids).logits, full.model(input_ids=ids).logits
    assert low.dtype == torch.float32
    assert torch.allclose(low, high, atol=0.05 * high.abs().max().item())


def test_wrap_reads_the_head_that_a_model_has(make_model):
    labels = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
    base = wrap(make_model("bert", **labels))
    assert base.head == THREE


@pytest.mark.parametrize(
    ("family", "maker", "kept"),
    [
        ("modernbert", AutoModelForMaskedLM, {"head.dense.weight", "head.norm.weight"}),
        ("poolformer", AutoModelForImageClassification, {"norm.weight", "norm.bias"}),
        ("roberta", AutoModelForSequenceClassification, set()),  # one module, with the output layer
        ("distilbert", AutoModelForMaskedLM, set()),
    ],
)
def test_what_the_checkpoint_holds_below_the_output_layer_begins_there(family, maker, kept, tmp_path):
    """ModernBERT's ``head`` comes from its language model, PoolFormer's last norm from its ImageNet classifier."""
    sizes = FAMILIES.get(family, {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]})
    model = maker.from_config(AutoConfig.for_model(family, **_IDS, **sizes, vocab_size=40))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    one, other = (load_base(str(tmp_path), head_seed=seed) for seed in (0, 1))
    names = {place.parameter for place in one.layout.head if place.sub == "weight" or place.norm}
    before = model.state_dict()
    assert {
        name for name in names | kept if torch.equal(one.model.get_parameter(name), other.model.get_parameter(name))
    } == kept
    assert all(torch.equal(one.model.get_parameter(name), before[name]) for name in kept)
    if family == "modernbert" and importlib.util.find_spec("bitsandbytes"):
        for dtype in ("int8", "nf4"):
            low = load_base(str(tmp_path), dtype=dtype).model
            assert all(torch.equal(low.get_parameter(name), before[name].bfloat16().float()) for name in kept)


def test_a_head_that_the_class_does_not_make_is_refused():
    """A delta would put back the class's own, which answers otherwise."""
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("roberta", **{**_IDS, **FAMILIES["roberta"]})
    )
    model.classifier = type("Mean", (type(model.classifier),), {})(model.config)
    tuning = tune(wrap(model), "layernorm")
    with pytest.raises(ModelError, match="'classifier' is not the module that RobertaForSequenceClassification makes"):
        Delta.capture(tuning)


def test_a_heads_running_statistics_are_the_checkpoints_whatever_head_is_put_on(tmp_path):
    """SwiftFormer's head begins with a BatchNorm."""
    tiny = {"num_channels": 1, "image_size": 32, "depths": [1, 2, 1, 1], "embed_dims": [8, 16, 16, 16]}
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("swiftformer", num_labels=2, **tiny))
    model.swiftformer.requires_grad_(False)
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(1, 2)
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(load_base(str(tmp_path)).model.norm.running_mean, model.norm.running_mean)
    base, pixels = wrap(model), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        before = model(pixels).logits
        delta = Delta.capture(tuning := tune(base, "head"))
        tuning.undo()
        with delta.apply(base):
            assert torch.equal(model(pixels).logits, before)
