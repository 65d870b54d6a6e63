"""GELU and the frozen layer after it: torch's gradient to the bit, from one large tensor less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.profiler import ProfilerActivity, profile

from normtune.fast.activated import Activations

TOKENS, INNER, WIDTH = 64, 96, 16


def layer() -> nn.Linear:
    return nn.Linear(INNER, WIDTH).requires_grad_(False)


def wide() -> Tensor:
    return torch.randn(2, TOKENS, INNER, requires_grad=True)


def joined(inputs: Tensor, after: nn.Linear, approximate: str = "none") -> Tensor:
    activations, scaled = Activations(), inputs * 1.0
    active = gelu(scaled, approximate=approximate)
    activations.note(active, scaled, approximate)
    found = activations.linear(active, after.weight, after.bias)
    assert found is not None
    return found


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_outputs_and_gradient_are_torchs_to_the_bit(approximate: str) -> None:
    inputs, after = wide(), layer()
    plain, other = after(gelu(inputs * 1.0, approximate=approximate)), joined(inputs, after, approximate)
    assert torch.equal(plain, other)
    gradient = torch.randn_like(plain)
    assert torch.equal(*(torch.autograd.grad(outputs, inputs, gradient)[0] for outputs in (plain, other)))


def large(outputs: Tensor) -> int:
    """How many tensors of the activation's size a backward pass from `outputs` makes."""
    gradient, size = torch.randn_like(outputs), 4 * 2 * TOKENS * INNER
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        outputs.backward(gradient)
    return sum(event.self_cpu_memory_usage >= size for event in watched.events())


def test_the_backward_pass_makes_one_tensor_less() -> None:
    after = layer()
    assert large(joined(wide(), after)) == large(after(gelu(wide() * 1.0))) - 1


def of_another(active: Tensor) -> Tensor:
    return active.clone()


def hooked(active: Tensor) -> Tensor:
    active.register_hook(lambda gradient: gradient)
    return active


@pytest.mark.parametrize("change", [of_another, hooked])
def test_what_somebody_looks_at_or_changed_is_left_to_torch(change: Callable[[Tensor], Tensor]) -> None:
    activations, inputs, after = Activations(), wide(), layer()
    active = gelu(inputs)
    activations.note(active, inputs)
    assert activations.linear(change(active), after.weight, after.bias) is None


@pytest.mark.parametrize(("inputs_train", "part"), [(False, None), (True, "weight"), (True, "bias")])
def test_only_a_frozen_layer_after_a_gradient_is_joined(inputs_train: bool, part: str | None) -> None:
    activations, inputs, after = Activations(), wide().requires_grad_(inputs_train), layer()
    if part is not None:
        after.get_parameter(part).requires_grad_()
    active = gelu(inputs)
    activations.note(active, inputs)
    assert activations.linear(active, after.weight, after.bias) is None
