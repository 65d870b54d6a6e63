from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForSequenceClassification

from normtune.fast import linear as linear_module
from normtune.fast.linear import fast_linear
from normtune.methods.entries import Entries
from normtune.methods.packed import Packed
from normtune.methods.selection import at, where
from normtune.methods.trainable import Trainable
from normtune.models.base import load_base, wrap
from normtune.models.precision import Float32Module

BATCHES = (
    (torch.tensor([[2, 7, 8, 9, 3], [2, 12, 13, 14, 3]]), torch.tensor([0, 1])),
    (torch.tensor([[2, 20, 8, 3], [2, 9, 0, 3]]), torch.tensor([1, 1])),
)
#: Layers that share all tensors; an embedding that encoder and decoder share; nothing shared.
FAMILIES = ("albert", "t5", "bert")
FAST = pytest.mark.parametrize("fast", [fast_linear, nullcontext], ids=["fast", "plain"])


@pytest.fixture(autouse=True)
def _threshold(monkeypatch):
    # Under the measured threshold, no part of such small weights would count as few.
    monkeypatch.setattr(linear_module, "_SPARSE_BELOW", 1 / 64)


def drawn(base, parts=150):
    """A mask over the whole model, sparse enough for the entry-wise way."""
    order = np.random.default_rng(0).permutation(base.layout.size)
    return at(base.layout, order[: base.layout.size // parts])


def loss(model, batch=BATCHES[0]):
    ids, labels = batch
    return cross_entropy(model(input_ids=ids).logits, labels)


def test_entries_of_views_of_one_tensor_train(tmp_path):
    """transformers cuts the queries, keys and values of some families out of one tensor of the checkpoint."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("nomic_bert", vocab_size=50, max_position_embeddings=64, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    base = load_base(str(tmp_path))
    query = base.model.get_parameter("nomic_bert.layers.0.self_attn.q_proj.weight")
    assert query.untyped_storage().nbytes() > query.nbytes
    selection, before = drawn(base, parts=4), state(base.model)
    tuning = Trainable(base, selection)
    shift(tuning)
    for batch in BATCHES:
        loss(base.model, batch).backward()
    values, gradients = tuning.values(), {name: leaf.grad for name, leaf in tuning.leaves.items()}
    tuning.undo()
    assert_same(base.model, before)
    expected = dense(base, selection, values, BATCHES)
    largest = max(grad.abs().max() for grad in expected.values())
    for name, gradient in gradients.items():
        found = torch.zeros(expected[name].shape) if gradient is None else gradient
        assert (found - expected[name]).abs().max() <= 1e-5 * largest, name


def shift(tuning, by=0.01):
    with torch.no_grad():
        for leaf in tuning.leaves.values():
            leaf.add_(by)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, before):
    now = model.state_dict()
    assert [*now] == [*before]
    assert all(torch.equal(now[name].view(torch.uint8), value.view(torch.uint8)) for name, value in before.items())


def dense(base, selection, values, batches=BATCHES[:1]):
    """The selected entries of the dense gradients of a float64 copy of the model."""
    model = copy.deepcopy(base.model).double().requires_grad_()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].view(-1)[torch.from_numpy(selection.indices(name))] = value.double()
    for batch in batches:
        loss(model, batch).backward()
    return {
        name: torch.zeros(selection.count(name))
        if parameters[name].grad is None
        else parameters[name].grad.reshape(-1)[torch.from_numpy(selection.indices(name))]
        for name in values
    }


def assert_gradients(tuning, expected):
    largest = max(grad.abs().max() for grad in expected.values())
    for name, leaf in tuning.leaves.items():
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert (found - expected[name]).abs().max() <= 1e-5 * largest, name


def again(forward, reentrant):
    """Wraps `forward` in gradient checkpointing, which computes it again in the backward pass."""

    def run(hidden, *args, **kwargs):
        return checkpoint(lambda first: forward(first, *args, **kwargs), hidden, use_reentrant=reentrant)

    return run


def parameter_of(base):
    return base.model.get_parameter("bert.encoder.layer.1.output.dense.weight")


class Made(TorchDispatchMode):
    """Records the sizes of new storages."""

    def __init__(self):
        super().__init__()
        self.known, self.sizes = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.known |= {tensor.untyped_storage().data_ptr() for tensor in self._held(args)}
        result = func(*args, **(kwargs or {}))
        for tensor in self._held(result if isinstance(result, (tuple, list)) else (result,)):
            if tensor.untyped_storage().data_ptr() not in self.known:
                self.sizes.append(tensor.numel())
        return result

    @staticmethod
    def _held(values):
        tensors = (value for value in values if isinstance(value, torch.Tensor))
        return [tensor._values() if tensor.is_sparse else tensor for tensor in tensors]


def test_a_step_copies_no_weight(make_base):
    # An embedding far larger than anything that the pass itself allocates.
    base = make_base("bert", vocab_size=4000)
    frozen = base.model.bert.embeddings.word_embeddings.weight
    tuning = Trainable(base, drawn(base))
    assert base.model.bert.embeddings.word_embeddings.weight.data_ptr() == frozen.data_ptr()
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.01)
    for _ in range(2):
        with Made() as made, fast_linear():
            loss(base.model).backward()
            optimizer.step()
        assert max(made.sizes) < frozen.numel() / 4
    tuning.undo()


@FAST
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_add_up_over_forward_passes(family, fast, make_base):
    base = make_base(family)
    selection = drawn(base)
    reference = copy.deepcopy(base)
    tuning = Trainable(base, selection)
    shift(tuning)
    expected = dense(reference, selection, tuning.values(), BATCHES)
    with fast():
        losses = [loss(base.model, batch) for batch in BATCHES]
        for each in losses:
            each.backward()
    assert_gradients(tuning, expected)
    tuning.undo()


@FAST
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_comes_between_forward_and_backward(mode, fast, make_base):
    base = make_base("bert")
    selection, reference = drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    for _ in range(2):  # the values are placed in a training pass, then in an evaluation
        with fast():
            with mode():
                before = loss(base.model)
            pending = loss(base.model)
            with mode():
                again = loss(base.model)
            pending.backward()
        assert torch.equal(before, again)
        assert torch.equal(before, pending.detach())
        assert_gradients(tuning, dense(reference, selection, tuning.values()))
        base.model.zero_grad()
        shift(tuning, 0.02)
        with mode(), fast():
            assert loss(base.model) != before
    tuning.undo()


@FAST
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_computed_before_a_step_is_refused_after_it(family, fast, make_base):
    base = make_base(family)
    selection, reference = drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    with fast():
        old = loss(base.model)
        shift(tuning)
        new = loss(base.model)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            old.backward()
        base.model.zero_grad()
        new.backward()
    assert_gradients(tuning, dense(reference, selection, tuning.values()))
    tuning.undo()


@FAST
def test_a_backward_pass_may_come_after_a_step_that_nothing_has_used_yet(fast, make_base):
    base = make_base("bert")
    selection, reference = drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    expected = dense(reference, selection, tuning.values())
    with fast():
        pending = loss(base.model)
        shift(tuning)
        pending.backward()
    assert_gradients(tuning, expected)
    tuning.undo()


@FAST
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_activations_are_computed_again(family, reentrant, fast, make_base, monkeypatch):
    base = make_base(family)
    selection, reference = drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    shift(tuning)
    encoder = getattr(base.model, family).encoder
    for layer in encoder.layer if family == "bert" else encoder.albert_layer_groups:
        monkeypatch.setattr(layer, "forward", again(layer.forward, reentrant))
    with fast():
        loss(base.model).backward()
    assert_gradients(tuning, dense(reference, selection, tuning.values()))
    tuning.undo()


def test_what_is_loaded_or_written_behind_torchs_back_is_used(make_base):
    base = make_base("bert")
    tuning = Trainable(base, drawn(base))
    values, head = tuning.values(), tuning.head_values()
    with torch.no_grad():
        first = loss(base.model)
        tuning.load({name: value + 0.1 for name, value in values.items()}, head)
        second = loss(base.model)
        for leaf in tuning.leaves.values():
            leaf.data.sub_(0.1)  # torch's version counter misses this one
        third = loss(base.model)
        for name, leaf in tuning.leaves.items():
            leaf.data = values[name].clone()
        fourth = loss(base.model)
    assert first != second
    assert torch.allclose(first, third, atol=1e-6)
    assert torch.equal(first, fourth)
    tuning.undo()


def test_a_lower_precision_gets_the_leaf_rounded(tiny_folder):
    base = load_base(str(tiny_folder), dtype="bfloat16")
    before, frozen = state(base.model), parameter_of(base)
    selection = drawn(base)
    tuning = Trainable(base, selection)
    name = "bert.encoder.layer.1.output.dense.weight"
    shift(tuning, 1e-3)
    with fast_linear():
        loss(base.model).backward()
    indices = torch.from_numpy(selection.indices(name))
    leaf = tuning.leaves[name]
    assert frozen.dtype == torch.bfloat16
    assert torch.equal(frozen.view(-1)[indices], leaf.detach().bfloat16())
    assert not torch.equal(leaf.detach().bfloat16().float(), leaf.detach())
    assert leaf.grad.dtype == torch.float32
    assert leaf.grad.any()
    tuning.undo()
    assert_same(base.model, before)


@FAST
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_parameters_of_a_lower_precision_train_as_torch_trains_them(fast, family, make_model):
    base = wrap(make_model(family).to(torch.bfloat16).requires_grad_(False))
    before, plain = state(base.model), copy.deepcopy(base.model)
    for path in {place.parameter.rpartition(".")[0] for place in base.layout.head}:
        Float32Module(plain.get_submodule(path), lower=False)  # as a delta's head computes
    plain.requires_grad_(True)
    tuning = Trainable(base, where(base.layout, lambda place: not place.norm))
    with fast():
        found = loss(base.model)
        found.backward()
    expected = loss(plain)
    expected.backward()
    assert torch.equal(found, expected)
    for name, leaf in tuning.leaves.items():
        gradient = plain.get_parameter(name).grad
        assert (leaf.grad is None) == (gradient is None), name
        if gradient is not None:
            assert leaf.grad.dtype == torch.float32
            near = 0.02 * gradient.abs().max().item()  # a sum over a tied tensor's uses is rounded once here, not twice
            assert torch.allclose(leaf.grad, gradient.float().view(-1), rtol=0.02, atol=near), name
    # A `Packed` would keep the position of every entry, eight bytes each.
    assert not any(isinstance(module, Packed) for module in base.model.modules())
    tuning.undo()
    assert_same(base.model, before)


@FAST
def test_double_precision(fast, make_model):
    base = wrap(make_model("bert").double().requires_grad_(False))
    before, reference = state(base.model), copy.deepcopy(base)
    selection = drawn(base) - where(base.layout, lambda place: place.norm)  # selected norms compute in float32
    tuning = Trainable(base, selection)
    with fast():
        loss(base.model).backward()
    assert {leaf.grad.dtype for leaf in tuning.leaves.values() if leaf.grad is not None} == {torch.float32}
    # As exact as the leaf's gradient can be: the sums themselves are of double precision.
    for name, grad in dense(reference, selection, tuning.values()).items():
        found = tuning.leaves[name].grad
        assert found is None or torch.allclose(found.double(), grad, rtol=2e-7, atol=1e-12), name
    tuning.undo()
    assert_same(base.model, before)


def fails(tuning):
    def broken(*_):
        raise ZeroDivisionError

    hook = tuning.base.model.bert.encoder.layer[1].register_forward_pre_hook(broken)
    with pytest.raises(ZeroDivisionError):
        loss(tuning.base.model)
    hook.remove()


STATES = {
    "untouched": lambda tuning: None,
    "after a change": shift,
    "after a forward pass": lambda tuning: (shift(tuning), loss(tuning.base.model)),
    "after a backward pass": lambda tuning: loss(tuning.base.model).backward(),
    "after an error in a forward pass": lambda tuning: (shift(tuning), fails(tuning)),
    "after values that are not finite": lambda tuning: (shift(tuning, float("nan")), loss(tuning.base.model)),
}


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("what", STATES)
def test_undo_in_any_state(what, mode, make_base):
    base = make_base("bert")
    before, names = state(base.model), [name for name, _ in base.model.named_buffers()]
    tuning = Trainable(base, drawn(base))
    STATES[what](tuning)
    with mode():
        tuning.undo()
    assert_same(base.model, before)
    assert [name for name, _ in base.model.named_buffers()] == names
    assert torch.isfinite(loss(base.model))


def test_what_is_pending_is_refused_after_undo(make_base):
    base = make_base("bert")
    tuning = Trainable(base, drawn(base))
    shift(tuning)
    pending = loss(base.model)
    tuning.undo()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pending.backward()


def test_no_buffers_are_added(make_base):
    base = make_base("bert")
    names = [name for name, _ in base.model.named_buffers()]
    tuning = Trainable(base, drawn(base))
    # In several processes, torch would broadcast every buffer in every pass.
    assert [name for name, _ in base.model.named_buffers()] == names
    tuning.undo()


def test_the_model_may_change_its_dtype(make_base):
    base = make_base("t5")
    before, selection, reference = state(base.model), drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    shift(tuning)
    base.model.double()
    assert {leaf.dtype for leaf in tuning.leaves.values()} == {torch.float64}
    loss(base.model).backward()
    assert_gradients(tuning, dense(reference, selection, tuning.values()))
    tuning.undo()
    assert_same(base.model, {name: value.double() for name, value in before.items()})


def test_other_tensors_in_the_leafs_place_leave_nothing_behind(make_base):
    base = make_base("bert")
    tuning = Trainable(base, drawn(base))
    names = {id(leaf): name for name, leaf in base.model.named_parameters()}
    others = {names[id(leaf)]: leaf.detach() + 0.1 for leaf in tuning.leaves.values()}
    ids, labels = BATCHES[0]
    with torch.no_grad():
        first = loss(base.model)
        called = torch.func.functional_call(base.model, others, kwargs={"input_ids": ids, "labels": labels}).loss
        assert torch.equal(loss(base.model), first)
        shift(tuning, 0.1)
        assert torch.equal(loss(base.model), called)
    tuning.undo()


def test_a_copy_of_the_model_trains_by_itself(make_base):
    base = make_base("albert")
    tuning = Trainable(base, drawn(base))
    twin = copy.deepcopy(base.model)
    with torch.no_grad():
        first = loss(base.model)
        for leaf in twin.parameters():
            leaf.add_(0.01 * leaf.requires_grad)
        assert loss(twin) != first
        assert torch.equal(loss(base.model), first)
    tuning.undo()


@pytest.mark.parametrize("why", ["strided", "max_norm"])
def test_a_parameter_that_cannot_be_written_is_copied(why, make_base):
    base = make_base("bert")
    frozen = base.model.bert.embeddings.word_embeddings
    if why == "strided":
        frozen.weight.data = frozen.weight.data.t().contiguous().t()
    else:
        frozen.max_norm = 0.5  # torch then rescales the rows that it looks up, in place
    parameter, values = frozen.weight, frozen.weight.detach().clone()
    selection, reference = drawn(base), copy.deepcopy(base)
    tuning = Trainable(base, selection)
    shift(tuning)
    with fast_linear():
        loss(base.model).backward()
    assert torch.equal(parameter, values)
    if why == "strided":
        reference.model.bert.embeddings.word_embeddings.weight.data = values.contiguous()
        assert_gradients(tuning, dense(reference, selection, tuning.values()))
    tuning.undo()
    assert torch.equal(frozen.weight, values)


@pytest.mark.parametrize("sparse", [False, True])
def test_without_the_fast_path_the_dense_gradient_is_read(sparse):
    frozen = torch.nn.Parameter(torch.randn(9, 4), requires_grad=False)
    indices = torch.tensor([0, 5, 6, 35])
    packed = Packed(frozen, Entries(indices, frozen.shape), in_place=True)
    weight = packed(packed.leaf)
    assert weight.data_ptr() == frozen.data_ptr()
    tokens, grad = torch.tensor([0, 1, 1, 8]), torch.randn(4, 4)
    torch.nn.functional.embedding(tokens, weight, sparse=sparse).backward(grad)
    assert torch.allclose(
        packed.leaf.grad, torch.stack([grad[0, 0], grad[1:3, 1].sum(), grad[1:3, 2].sum(), grad[3, 3]])
    )


def test_a_second_derivative():
    frozen = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64), requires_grad=False)
    indices = torch.tensor([0, 5, 6])
    packed = Packed(frozen, Entries(indices, frozen.shape), in_place=True)
    (first,) = torch.autograd.grad(packed(packed.leaf).pow(3).sum(), packed.leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), packed.leaf)
    assert torch.allclose(second, 6 * packed.leaf.detach())


def test_only_a_change_counts_as_one():
    frozen = torch.nn.Parameter(torch.randn(3, 4), requires_grad=False)
    packed = Packed(frozen, Entries(torch.tensor([0, 5]), frozen.shape), in_place=True)
    packed(packed.leaf)
    count = frozen._version
    for mode in (nullcontext, torch.no_grad, torch.inference_mode):
        with mode():
            packed(packed.leaf)
    assert frozen._version == count
    with torch.no_grad():
        packed.leaf.add_(1)
    packed(packed.leaf)
    assert frozen._version > count
    assert torch.equal(frozen.view(-1)[[0, 5]], packed.leaf)
