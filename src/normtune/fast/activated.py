"""A frozen linear layer and the GELU before it, of which the backward pass needs one tensor less.

torch computes a GELU's gradient beside that of its outputs, which somebody else may hold. Where a frozen linear layer
follows, that one is made in between and nobody's: GELU's own is written over it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Activations:
    """The last GELU, whose outputs a linear layer may be about to take."""

    def __init__(self) -> None:
        self._outputs: Callable[[], Tensor | None] = lambda: None
        self._inputs: Callable[[], Tensor | None] = lambda: None
        self._approximate = "none"

    def note(self, outputs: Tensor, inputs: Tensor, approximate: str = "none") -> None:
        """Remember that `outputs` are GELU of `inputs`."""
        self._outputs, self._inputs, self._approximate = weakref.ref(outputs), weakref.ref(inputs), approximate

    def linear(self, active: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """``active @ weight.T + bias``, if that is of the GELU's outputs and nothing of the layer trains; else None.

        Its gradient goes to the GELU's inputs. Both products are `torch.nn.functional.linear` in the modes that are on.
        """
        inputs = self._inputs()
        if active is not self._outputs() or inputs is None or not inputs.requires_grad or active._backward_hooks:
            return None
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return None
        return _apply(inputs, active.detach(), weight, bias, self._approximate)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, active: Tensor, weight: Tensor, bias: Tensor | None, approximate: str
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.approximate = approximate
        return torch.nn.functional.linear(active, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        gradient = torch.nn.functional.linear(grads[0], weight.t())
        torch.ops.aten.gelu_backward.grad_input(gradient, inputs, approximate=ctx.approximate, grad_input=gradient)
        return gradient, None, None, None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Activated.apply
