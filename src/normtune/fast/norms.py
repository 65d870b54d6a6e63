"""Normalisation of rows, with one weight and bias for all of them or with those of each candidate for its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def normalised(
    rows: Tensor, weight: Tensor, bias: Tensor, eps: float, shares: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm without a graph.

    Args:
        rows: Of shape (rows, width).
        weight: Of shape (width), or (candidates, width).
        bias: Likewise.
        eps: Added to the variance.
        shares: Of candidates, how many rows belong to each, one after the other.

    Returns:
        The outputs, and mean and reciprocal deviation of each row.
    """
    if weight.ndim == 1:
        outputs, mean, scale = torch.native_layer_norm(rows, rows.shape[1:], weight, bias, eps)
        return outputs, mean, scale
    parts = [
        torch.native_layer_norm(part, part.shape[1:], own_weight, own_bias, eps)
        for part, own_weight, own_bias in zip(rows.split(list(shares)), weight, bias, strict=True)
    ]
    outputs, mean, scale = map(torch.cat, zip(*parts, strict=True))
    return outputs, mean, scale


def normalised_back(
    gradient: Tensor,
    rows: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    needs: Sequence[bool],
    shares: Sequence[int] = (),
) -> tuple[Any, Any, Any]:
    """The gradients of `normalised` to rows, weight and bias, each None where `needs` says that it is not needed.

    Args:
        gradient: That of the outputs.
        rows: As in `normalised`.
        mean: As it was returned.
        scale: Likewise.
        weight: As in `normalised`.
        bias: Likewise.
        needs: For rows, weight and bias whether the gradient is needed.
        shares: As in `normalised`.
    """

    def back(start: Tensor, own: Tensor, *rest: Tensor) -> tuple[Any, Any, Any]:
        found: tuple[Any, Any, Any] = torch.ops.aten.native_layer_norm_backward(
            start, own, own.shape[1:], *rest, list(needs)
        )
        return found

    if weight.ndim == 1:
        return back(gradient, rows, mean, scale, weight, bias)
    split = [values.split(list(shares)) for values in (gradient, rows, mean, scale)]
    to_rows, to_weight, to_bias = zip(*(back(*own) for own in zip(*split, weight, bias, strict=True)), strict=True)
    return (
        torch.cat(to_rows) if needs[0] else None,
        torch.stack(to_weight) if needs[1] else None,
        torch.stack(to_bias) if needs[2] else None,
    )
