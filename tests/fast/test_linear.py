from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import normtune.fast.linear as module
from normtune.fast.linear import fast_linear
from normtune.methods import entries
from normtune.methods.entries import Entries, mark
from normtune.methods.selection import at
from normtune.methods.trainable import Trainable

TOKENS, WIDE, NARROW = (3, 7), 40, 24


@pytest.fixture(autouse=True)
def _threshold(monkeypatch):
    # Under the measured threshold, no part of such small weights would count as few.
    monkeypatch.setattr(module, "_SPARSE_BELOW", 1 / 64)


def tensors(*, bias=True, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return draw(*TOKENS, WIDE), draw(NARROW, WIDE), draw(NARROW) if bias else None, draw(*TOKENS, NARROW)


def close(one, other, tolerance=1e-5):
    return (one.double() - other.double()).abs().max() <= tolerance * other.abs().max()


def is_ours(result):
    below = [node for node, _ in result.grad_fn.next_functions]  # ours lies below the view to three dimensions
    return any(type(node).__name__ == "_LinearBackward" for node in below)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wanted", ["inputs", "weight", "bias", "inputs weight bias", "inputs bias", ""])
def test_forward_and_backward_are_torchs(wanted, bias, backend):
    inputs, weight, offset, grad = tensors(bias=bias)
    ours = [None if value is None else value.clone() for value in (inputs, weight, offset)]
    exact = [None if value is None else value.double() for value in (inputs, weight, offset)]
    for name, one, other in zip(("inputs", "weight", "bias"), ours, exact, strict=True):
        if name in wanted.split() and one is not None:
            one.requires_grad_()
            other.requires_grad_()
    with fast_linear():
        result = linear(*ours)
    expected = linear(*exact)
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    assert close(result, expected)
    assert result.requires_grad == expected.requires_grad
    if result.requires_grad:
        result.backward(grad)
        expected.backward(grad.double())
        assert is_ours(result) == (backend == "onednn")
    for one, other in zip(ours, exact, strict=True):
        if one is not None:
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or (one.grad.dtype == torch.float32 and close(one.grad, other.grad))


def test_inputs_and_gradients_need_not_be_contiguous(backend):
    inputs, weight, bias, grad = tensors()
    ours = inputs.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    strided = weight.t().contiguous().t().requires_grad_()
    assert not ours.is_contiguous()
    assert not strided.is_contiguous()
    with fast_linear():
        result = linear(ours, strided, bias)
    result.backward(grad.transpose(0, 1).contiguous().transpose(0, 1))
    assert close(result, linear(inputs, weight, bias))
    assert close(ours.grad, grad @ weight)
    assert close(strided.grad, grad.reshape(-1, NARROW).t() @ inputs.reshape(-1, WIDE))
    # A gradient expanded from one number.
    ours.grad = None
    with fast_linear():
        linear(ours, strided, bias).sum().backward()
    assert close(ours.grad, weight.sum(0).expand_as(inputs))


def test_a_layer_takes_the_fast_path(onednn):
    layer = torch.nn.Linear(WIDE, NARROW)
    inputs, *_ = tensors()
    with fast_linear():
        assert is_ours(layer(inputs))
    assert not is_ours(layer(inputs))
    with pytest.raises(ZeroDivisionError), fast_linear():
        raise ZeroDivisionError
    assert not is_ours(layer(inputs))


@pytest.mark.parametrize("shape", [(WIDE,), (5, WIDE), (2, 3, 4, WIDE)])
def test_inputs_of_other_shapes_are_left_to_torch(shape, onednn):
    _, weight, bias, _ = tensors()
    weight.requires_grad_()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with fast_linear():
        result = linear(inputs, weight, bias)
    assert not is_ours(result)
    assert torch.equal(result, linear(inputs, weight, bias))


def test_named_arguments_are_left_to_torch(onednn):
    inputs, weight, bias, _ = tensors()
    with fast_linear():
        result = linear(inputs, weight.requires_grad_(), bias=bias)
    assert torch.equal(result, linear(inputs, weight, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_left_to_torch(dtype, onednn):
    inputs, weight, bias, _ = tensors(dtype=dtype)
    weight.requires_grad_()
    with fast_linear():
        result = linear(inputs, weight, bias)
    assert not is_ours(result)
    assert torch.equal(result, linear(inputs, weight, bias))


@pytest.mark.parametrize("packed", [False, True])
def test_autocast_is_left_to_torch(packed, backend):
    inputs, weight, bias, _ = tensors()
    if packed:
        *_, weight = pack(weight, 3)
    else:
        weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        with fast_linear():
            result = linear(inputs, weight, bias)
        expected = linear(inputs, weight, bias)
    assert result.dtype == torch.bfloat16
    assert not is_ours(result)
    assert torch.equal(result, expected)


def pack(weight, count, dtype=None):
    """A weight of which `count` entries train, as `normtune.methods.selection` composes it."""
    indices = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(2))[:count].sort().values
    leaf = weight.reshape(-1)[indices].float().requires_grad_()
    composed = weight.reshape(-1).scatter(0, indices, leaf.to(weight.dtype)).view(weight.shape)
    if composed.requires_grad:
        composed.retain_grad()
    return leaf, indices, mark(composed, leaf, Entries(indices, weight.shape))


@pytest.mark.parametrize(
    ("count", "by_entry"),
    [(1, True), (NARROW * WIDE // 64, True), (NARROW * WIDE // 64 + 1, False), (NARROW * WIDE, False)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_entries_are_the_dense_ones(count, by_entry, bias, backend):
    inputs, weight, offset, grad = tensors(bias=bias)
    inputs.requires_grad_()
    leaf, indices, composed = pack(weight, count)
    with fast_linear():
        result = linear(inputs, composed, offset)
    result.backward(grad)

    dense = weight.double().requires_grad_()
    exact = inputs.detach().double().requires_grad_()
    expected = linear(exact, dense, None if offset is None else offset.double())
    expected.backward(grad.double())
    assert close(result, expected)
    assert close(inputs.grad, exact.grad)
    assert leaf.grad.dtype == torch.float32
    assert (leaf.grad.double() - dense.grad.reshape(-1)[indices]).abs().max() <= 1e-5 * dense.grad.abs().max()
    # Few entries: the dense gradient is never made.
    assert (composed.grad is None) == by_entry


def test_the_gradient_of_few_entries_is_summed_in_parts(monkeypatch, backend):
    inputs, weight, bias, grad = tensors()
    leaf, indices, composed = pack(weight, 12)
    monkeypatch.setattr(entries, "_BLOCK", 5 * 12)  # five tokens at once
    with fast_linear():
        linear(inputs, composed, bias).backward(grad)
    dense = grad.reshape(-1, NARROW).t() @ inputs.reshape(-1, WIDE)
    assert close(leaf.grad, dense.reshape(-1)[indices])
    monkeypatch.setattr(entries, "_BLOCK", 1)  # less than one token
    again, _, composed = pack(weight, 12)
    with fast_linear():
        linear(inputs, composed, bias).backward(grad)
    assert close(again.grad, leaf.grad)


def test_gradients_of_entries_at_lower_precision_are_summed_in_float32(backend):
    inputs, weight, bias, grad = tensors(dtype=torch.bfloat16)
    leaf, indices, composed = pack(weight, 12)
    with fast_linear():
        result = linear(inputs, composed, bias)
    result.backward(grad)
    assert result.dtype == torch.bfloat16
    assert leaf.grad.dtype == torch.float32
    dense = grad.double().reshape(-1, NARROW).t() @ inputs.double().reshape(-1, WIDE)
    assert close(leaf.grad, dense.reshape(-1)[indices], 0.02)
    assert (leaf.grad.bfloat16() != leaf.grad).any()  # never rounded to the base's dtype


def test_no_gradient_is_asked_of_a_leaf_that_does_not_train(backend):
    inputs, weight, bias, grad = tensors()
    inputs.requires_grad_()
    indices = torch.tensor([0, 5])
    leaf = weight.reshape(-1)[indices]
    with fast_linear():
        result = linear(inputs, mark(weight.clone(), leaf, Entries(indices, weight.shape)), bias)
    result.backward(grad)
    assert leaf.grad is None
    assert close(inputs.grad, grad @ weight)


def test_a_frozen_layer_keeps_no_inputs(onednn):
    inputs, weight, bias, _ = tensors()
    inputs.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t), fast_linear():
        linear(inputs, weight, bias)
        assert weight.data_ptr() in kept
        assert inputs.data_ptr() not in kept
        linear(inputs, weight.requires_grad_(), bias)
        assert inputs.data_ptr() in kept


@pytest.mark.parametrize("what", ["few", "many"])
@pytest.mark.parametrize("family", ["bert", "t5", "llama", "deberta"])
def test_a_model_answers_and_learns_the_same(family, what, make_base, backend):
    ids, labels = torch.tensor([[2, 7, 8, 9, 3], [2, 12, 13, 14, 3]]), torch.tensor([0, 1])
    base = make_base(family)
    count = base.layout.size // (200 if what == "few" else 5)
    drawn = torch.randperm(base.layout.size, generator=torch.Generator().manual_seed(0))[:count]
    seen = []
    for fast in (False, True):
        tuning = Trainable(base, at(base.layout, drawn.numpy()))
        with fast_linear() if fast else torch.enable_grad():
            logits = base.model(input_ids=ids).logits
            torch.nn.functional.cross_entropy(logits, labels).backward()
        seen.append((
            logits.detach(),
            torch.cat([leaf.grad for leaf in tuning.leaves.values() if leaf.grad is not None]),
        ))
        tuning.undo()
    assert close(seen[1][0], seen[0][0])
    assert close(seen[1][1], seen[0][1], 1e-4)


@pytest.mark.parametrize(
    ("capability", "vendor", "available", "preferred"),
    [
        ("AVX512", "AuthenticAMD", True, True),
        ("AVX512", "GenuineIntel", True, False),
        ("AVX2", "AuthenticAMD", True, False),
        ("AVX512", "AuthenticAMD", False, False),
    ],
)
def test_the_processor_decides_by_which_library(capability, vendor, available, preferred, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    monkeypatch.setattr(module.Path, "is_file", lambda _: True)
    monkeypatch.setattr(module.Path, "read_text", lambda *_, **__: f"vendor_id : {vendor}")
    assert module.prefers_onednn.__wrapped__() is (preferred and hasattr(torch.ops.mkldnn, "_linear_pointwise"))
