"""One layer of a BERT-like encoder as one operation with a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize
from transformers.activations import GELUActivation

from normtune.config import Products
from normtune.fast.attention import Heads, attend, attend_back, attended
from normtune.fast.dropout import Rate, draw_bits, dropped
from normtune.fast.frozen import Frozen
from normtune.fast.modules import is_plain
from normtune.fast.unpadded import Unpadded
from normtune.modes import unwatched

#: The parts of a layer that may train.
NORMS = ("attention.output.LayerNorm.", "output.LayerNorm.")


def fits(layer: Any) -> bool:
    """Whether `Layer` can stand for this layer of a BERT-like encoder: only its norms train, and it is unchanged."""
    return (
        is_plain(layer)
        and isinstance(layer.intermediate.intermediate_act_fn, GELUActivation)
        and all(
            value.device.type == "cpu"
            and value.dtype == layer.output.dense.weight.dtype in {torch.float32, torch.float64}
            and (name.startswith(NORMS) or not value.requires_grad)
            for name, value in layer.named_parameters()
        )
        and not any(parametrize.is_parametrized(m) for m in layer.modules() if not isinstance(m, nn.LayerNorm))
    )


#: Weight and bias of a layer's lower normalisation, and of its upper one.
NormValues = Sequence[Tensor]


class Forward(NamedTuple):
    """A layer's forward pass.

    Attributes:
        outputs: Of shape (rows, width).
        top: What the upper normalisation was given, of the same shape.
        kept: What the backward pass needs.
        heads: How attention was computed.
        rates: Of dropout before the lower and the upper normalisation.
    """

    outputs: Tensor
    top: Tensor
    kept: Sequence[Tensor | None]
    heads: Heads
    rates: tuple[Rate | None, Rate | None]


@dataclass(frozen=True)
class Layer:
    """One layer as one operation.

    Attributes:
        module: torch's layer, which holds the normalisations and says whether dropout is on.
        qkv: Queries, keys and values.
        out: The linear layer after attention.
        up: The first half of the feed-forward block.
        down: The second half.
        low: Whether only the inputs are kept, and the rest is computed again in the backward pass.
    """

    module: Any
    qkv: Frozen
    out: Frozen
    up: Frozen
    down: Frozen
    low: bool = False

    @classmethod
    def of(cls, module: Any, products: Products = "float32", low: bool = False) -> Self:
        """The layer with weights as they are now; `products` is as in `Frozen`."""
        own = module.attention.self
        qkv = Frozen([own.query, own.key, own.value], products)
        out, up, down = (
            Frozen([part.dense], products) for part in (module.attention.output, module.intermediate, module.output)
        )
        return cls(module, qkv, out, up, down, low)

    @unwatched
    def __call__(self, rows: Tensor, batch: Unpadded) -> Tensor:
        """Outputs of shape (rows, width) for such inputs, which lie as `batch` says."""
        return _apply(rows, *self.norm_values, self, batch)

    @unwatched
    def before_last_norm(self, rows: Tensor, batch: Unpadded) -> Tensor:
        """The last normalisation's inputs, of shape (rows, width), without a gradient."""
        return _forward(self, rows, self.norm_values, batch, deep=False).top

    @property
    def norm_values(self) -> NormValues:
        """Weight and bias of the lower normalisation, and of the upper one."""
        lower, upper = self.module.attention.output.LayerNorm, self.module.output.LayerNorm
        return lower.weight, lower.bias, upper.weight, upper.bias

    @property
    def heads(self) -> Heads:
        """How attention is computed now."""
        own = self.module.attention.self
        return Heads(int(own.num_attention_heads), float(own.scaling), _rate(own.dropout))


def _rate(module: nn.Dropout) -> Rate | None:
    """The rate at which `module` drops out now."""
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
        batch: Unpadded,
    ) -> Tensor:
        values, deep = (lower_weight, lower_bias, upper_weight, upper_bias), any(ctx.needs_input_grad[:3])
        ctx.state = torch.get_rng_state() if layer.low and deep else None
        done = _forward(layer, inputs, values, batch, deep=deep)
        ctx.save_for_backward(*(done.kept if ctx.state is None else (inputs, *values)))
        ctx.layer, ctx.batch, ctx.heads, ctx.rates = layer, batch, done.heads, done.rates
        return done.outputs

    @staticmethod
    @once_differentiable
    @unwatched
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, (low_rate, up_rate), needs, saved = ctx.layer, ctx.rates, ctx.needs_input_grad, ctx.saved_tensors
        if ctx.state is not None:
            saved = _again(layer, saved, ctx.batch, ctx.state)
        top, up_mean, up_scale, upper_weight, upper_bias, *rest = saved
        deep = any(needs[:3])
        upper = (top, up_mean, up_scale, upper_weight, upper_bias)
        to_top, *to_upper = _norm_back(grads[0], *upper, [deep, *needs[3:5]])
        if not deep:
            return None, None, None, *to_upper, None, None
        up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits, *kept = rest
        to_wide = layer.down.back(dropped(to_top, up_bits, up_rate))
        torch.ops.aten.gelu_backward.grad_input(to_wide, wide, grad_input=to_wide)
        to_lower = layer.up.back(to_wide).add_(to_top)
        to_middle, *to_norm = _norm_back(to_lower, middle, low_mean, low_scale, lower_weight, lower_bias, needs[:3])
        if not needs[0]:
            return None, *to_norm, *to_upper, None, None
        to_joined = layer.out.back(dropped(to_middle, low_bits, low_rate))
        to_qkv = attend_back(to_joined, ctx.batch, ctx.heads, attended(kept))
        return layer.qkv.back(to_qkv).add_(to_middle), *to_norm, *to_upper, None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Layer.apply


def _forward(layer: Layer, inputs: Tensor, values: NormValues, batch: Unpadded, *, deep: bool) -> Forward:
    """The forward pass; if not `deep`, only what the upper normalisation's gradients need is kept."""
    module, heads, (lower_weight, lower_bias, upper_weight, upper_bias) = layer.module, layer.heads, values
    joined, attention = attend(layer.qkv(inputs), batch, heads)
    low_rate, up_rate = _rate(module.attention.output.dropout), _rate(module.output.dropout)
    middle, low_bits = _joined(inputs, layer.out(joined), low_rate)
    low_eps, up_eps, width = module.attention.output.LayerNorm.eps, module.output.LayerNorm.eps, inputs.shape[1:]
    lower, low_mean, low_scale = torch.native_layer_norm(middle, width, lower_weight, lower_bias, low_eps)
    wide = layer.up(lower)
    top, up_bits = _joined(lower, layer.down(torch.nn.functional.gelu(wide)), up_rate)
    outputs, up_mean, up_scale = torch.native_layer_norm(top, width, upper_weight, upper_bias, up_eps)
    kept: list[Tensor | None] = [top, up_mean, up_scale, upper_weight, upper_bias]
    if deep:
        kept += [up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits]
        kept += [tensor for group in attention for tensor in group.tensors]
    return Forward(outputs, top, kept, heads, (low_rate, up_rate))


def _again(layer: Layer, given: Sequence[Tensor], batch: Unpadded, state: Tensor) -> Sequence[Tensor | None]:
    """What the forward pass kept of `given`, inputs and norms' values, computed again with the same dropout."""
    inputs, *values = given
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        return _forward(layer, inputs, values, batch, deep=True).kept


def _joined(residual: Tensor, values: Tensor, rate: Rate | None) -> tuple[Tensor, Tensor | None]:
    """`residual` plus `values`, of which some are dropped, and the random bits; `values` are overwritten."""
    if rate is None:
        return values.add_(residual), None
    bits = draw_bits(values.shape)
    kept = torch.ge(bits, rate.threshold, out=torch.empty_like(values))
    return torch.addcmul(residual, kept, values, value=rate.scale, out=values), bits


def _norm_back(
    gradient: Tensor, inputs: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, needs: Sequence[bool]
) -> tuple[Any, ...]:
    """The gradients of a normalisation's inputs, weight and bias that are needed, from that of its outputs."""
    if not any(needs):
        return None, None, None
    found: tuple[Any, ...] = torch.ops.aten.native_layer_norm_backward(
        gradient, inputs, inputs.shape[1:], mean, scale, weight, bias, list(needs)
    )
    return found
