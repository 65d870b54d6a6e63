"""Attention over the short sequences of classification, written out, so that dropout in it costs little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normtune.fast.dropout import Rate, draw_bits, dropout, dropped


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    p: float = 0.0,
) -> Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` computes, with dropout from the fast generator.

    Args:
        query: Of shape (batch, heads, queries, width).
        key: Of shape (batch, heads, keys, width).
        value: Of shape (batch, heads, keys, width).
        mask: True where a query may look at a key, or a number to add to each score; broadcast to (batch, heads,
            queries, keys).
        scale: What scores are multiplied by; one over the root of the width by default.
        p: Rate of dropout of the attention's probabilities, below 1.

    Returns:
        Of shape (batch, heads, queries, width).
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None and mask.requires_grad:  # a bias of relative positions that trains
        return dropout((query @ key.mT * factor + mask).softmax(-1), p) @ value
    rate = Rate.of(p) if p > 0.0 else None
    flat = (part.flatten(0, 1) for part in (query, key, value))
    result = _apply(*flat, _added(mask, query), query.shape[1], factor, rate)
    return result.view(*query.shape[:-1], value.shape[-1])


def causal(query: Tensor, key: Tensor) -> Tensor:
    """The mask under which each query looks at no later key."""
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()


def _added(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """`mask` as numbers to add to scores of shape (batch, heads, queries, keys)."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -torch.inf)
    return mask.to(query.dtype).reshape((1,) * (4 - mask.ndim) + mask.shape)


class _Attention(torch.autograd.Function):
    """Over (batch times heads, tokens, width); keeps the probabilities and the random bits."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        added: Tensor | None,
        heads: int,
        scale: float,
        rate: Rate | None,
    ) -> Tensor:
        scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
        if added is not None:
            scores.view(-1, heads, *scores.shape[1:]).add_(added)
        chances = scores.softmax(-1)
        bits = None if rate is None else draw_bits(chances.shape)
        ctx.save_for_backward(query, key, value, chances, bits)
        ctx.scale, ctx.rate = scale, rate
        return torch.bmm(dropped(chances, bits, rate), value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, chances, bits = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_query = to_key = to_value = None
        if ctx.needs_input_grad[2]:
            to_value = torch.bmm(dropped(chances, bits, ctx.rate).transpose(1, 2), grad)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            to_chances = dropped(torch.bmm(grad, value.transpose(1, 2)), bits, ctx.rate)
            to_scores = softmax_back(to_chances, chances).mul_(ctx.scale)
            to_query = torch.bmm(to_scores, key)
            to_key = torch.bmm(to_scores.transpose(1, 2), query)
        return to_query, to_key, to_value, None, None, None, None


def softmax_back(gradient: Tensor, chances: Tensor) -> Tensor:
    """The gradient to scores from that to their softmax over the last dimension, which it is written over."""
    into: Tensor = torch.ops.aten._softmax_backward_data.out(gradient, chances, -1, chances.dtype, grad_input=gradient)
    return into


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Attention.apply
