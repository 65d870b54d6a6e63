"""The encoder of BERT-like families with each layer as one operation, of which only normalisations train.

torch's layers are dozens of operations, each of which reads and writes memory and keeps what any gradient could need.
Here a layer is one function with a backward pass of its own: queries, keys and values are one product over weights that
were laid out once (`normtune.execution.frozen`), dropout is joined to the sum that follows it, and only what the
gradients of normalisations and of the layer's input need is kept; of a layer whose input has no gradient that is the
last normalisation's input. Of the last layer the first token alone is computed (`normtune.execution.first_token`).

The numbers are those of torch's layers but for rounding. With dropout on, the rates and the places that matter to the
output are the same, but fewer masks are drawn, and in another order; so a protocol names it
(`normtune.config.Protocol.layers`).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.activations import GELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from normtune.config import Products
from normtune.errors import ConfigError
from normtune.execution.dropout import Rate, draw_bits, dropped
from normtune.execution.first_token import FAMILIES, last_layer, reads_first_token
from normtune.execution.frozen import Frozen
from normtune.execution.grouped import Heads, attend, attend_back, attended
from normtune.execution.norms import normalised, normalised_back
from normtune.execution.packing import Packing
from normtune.execution.stack import Stack

#: The parts of a layer that may train.
NORMS = ("attention.output.LayerNorm.", "output.LayerNorm.")


@dataclass(frozen=True)
class Normalised:
    """What the gradients of one normalisation's weight and bias are made of, in a backward pass.

    Attributes:
        norm: The normalisation.
        grad: The gradient of its outputs, of shape (rows, width).
        inputs: Of the same shape.
        mean: Of each row, of shape (rows, 1).
        scale: The reciprocal deviation of each row, of shape (rows, 1).
        packing: Which rows are each example's.
    """

    norm: nn.LayerNorm
    grad: Tensor
    inputs: Tensor
    mean: Tensor
    scale: Tensor
    packing: Packing


#: Told of each normalisation that trains, in the backward pass, in place of which its gradients are not computed.
Observer = Callable[[Normalised], None]


@contextmanager
def fused(
    model: PreTrainedModel,
    products: Products = "float32",
    layers: Mapping[nn.Module, Layer] | None = None,
    stack: Stack | None = None,
) -> Iterator[None]:
    """Within this context the encoder of `model` is computed as this module says.

    A layer in which anything but normalisations trains, and any layer on another device than the CPU or in another
    dtype than float32 or float64, is torch's own. Frozen weights must not change within the context.

    Args:
        model: The model.
        products: What the fused layers' products are computed in, except in inference mode
            (`normtune.execution.lowered`).
        layers: What `fusable` gave for this model, where weights that were laid out once serve several contexts.
        stack: Whose candidates share the model, if any do.

    Raises:
        ConfigError: If the family is built in another way.
    """
    config = model.config
    keep_freed()
    if not reads_first_token(config):
        known = ", ".join(FAMILIES)
        raise ConfigError(f"Fused layers are known for {known}, not for {config.model_type!r}; leave them out.")
    encoder: Any = model.base_model.encoder
    encoder.forward = partial(_encode, encoder, fusable(model, products) if layers is None else layers, stack)
    try:
        yield
    finally:
        del encoder.forward


def fusable(
    model: PreTrainedModel, products: Products = "float32", observe: Observer | None = None
) -> dict[nn.Module, Layer]:
    """The layers of a BERT-like `model` that fit, as fused ones, with weights as they are now.

    Args:
        model: The model.
        products: As for `fused`.
        observe: Told of what the gradients of normalisations are made of; these are then not computed.
    """
    encoder: Any = model.base_model.encoder
    return {layer: Layer.of(layer, products, observe) for layer in encoder.layer if fits(layer)}


@cache
def keep_freed() -> None:
    """Let glibc keep what is freed for what is allocated next, where it would give it back and be given it anew.

    Memory fresh from the system is cleared page by page, which here costs a tenth of a step of short texts.
    """
    if platform.libc_ver()[0] == "glibc":
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT)


#: glibc's numbers for the sizes from which a block is mapped by itself, and from which free memory is given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _KEPT = -3, -1, 1 << 30


def fits(layer: Any) -> bool:
    """Whether `Layer` can stand for this layer of a BERT-like encoder."""
    return (
        isinstance(layer.intermediate.intermediate_act_fn, GELUActivation)
        and layer.chunk_size_feed_forward == 0
        and all(
            value.device.type == "cpu"
            and value.dtype == layer.output.dense.weight.dtype in {torch.float32, torch.float64}
            and (name.startswith(NORMS) or not value.requires_grad)
            for name, value in layer.named_parameters()
        )
        and not any(parametrize.is_parametrized(m) for m in layer.modules() if not isinstance(m, nn.LayerNorm))
    )


def _encode(
    encoder: Any,
    layers: Mapping[nn.Module, Layer],
    stack: Stack | None,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> BaseModelOutputWithPastAndCrossAttentions:
    """The encoder's forward pass; the last hidden state is that of the first token, of shape (batch, 1, width)."""
    mask = None if attention_mask is None else _added(attention_mask, hidden.dtype)
    own = None if mask is None else mask[:, 0, 0] == 0.0
    packing = Packing.of(hidden, own, () if stack is None else stack.sizes)
    for number, layer in enumerate(encoder.layer):
        if "forward" in vars(layer):  # what a frozen prefix leaves of its layer
            hidden = layer.forward(packing.pad(hidden), attention_mask)
        elif number == len(encoder.layer) - 1:
            hidden = last_layer(layer, packing.pad(hidden), mask)
        elif layer in layers:
            hidden = layers[layer](packing.pack(hidden), packing, stack)
        else:
            hidden = layer(packing.pad(hidden), attention_mask)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=packing.pad(hidden))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what each query may look at, all alike, as numbers to add to scores: of shape (batch, 1, 1, keys)."""
    alike = mask[:, :, :1]
    if alike.dtype != torch.bool:
        return alike.to(dtype)
    return torch.zeros(alike.shape, dtype=dtype, device=mask.device).masked_fill_(~alike, -torch.inf)


@dataclass(frozen=True)
class Layer:
    """One layer as one operation.

    Attributes:
        module: torch's layer, which holds the normalisations and says whether dropout is on.
        qkv: Queries, keys and values.
        out: What follows attention.
        up: The first half of the feed-forward block.
        down: The second half.
        observe: Told of what the gradients of its normalisations are made of; these are then not computed.
    """

    module: Any
    qkv: Frozen
    out: Frozen
    up: Frozen
    down: Frozen
    observe: Observer | None = None

    @classmethod
    def of(cls, module: Any, products: Products = "float32", observe: Observer | None = None) -> Layer:
        """The layer with weights as they are now."""
        own = module.attention.self
        return cls(
            module,
            Frozen([own.query, own.key, own.value], products),
            Frozen([module.attention.output.dense], products),
            Frozen([module.intermediate.dense], products),
            Frozen([module.output.dense], products),
            observe,
        )

    def __call__(self, rows: Tensor, packing: Packing, stack: Stack | None = None) -> Tensor:
        """Outputs of shape (rows, width) for such inputs, which lie as `packing` says; normalised as `stack` says."""
        norms = (self.module.attention.output.LayerNorm, self.module.output.LayerNorm)
        values = [(n.weight, n.bias) if stack is None else stack.values(n) for n in norms]
        return _apply(rows, *values[0], *values[1], self, packing)

    @property
    def heads(self) -> Heads:
        """How attention is computed now."""
        own = self.module.attention.self
        return Heads(int(own.num_attention_heads), float(own.scaling), self.drop(own.dropout))

    def drop(self, module: nn.Dropout) -> Rate | None:
        """The rate at which `module`, one of this layer's, drops out now."""
        return Rate.of(module.p) if module.training and module.p > 0.0 else None


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
        layer: Layer,
        packing: Packing,
    ) -> Tensor:
        module, heads, deep = layer.module, layer.heads, any(ctx.needs_input_grad[:3])
        joined, attention = attend(layer.qkv(inputs), packing, heads)
        low_rate, up_rate = layer.drop(module.attention.output.dropout), layer.drop(module.output.dropout)
        middle, low_bits = _joined(inputs, layer.out(joined), low_rate)
        low_eps, up_eps = module.attention.output.LayerNorm.eps, module.output.LayerNorm.eps
        lower, low_mean, low_scale = normalised(middle, lower_weight, lower_bias, low_eps, packing.shares)
        wide = layer.up(lower)
        top, up_bits = _joined(lower, layer.down(torch.nn.functional.gelu(wide)), up_rate)
        outputs, up_mean, up_scale = normalised(top, upper_weight, upper_bias, up_eps, packing.shares)
        saved: list[Tensor | None] = [top, up_mean, up_scale, upper_weight, upper_bias]
        if deep:
            saved += [up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits]
            saved += [tensor for group in attention for tensor in group.tensors]
        ctx.save_for_backward(*saved)
        ctx.layer, ctx.packing, ctx.heads, ctx.rates = layer, packing, heads, (low_rate, up_rate)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, (low_rate, up_rate), needs = ctx.layer, ctx.rates, ctx.needs_input_grad
        top, up_mean, up_scale, upper_weight, upper_bias, *rest = ctx.saved_tensors
        deep = any(needs[:3])
        upper = Normalised(layer.module.output.LayerNorm, grads[0], top, up_mean, up_scale, ctx.packing)
        to_top, *to_upper = _normalised_back(upper, layer.observe, upper_weight, upper_bias, [deep, *needs[3:5]])
        if not deep:
            return None, None, None, *to_upper, None, None
        up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits, *kept = rest
        to_wide = layer.down.back(dropped(to_top, up_bits, up_rate))
        torch.ops.aten.gelu_backward.grad_input(to_wide, wide, grad_input=to_wide)
        to_lower = layer.up.back(to_wide).add_(to_top)
        lower = Normalised(layer.module.attention.output.LayerNorm, to_lower, middle, low_mean, low_scale, ctx.packing)
        to_middle, *to_norm = _normalised_back(lower, layer.observe, lower_weight, lower_bias, needs[:3])
        if not needs[0]:
            return None, *to_norm, *to_upper, None, None
        to_joined = layer.out.back(dropped(to_middle, low_bits, low_rate))
        to_qkv = attend_back(to_joined, ctx.packing, ctx.heads, attended(kept))
        return layer.qkv.back(to_qkv).add_(to_middle), *to_norm, *to_upper, None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Layer.apply


def _joined(residual: Tensor, values: Tensor, rate: Rate | None) -> tuple[Tensor, Tensor | None]:
    """`residual` plus `values`, of which some are dropped, and the random bits; `values` are overwritten."""
    if rate is None:
        return values.add_(residual), None
    bits = draw_bits(values.shape)
    kept = torch.ge(bits, rate.threshold, out=torch.empty_like(values))
    return torch.addcmul(residual, kept, values, value=rate.scale, out=values), bits


def _normalised_back(
    of: Normalised, observe: Observer | None, weight: Tensor, bias: Tensor, needs: Sequence[bool]
) -> tuple[Any, ...]:
    """The gradients of inputs, weight and bias that are needed; those of the last two an observer takes over."""
    if observe is not None and any(needs[1:]):
        observe(of)
        needs = [needs[0], False, False]
    if not any(needs):
        return None, None, None
    return normalised_back(of.grad, of.inputs, of.mean, of.scale, weight, bias, needs, of.packing.shares)
