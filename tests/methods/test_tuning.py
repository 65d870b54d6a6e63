from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from normtune.errors import ModelError, SelectionError
from normtune.fast import linear
from normtune.fast.linear import fast_linear
from normtune.methods.expression import select
from normtune.methods.selection import Selection, at, everything, nothing
from normtune.methods.trainable import Trainable, check_free
from normtune.models.base import load_base
from normtune.models.head import HeadSpec

IDS = torch.tensor([[2, 7, 8, 9, 10, 11, 3], [2, 12, 13, 14, 15, 16, 3]])
LABELS = torch.tensor([0, 1])

#: About every third entry of a linear weight and of the embeddings, some of a bias and some of a norm.
MASKS = {
    "bert": (
        "bert.encoder.layer.1.output.dense.weight",
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.value.bias",
        "bert.encoder.layer.1.output.LayerNorm.weight",
    ),
    "albert": (
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight",
        "albert.embeddings.word_embeddings.weight",
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.bias",
    ),
    "t5": ("transformer.encoder.block.1.layer.1.DenseReluDense.wi.weight", "transformer.shared.weight"),
    "llama": ("model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"),
}

SMALL = {
    "bert": {"num_hidden_layers": 2},
    "albert": {"num_hidden_layers": 2},
    "t5": {"num_layers": 2, "num_decoder_layers": 1},
    "llama": {"num_hidden_layers": 2},
}

OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
}


def selection_of(layout, what):
    if what != "mask":
        return select(layout, what, seed=1)
    family = layout.model_type
    return Selection(layout, {name: np.arange(1, layout.by_name[name].size, 3) for name in MASKS[family]})


def loss_of(model):
    return torch.nn.functional.cross_entropy(model(input_ids=IDS).logits.float(), LABELS)


def train(tuning, optimizer="AdamW", steps=20):
    trained = OPTIMIZERS[optimizer](tuning.parameters())
    for _ in range(steps):
        trained.zero_grad()
        loss_of(tuning.base.model).backward()
        trained.step()


def current(model, name):
    """A parameter's value as the forward pass sees it."""
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf).detach()


def picture(model):
    """Everything that a tuning may change."""
    return (
        [(name, value.dtype, value.clone()) for name, value in model.state_dict().items()],
        {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()},
        {name: type(module) for name, module in model.named_modules()},
        {name: id(buffer) for name, buffer in model.named_buffers()},
        {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.named_modules()},
    )


def assert_undone(model, before):
    state, *others = before
    state_now, *others_now = picture(model)
    assert others == others_now
    old, new = ({name: (dtype, value) for name, dtype, value in each} for each in (state, state_now))
    assert old.keys() == new.keys()
    for name, (dtype, value) in old.items():
        assert new[name][0] == dtype
        assert torch.equal(new[name][1].view(torch.uint8), value.view(torch.uint8)), name
    assert all(parameter.grad is None for parameter in model.parameters())


CASES = [
    (family, what)
    for family, what in itertools.product(MASKS, ("layernorm", "random", "bitfit", "mask", "full"))
    if not (what == "bitfit" and family in {"t5", "llama"})  # they have no biases
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("family", "what"), CASES)
def test_the_selected_entries_move_and_no_other(family, what, optimizer, make_base):
    base = make_base(family, **SMALL[family])
    model, selection = base.model, selection_of(base.layout, what)
    before = picture(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}

    tuning = Trainable(base, selection)
    assert sum(parameter.numel() for parameter in tuning.leaves.values()) == len(selection)
    train(tuning, optimizer)

    moved = 0
    for place in base.layout.body:
        old, new = state[place.parameter].reshape(-1), current(model, place.parameter).reshape(-1)
        chosen = torch.zeros(place.size, dtype=torch.bool)
        chosen[torch.from_numpy(selection.indices(place.parameter))] = True
        assert torch.equal(old[~chosen].view(torch.int32), new[~chosen].view(torch.int32)), place.parameter
        assert (old[chosen] != new[chosen]).all(), place.parameter
        moved += int(chosen.sum())
    assert moved == len(selection)
    for place in base.layout.head:
        assert not torch.equal(model.get_parameter(place.parameter), state[place.parameter])
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers() if name in buffers)

    tuning.undo()
    assert_undone(model, before)
    with torch.no_grad():
        again = model(input_ids=IDS).logits
    assert torch.equal(again, make_base(family, **SMALL[family]).model(input_ids=IDS).logits.detach())


def test_undo_keeps_the_order_of_the_parameters(family, make_base):
    base = make_base(family)
    names = [*base.model.state_dict()], [name for name, _ in base.model.named_parameters()]
    Trainable(base, select(base.layout, "random", seed=1)).undo()
    assert ([*base.model.state_dict()], [name for name, _ in base.model.named_parameters()]) == names


def test_what_is_selected_before_a_tuning_is_selected_after_it(make_base):
    base = make_base("bert")
    before = select(base.layout, "random", seed=1)
    Trainable(base, before).undo()
    base.put_head(HeadSpec.numbered(3))
    assert select(base.layout, "random", seed=1) == before
    Trainable(base, before).undo()


def gradients_of(base, selection, fast):
    tuning = Trainable(base, selection)
    with fast_linear() if fast else nullcontext():
        loss_of(base.model).backward()
    gradients = {
        name: torch.zeros(leaf.numel()) if leaf.grad is None else leaf.grad.reshape(-1)
        for name, leaf in {**tuning.leaves, **tuning.head}.items()
    }
    tuning.undo()
    return gradients


@pytest.mark.parametrize(
    "family",
    [
        *("bert", "albert", "deberta", "deberta-v2", "distilbert", "mpnet", "xlnet", "modernbert", "gpt2", "opt"),
        *("llama", "phi3", "gemma2", "t5", "bart"),
    ],
)
def test_gradients_are_the_dense_ones_at_the_selected_entries(family, make_base, monkeypatch):
    monkeypatch.setattr(linear, "_SPARSE_BELOW", 1 / 64)
    base = make_base(family)
    reference = copy.deepcopy(base.model).double().requires_grad_()
    loss_of(reference).backward()
    dense = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in reference.named_parameters()
    }
    # Few enough for the fast path to sum them entry by entry; too many for that; and all.
    drawn = np.random.default_rng(0).permutation(base.layout.size)
    few, many = at(base.layout, drawn[: base.layout.size // 150]), at(base.layout, drawn[: base.layout.size // 5])
    for selection, fast in ((few, True), (many, False), (everything(base.layout), True)):
        gradients = gradients_of(base, selection, fast)
        assert gradients.keys() == {*selection.chosen, *(place.parameter for place in base.layout.head)}
        assert any(gradients[name].any() for name in selection.chosen)
        for name, gradient in gradients.items():
            chosen = slice(None) if name not in selection.chosen else torch.from_numpy(selection.indices(name))
            error = (gradient.double() - dense[name].reshape(-1)[chosen]).abs().max().item()
            assert error <= 2e-5 * dense[name].abs().max().item() + 1e-7, name


def test_one_leaf_stands_for_a_tensor_that_modules_share(make_base):
    base = make_base("t5")
    model = base.model.transformer
    tuning = Trainable(base, selection_of(base.layout, "mask"))
    assert [*tuning.leaves].count("transformer.shared.weight") == 1
    with torch.no_grad():
        tuning.leaves["transformer.shared.weight"].add_(1)
    assert torch.equal(model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight)
    assert torch.equal(model.encoder.embed_tokens.weight, model.shared.weight)
    assert len({id(parameter) for parameter in tuning.parameters()}) == len([*tuning.parameters()])
    tuning.undo()
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight


def test_undo_puts_back_the_flags_and_training_again_gives_the_same(make_base):
    base = make_base("bert")
    for layer in base.model.bert.encoder.layer:  # one of them is in the mask
        layer.output.dense.weight.requires_grad_()
    before = picture(base.model)
    values = []
    for _ in range(2):
        tuning = Trainable(base, selection_of(base.layout, "mask"))
        trainable = {id(parameter) for parameter in base.model.parameters() if parameter.requires_grad}
        assert trainable == {id(parameter) for parameter in tuning.parameters()}
        train(tuning, steps=3)
        values.append({**tuning.values(), **tuning.head_values()})
        tuning.undo()
        assert_undone(base.model, before)
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


def test_undo_where_no_gradients_are_taken(make_base):
    base = make_base("bert")
    before = picture(base.model)
    tuning = Trainable(base, selection_of(base.layout, "mask"))
    with torch.no_grad():
        tuning.undo()
    assert_undone(base.model, before)


def test_the_head_alone(make_base):
    base = make_base("bert")
    tuning = Trainable(base, nothing(base.layout))
    assert not tuning.leaves
    assert [*tuning.head] == ["classifier.weight", "classifier.bias"]
    train(tuning, steps=2)
    tuning.undo()


def test_a_whole_vector_in_float32_trains_as_itself(make_base):
    base = make_base("bert")
    tuning = Trainable(base, select(base.layout, "layernorm"))
    assert all(base.model.get_parameter(name) is leaf for name, leaf in tuning.leaves.items())
    assert not any(parametrize.is_parametrized(module) for module in base.model.modules())
    tuning.undo()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("what", ["layernorm", "bitfit", "random", "mask", "full"])
def test_leaves_of_a_base_of_lower_precision_are_float32(dtype, what, tiny_folder):
    base = load_base(str(tiny_folder), dtype=dtype)
    low = getattr(torch, dtype)
    before = picture(base.model)
    selection = selection_of(base.layout, what)
    tuning = Trainable(base, selection)
    assert {parameter.dtype for parameter in tuning.parameters()} == {torch.float32}
    start = tuning.values()
    loss_of(base.model).backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in tuning.leaves.values())
    assert any(leaf.grad.abs().max() > 0 for leaf in tuning.leaves.values())

    # Steps far below the resolution of the lower precision: 200 of them add up.
    with torch.no_grad():
        for _ in range(200):
            for leaf in tuning.leaves.values():
                leaf.add_(1e-6)
    end = tuning.values()
    for name, value in end.items():
        assert torch.allclose(value - start[name], torch.full_like(value, 2e-4), atol=3e-5), name
        assert torch.equal(start[name].to(low).float(), start[name])  # exactly what the base holds
    # A norm computes in float32, so its values reach the forward pass as they are.
    if what == "layernorm":
        name = "bert.encoder.layer.1.output.LayerNorm.weight"
        assert torch.equal(current(base.model, name), end[name])
    tuning.undo()
    assert_undone(base.model, before)
    assert {base.model.get_parameter(place.parameter).dtype for place in base.layout.body} == {low}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_at_lower_precision_learns_and_leaves_the_rest_alone(dtype, tiny_folder):
    base = load_base(str(tiny_folder), dtype=dtype)
    state = {name: value.clone() for name, value in base.model.state_dict().items()}
    tuning = Trainable(base, select(base.layout, "layernorm"))
    first = loss_of(base.model).item()
    train(tuning, steps=20)
    assert loss_of(base.model).item() < 0.7 * first
    for place in base.layout.body:
        if place.parameter not in tuning.leaves:
            assert torch.equal(current(base.model, place.parameter).float(), state[place.parameter].float())
    tuning.undo()


def test_values_can_be_taken_and_set(make_base):
    base = make_base("bert")
    selection = selection_of(base.layout, "mask") | select(base.layout, "layernorm")
    tuning = Trainable(base, selection)
    start, head = tuning.values(), tuning.head_values()
    assert {name: value.shape for name, value in start.items()} == {
        name: (selection.count(name),) for name in selection.chosen
    }
    train(tuning, steps=2)
    end = tuning.values()
    assert all(not torch.equal(start[name], end[name]) for name in start)  # copies, not views
    tuning.load(start, head)
    assert all(torch.equal(value, start[name]) for name, value in tuning.values().items())
    assert all(torch.equal(value, head[name]) for name, value in tuning.head_values().items())
    fresh = dict(make_base("bert").model.named_parameters())
    for place in base.layout.body:
        assert torch.equal(current(base.model, place.parameter), fresh[place.parameter])
    tuning.undo()


def test_decay_is_on_weights_that_are_no_norms(make_base):
    base = make_base("bert")
    tuning = Trainable(base, everything(base.layout))
    names = {id(parameter): name for name, parameter in {**tuning.leaves, **tuning.head}.items()}
    decayed, rest = tuning.param_groups(0.01)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    assert {names[id(p)] for p in rest["params"]} == {
        name for name in names.values() if name.endswith(".bias") or "LayerNorm" in name
    }
    assert {names[id(p)] for p in decayed["params"]} == {*names.values()} - {names[id(p)] for p in rest["params"]}
    tuning.undo()
    tuning = Trainable(base, select(base.layout, "layernorm"))
    decayed, rest = tuning.param_groups(0.01)
    assert [id(p) for p in decayed["params"]] == [id(base.model.classifier.weight)]
    tuning.undo()


def test_clipping_sees_the_leaves_alone(make_base):
    base = make_base("bert")
    tuning = Trainable(base, selection_of(base.layout, "mask"))
    loss_of(base.model).backward()
    norm = torch.nn.utils.clip_grad_norm_(tuning.parameters(), 1e9)
    whole = torch.nn.utils.clip_grad_norm_(base.model.parameters(), 1e9)
    assert torch.isclose(norm, whole)
    by_hand = torch.cat([parameter.grad.reshape(-1) for parameter in tuning.parameters()]).norm()
    assert torch.isclose(norm, by_hand)
    tuning.undo()


def test_counts(make_base):
    layout = make_base("bert").layout
    selection = select(layout, "layernorm")
    assert selection.counts(layout).model_dump() == {
        "selected": 192,
        "head": 66,
        "trained": 258,
        "total": layout.size + 66,
        "share": 192 / layout.size,
    }


def test_a_selection_of_another_model_is_refused(make_base):
    base = make_base("bert")
    before = picture(base.model)
    with pytest.raises(SelectionError, match="another model"):
        Trainable(base, everything(make_base("bert", intermediate_size=64).layout))
    assert_undone(base.model, before)


def test_a_model_is_tuned_once_at_a_time(make_base):
    base = make_base("bert")
    tuning = Trainable(base, selection_of(base.layout, "mask"))
    with pytest.raises(ModelError, match="being tuned already"):
        Trainable(base, select(base.layout, "layernorm"))
    tuning.undo()
    Trainable(base, select(base.layout, "layernorm")).undo()


@pytest.mark.parametrize("mark", ["ds_id", "device_mesh"])
def test_sharded_parameters_are_refused(mark, make_base):
    base = make_base("bert")
    setattr(base.model.bert.pooler.dense.weight, mark, 1)
    before = picture(base.model)
    with pytest.raises(ModelError, match="sharded"):
        Trainable(base, select(base.layout, "layernorm"))
    assert_undone(base.model, before)


def test_an_fsdp_wrapper_is_refused(make_model):
    model = torch.nn.Module()
    model._fsdp_wrapped_module = make_model("bert")
    with pytest.raises(ModelError, match="sharded"):
        check_free(model)
