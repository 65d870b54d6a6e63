"""Layers as `normtune.fast.layer` has them, with what lies between their products in C++.

Attention of a head stays in the processor's caches, and dropout, the sum that follows and its normalisation are one
pass (``cpp``). No probability and no mask is kept for the backward pass: they are computed again, masks from
their seeds. Dropout has torch's rates to within 2**-32, and other draws than the fast generator's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normtune.fast.kernels import kernels
from normtune.fast.layer import Forward, Layer, NormValues
from normtune.fast.stack import Stack
from normtune.fast.unpadded import Packing
from normtune.modes import unwatched


class CompiledLayer(Layer):
    """One layer as one operation, in C++ where its normalisations have one weight each for the whole batch."""

    @unwatched
    def __call__(self, rows: Tensor, packing: Packing, stack: Stack | None = None) -> Tensor:
        """As `Layer`; the rows have no padding."""
        if stack is not None or self.observe is not None or packing.padding:
            return Layer.__call__(self, rows, packing, stack)
        return _apply(rows, *self.norm_values, self, packing.starts)

    @unwatched
    def before_last_norm(self, rows: Tensor, packing: Packing) -> Tensor:
        """As `Layer`."""
        if packing.padding:
            return Layer.before_last_norm(self, rows, packing)
        return _forward(self, rows, self.norm_values, packing.starts, deep=False).top


class Mask(NamedTuple):
    """A mask of dropout that is never written down.

    Attributes:
        seed: Of its draws.
        threshold: Below which part of 2**32 a draw drops what it is for; 0 drops nothing.
    """

    seed: int
    threshold: int

    @classmethod
    def of(cls, module: nn.Dropout) -> Mask:
        """A mask for `module`, which takes a seed from torch's generator if it drops anything now."""
        if not module.training or module.p <= 0.0:
            return cls(0, 0)
        seed = int(torch.randint(torch.iinfo(torch.int64).max, ()))
        return cls(seed, min(round(module.p * (1 << 32)), (1 << 32) - 1))


class _Layer(torch.autograd.Function):
    """Over (rows, width)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        lower_weight: Tensor,
        lower_bias: Tensor,
        upper_weight: Tensor,
        upper_bias: Tensor,
        layer: CompiledLayer,
        starts: Tensor,
    ) -> Tensor:
        values = lower_weight, lower_bias, upper_weight, upper_bias
        done = _forward(layer, inputs, values, starts, deep=any(ctx.needs_input_grad[:3]))
        ctx.save_for_backward(*done.kept)
        ctx.layer, (ctx.heads, *ctx.masks) = layer, done.ways
        return done.outputs

    @staticmethod
    @once_differentiable
    @unwatched
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, (within, low, up), needs, ops = ctx.layer, ctx.masks, ctx.needs_input_grad, kernels()
        top, up_mean, up_scale, upper_weight, *rest = ctx.saved_tensors
        to_lower, to_down, *to_upper = _back(grads[0], top, up_mean, up_scale, upper_weight, up, needs[3:5])
        if not any(needs[:3]):
            return None, None, None, *to_upper, None, None
        wide, middle, low_mean, low_scale, lower_weight, qkv, sums, starts = rest
        to_wide = layer.down.back(to_down, wide.dtype)
        ops.gelu_back(to_wide, wide)
        to_lower = layer.up.back(to_wide, to_down.dtype).add_(to_lower)
        to_inputs, to_out, *to_norm = _back(to_lower, middle, low_mean, low_scale, lower_weight, low, needs[1:3])
        if not needs[0]:
            return None, *to_norm, *to_upper, None, None
        to_qkv = ops.attend_back(layer.out.back(to_out, qkv.dtype), qkv, sums, starts, *ctx.heads, *within)
        return layer.qkv.back(to_qkv, to_inputs.dtype).add_(to_inputs), *to_norm, *to_upper, None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Layer.apply


def _forward(layer: CompiledLayer, inputs: Tensor, values: NormValues, starts: Tensor, *, deep: bool) -> Forward:
    """The forward pass; if not `deep`, only what the upper normalisation's gradients need is kept."""
    module, own, ops = layer.module, layer.module.attention.self, kernels()
    lower_weight, lower_bias, upper_weight, upper_bias = values
    heads = own.num_attention_heads, own.scaling
    within, low, up = (Mask.of(part.dropout) for part in (own, module.attention.output, module.output))
    qkv = layer.qkv(inputs, layer.qkv.dtype)
    attended, sums = ops.attend(qkv, starts, *heads, *within)
    added, eps = layer.out(attended), module.attention.output.LayerNorm.eps
    middle = _room(added, inputs)
    lower, low_mean, low_scale = ops.join(inputs, added, middle, lower_weight, lower_bias, eps, *low)
    wide = layer.up(lower, layer.up.dtype)
    added, eps = layer.down(ops.gelu(wide)), module.output.LayerNorm.eps
    top = _room(added, lower)
    outputs, up_mean, up_scale = ops.join(lower, added, top, upper_weight, upper_bias, eps, *up)
    kept = [top, up_mean, up_scale, upper_weight]
    if deep:
        kept += [wide, middle, low_mean, low_scale, lower_weight, qkv, sums, starts]
    return Forward(outputs, top, kept, (heads, within, low, up))


def _room(added: Tensor, residual: Tensor) -> Tensor:
    """Where the sum of `residual` and `added` is written: over the latter, if it is as exact."""
    return added if added.dtype == residual.dtype else torch.empty_like(residual)


def _back(
    gradient: Tensor,
    joined: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    mask: Mask,
    needs: tuple[bool, bool],
) -> tuple[Any, ...]:
    """The gradients of what was added, of what was dropped before it was, and of a normalisation's weight and bias."""
    to_joined, to_values, *to_norm = kernels().join_back(
        gradient.contiguous(), joined, mean, scale, weight, *mask, any(needs)
    )
    own = [found if needed else None for found, needed in zip(to_norm, needs, strict=True)]
    return to_joined, to_values if mask.threshold else to_joined, *own
