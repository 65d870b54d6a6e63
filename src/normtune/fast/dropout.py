"""Dropout that costs little on a CPU: torch's rates, places and statistics, from a fast generator.

torch draws the masks of dropout one number after the other, and attention with dropout leaves torch's fused kernel; the
two together cost a large part of a step. Here every mask comes from the raw output of numpy's SFC64, sixteen bits an
element, and attention with dropout is written out (`normtune.fast.attention`).

Each mask has a generator of its own, whose seed is drawn from torch's global generator. So whatever governs torch's
dropout governs this one: ``torch.manual_seed``, forked and restored random states, recomputation of activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Sixteen bits an element: a rate is met to within 1 / 131,072.
_LEVELS = 1 << 16


@dataclass(frozen=True)
class Rate:
    """A rate of dropout as sixteen random bits can meet it.

    Attributes:
        threshold: What the bits, read as a signed number, must reach for an element to be kept.
        scale: What a kept element is multiplied by, so that the expectation is exactly what it was.
    """

    threshold: int
    scale: float

    @classmethod
    def of(cls, p: float) -> Rate:
        """The nearest to `p`, a probability below 1."""
        dropped = min(round(p * _LEVELS), _LEVELS - 1)
        return cls(dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped))

    def apply(self, values: Tensor, bits: Tensor) -> Tensor:
        """`values` with what `bits` drop set to zero and the rest scaled; both of one shape.

        The kept ones are written as numbers at once, since torch converts truth values slowly.
        """
        result = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        return torch.ge(bits, self.threshold, out=result).mul_(values).mul_(self.scale)


def draw_bits(shape: torch.Size) -> Tensor:
    """Sixteen random bits for each element of `shape`, as int16 on the CPU."""
    count = shape.numel()
    seed = int(torch.randint(torch.iinfo(torch.int64).max, ()))
    raw = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(raw.view(np.int16)[:count]).view(shape)


def dropped(values: Tensor, bits: Tensor | None, rate: Rate | None) -> Tensor:
    """`values` with what `bits` drop at `rate` set to zero and the rest scaled; without a rate as they are."""
    return values if bits is None or rate is None else rate.apply(values, bits)


def dropout(inputs: Tensor, p: float) -> Tensor:
    """Each element zero with probability `p`, else scaled so that its expectation is what it was.

    Args:
        inputs: Of any shape, floating-point. On another device than the CPU torch's own dropout is taken.
        p: From 0 to 1.
    """
    if p <= 0.0:
        return inputs
    if p >= 1.0 or inputs.device.type != "cpu":
        return torch.nn.functional.dropout(inputs, p)
    return _apply(inputs, draw_bits(inputs.shape), Rate.of(p))


class _Dropout(torch.autograd.Function):
    """Keeps the random bits for the backward pass: two bytes an element."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bits: Tensor, rate: Rate) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.rate = rate
        return rate.apply(inputs, bits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (bits,) = ctx.saved_tensors
        return ctx.rate.apply(grads[0], bits), None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Dropout.apply
