"""Cheap dropout on a CPU: torch's rates, places and statistics, from a fast generator.

torch draws dropout masks one number after the other, and attention with dropout cannot use torch's fused kernel;
together they cost a large part of a step. Here every mask comes from the raw output of numpy's SFC64, sixteen bits an
element, and attention with dropout is written out.

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
from torch.overrides import TorchFunctionMode

#: Sixteen bits an element: a rate is met to within 1 / 131,072.
_LEVELS = 1 << 16


@dataclass(frozen=True)
class Rate:
    """A dropout rate, rounded to what sixteen random bits can meet.

    Attributes:
        threshold: An element is kept if its bits, read as a signed number, reach this.
        scale: Factor of the elements that are kept, so that the expectation stays exactly the same.
    """

    threshold: int
    scale: float

    @classmethod
    def of(cls, p: float) -> Rate:
        """The rate nearest to `p`, a probability below 1."""
        dropped = min(round(p * _LEVELS), _LEVELS - 1)
        return cls(dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped))

    def apply(self, values: Tensor, bits: Tensor) -> Tensor:
        """Set the elements of `values` that `bits` drop to zero, and scale the others; both are of one shape.

        The comparison writes numbers directly, since torch converts booleans slowly.
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
    """`values` after dropout at `rate` by `bits`; without a rate, `values` as they are."""
    return values if bits is None or rate is None else rate.apply(values, bits)


def dropout(inputs: Tensor, p: float) -> Tensor:
    """Set each element to zero with probability `p`, else scale it so that its expectation stays the same.

    On devices other than the CPU this is torch's own dropout.
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


class FastDropout(TorchFunctionMode):
    """Within this context the dropout of any model on the CPU comes from the fast generator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func is torch.nn.functional.dropout:
            return _dropout_call(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention:
            found = _attention_call(*args, **kwargs)
            return func(*args, **kwargs) if found is None else found
        return func(*args, **kwargs)


def _dropout_call(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`torch.nn.functional.dropout`."""
    if not training:
        return input
    result = dropout(input, p)
    return input.copy_(result) if inplace else result


def _attention_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.scaled_dot_product_attention` written out; None where torch's own is to be used."""
    if not 0.0 < dropout_p < 1.0 or query.ndim != 4 or query.device.type != "cpu":
        return None
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    # Contiguous, since the last bits of a product depend on the memory layout of its factors.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)  # not -inf: a query may see no key
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype).clamp(min=torch.finfo(scores.dtype).min)
    return dropout(scores.softmax(-1), dropout_p) @ value
