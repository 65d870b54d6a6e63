"""Lookups in an embedding with only some entries that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normtune.methods.entries import Entries, marked


def lookup(
    tokens: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.embedding`, with the gradient of the entries that train and no other.

    Returns:
        What torch's own function returns; None if this is no such embedding, or has an option that is left to torch.
    """
    packed = marked(weight)
    if packed is None or max_norm is not None or scale_grad_by_freq or sparse:
        return None
    size = len(weight)
    if padding_idx is not None and not -size <= padding_idx < size:
        return None
    return _apply(*packed, weight.detach(), tokens, None if padding_idx is None else padding_idx % size)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, leaf: Tensor, entries: Entries, weight: Tensor, tokens: Tensor, padding: int | None
    ) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.entries, ctx.padding = entries, padding
        return torch.nn.functional.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        return ctx.entries.of_lookup(grads[0], tokens, ctx.padding), None, None, None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Lookup.apply
