"""One layer of a BERT-like encoder as one operation with a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize
from transformers.activations import GELUActivation

from normtune.config import Products
from normtune.fast.dropout import Rate, draw_bits, dropped
from normtune.fast.linear import prefers_onednn, product
from normtune.fast.modules import is_hooked, is_plain
from normtune.fast.unpadded import LengthGroup, Unpadded
from normtune.modes import unwatched

#: The parts of a layer that may train.
NORMS = ("attention.output.LayerNorm.", "output.LayerNorm.")


def fits(layer: Any) -> bool:
    """Whether `Layer` can replace this layer of a BERT-like encoder: only its norms train, and it is unchanged."""
    return (
        is_plain(layer)
        and type(layer.intermediate.intermediate_act_fn) is GELUActivation
        and not is_hooked(layer.intermediate.intermediate_act_fn)
        and all(
            value.device.type == "cpu"
            and value.dtype == layer.output.dense.weight.dtype in {torch.float32, torch.float64}
            and (name.startswith(NORMS) or not value.requires_grad)
            for name, value in layer.named_parameters()
        )
        and not any(parametrize.is_parametrized(m) for m in layer.modules() if not isinstance(m, nn.LayerNorm))
    )


#: Rows that oneDNN lays a weight out for; from a few hundred to some thousands it makes no difference.
_ROWS = 1024


class FrozenLinear:
    """One frozen linear layer, or several over the same inputs whose outputs lie side by side.

    oneDNN by itself lays a weight out anew in every product. Here it does so once for each direction, at its first use;
    the products are the same to the bit. Where oneDNN is not used, the weight stays as it is.

    Args:
        layers: The layers, of one dtype. Their weights are read now and when a direction is first used.
        products: ``bfloat16`` rounds inputs, weights and outputs of float32 layers.
    """

    def __init__(self, layers: Sequence[nn.Linear], products: Products = "float32") -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [
            weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
            for layer, weight in zip(layers, weights, strict=True)
        ]
        self._weight = weights[0] if len(layers) == 1 else torch.cat(weights)
        self._bias = biases[0] if len(layers) == 1 else torch.cat(biases)
        own = self._weight.dtype
        self._dtype = torch.bfloat16 if products == "bfloat16" and own == torch.float32 else own
        self._onednn = self._weight.device.type == "cpu" and own == torch.float32 and prefers_onednn()
        if self._dtype == torch.bfloat16:  # oneDNN refuses it where it would emulate it
            self._onednn = self._onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        self._laid_out: dict[bool, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs, of shape (rows, outputs), for `inputs` of shape (rows, inputs)."""
        return self._product(inputs, back=False)

    def back(self, gradient: Tensor) -> Tensor:
        """The inputs' gradient, of shape (rows, inputs), from the outputs', of shape (rows, outputs)."""
        return self._product(gradient, back=True)

    def _product(self, rows: Tensor, *, back: bool) -> Tensor:
        if back not in self._laid_out:
            self._laid_out[back] = self._lay_out(back=back)
        weight, bias = self._laid_out[back]
        return product(rows.to(self._dtype), weight, bias, self._onednn).to(rows.dtype)

    def _lay_out(self, *, back: bool) -> tuple[Tensor, Tensor | None]:
        weight = (self._weight.t() if back else self._weight).to(self._dtype)
        # Inference mode may be on now, but trainings use this tensor too.
        with torch.inference_mode(False):
            if self._onednn:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
            return weight, None if back else self._bias.to(self._dtype)


@dataclass(frozen=True)
class Heads:
    """How attention is computed.

    Attributes:
        count: Number of heads.
        scale: Factor of the scores.
        rate: Dropout rate of the probabilities, or None.
    """

    count: int
    scale: float
    rate: Rate | None


@dataclass(frozen=True)
class Layer:
    """One layer as one operation.

    Attributes:
        module: torch's layer, which holds the normalisations and says whether dropout is on.
        qkv: Queries, keys and values.
        out: The linear layer after attention.
        up: The first half of the feed-forward block.
        down: The second half.
    """

    module: Any
    qkv: FrozenLinear
    out: FrozenLinear
    up: FrozenLinear
    down: FrozenLinear

    @classmethod
    def of(cls, module: Any, products: Products = "float32") -> Self:
        """The layer with weights as they are now; `products` is as in `FrozenLinear`."""
        own = module.attention.self
        qkv = FrozenLinear([own.query, own.key, own.value], products)
        rest = module.attention.output, module.intermediate, module.output
        return cls(module, qkv, *(FrozenLinear([part.dense], products) for part in rest))

    @unwatched
    def __call__(self, rows: Tensor, batch: Unpadded) -> Tensor:
        """Outputs for `rows`, both of shape (rows, width); `batch` says where the rows lie."""
        return _apply(rows, self, batch, *self.norm_values)

    @unwatched
    def before_last_norm(self, rows: Tensor, batch: Unpadded) -> Tensor:
        """The last normalisation's inputs, of shape (rows, width), without a gradient."""
        _, (top, *_) = _forward(self, rows, batch, self.norm_values, deep=False)
        assert top is not None
        return top

    @property
    def norm_values(self) -> Sequence[Tensor]:
        """Weight and bias of the lower normalisation, and of the upper one."""
        lower, upper = self.module.attention.output.LayerNorm, self.module.output.LayerNorm
        return lower.weight, lower.bias, upper.weight, upper.bias

    @property
    def heads(self) -> Heads:
        """How attention is computed, with the current dropout."""
        own = self.module.attention.self
        return Heads(int(own.num_attention_heads), float(own.scaling), _rate(own.dropout))

    @property
    def rates(self) -> tuple[Rate | None, Rate | None]:
        """The current dropout rates before the lower and the upper normalisation."""
        return _rate(self.module.attention.output.dropout), _rate(self.module.output.dropout)


def _rate(module: nn.Dropout) -> Rate | None:
    """The current rate of `module`, or None where it drops nothing."""
    return Rate.of(module.p) if module.training and module.p > 0.0 else None


class _Layer(torch.autograd.Function):
    """A `Layer` over inputs of shape (rows, width); `values` are its `norm_values`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: Layer, batch: Unpadded, *values: Tensor) -> Tensor:
        ctx.layer, ctx.batch, ctx.heads, ctx.rates = layer, batch, layer.heads, layer.rates
        to_inputs, _, _, to_weight, to_bias, *_ = ctx.needs_input_grad
        outputs, kept = _forward(layer, inputs, batch, values, deep=to_inputs or to_weight or to_bias)
        ctx.save_for_backward(*kept)
        return outputs

    @staticmethod
    @once_differentiable
    @unwatched
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, (low_rate, up_rate) = ctx.layer, ctx.rates
        to_inputs, _, _, *needs = ctx.needs_input_grad
        top, up_mean, up_scale, upper_weight, upper_bias, *rest = ctx.saved_tensors
        upper = (top, up_mean, up_scale, upper_weight, upper_bias)
        to_top, *to_upper = _norm_back(grads[0], *upper, [bool(rest), *needs[2:]])
        if not rest:
            return None, None, None, None, None, *to_upper
        up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits, *kept = rest
        to_wide = layer.down.back(dropped(to_top, up_bits, up_rate))
        torch.ops.aten.gelu_backward.grad_input(to_wide, wide, grad_input=to_wide)
        to_lower = layer.up.back(to_wide).add_(to_top)
        lower = (middle, low_mean, low_scale, lower_weight, lower_bias)
        to_middle, *to_norm = _norm_back(to_lower, *lower, [to_inputs, *needs[:2]])
        if not to_inputs:
            return None, None, None, *to_norm, *to_upper
        to_joined = layer.out.back(dropped(to_middle, low_bits, low_rate))
        to_qkv = attend_back(to_joined, ctx.batch, ctx.heads, kept)
        return layer.qkv.back(to_qkv).add_(to_middle), None, None, *to_norm, *to_upper


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Layer.apply


def _forward(
    layer: Layer, inputs: Tensor, batch: Unpadded, values: Sequence[Tensor], *, deep: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The outputs, of shape (rows, width), and what the backward pass needs.

    The upper normalisation's inputs come first; unless `deep`, only what its own gradients need is kept.
    """
    module, (low_rate, up_rate) = layer.module, layer.rates
    lower_weight, lower_bias, upper_weight, upper_bias = values
    joined, attention = attend(layer.qkv(inputs), batch, layer.heads)
    middle, low_bits = _joined(inputs, layer.out(joined), low_rate)
    low_eps, up_eps, width = module.attention.output.LayerNorm.eps, module.output.LayerNorm.eps, inputs.shape[1:]
    lower, low_mean, low_scale = torch.native_layer_norm(middle, width, lower_weight, lower_bias, low_eps)
    wide = layer.up(lower)
    top, up_bits = _joined(lower, layer.down(torch.nn.functional.gelu(wide)), up_rate)
    outputs, up_mean, up_scale = torch.native_layer_norm(top, width, upper_weight, upper_bias, up_eps)
    kept: list[Tensor | None] = [top, up_mean, up_scale, upper_weight, upper_bias]
    if deep:
        kept += [up_bits, wide, middle, low_mean, low_scale, lower_weight, lower_bias, low_bits, *attention]
    return outputs, kept


def _joined(residual: Tensor, values: Tensor, rate: Rate | None) -> tuple[Tensor, Tensor | None]:
    """`residual` plus `values` after dropout, and the random bits; `values` are overwritten."""
    if rate is None:
        return values.add_(residual), None
    bits = draw_bits(values.shape)
    kept = torch.ge(bits, rate.threshold, out=torch.empty_like(values))
    return torch.addcmul(residual, kept, values, value=rate.scale, out=values), bits


def _norm_back(
    gradient: Tensor, inputs: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, needs: Sequence[bool]
) -> tuple[Any, ...]:
    """The needed gradients of a normalisation's inputs, weight and bias, from the gradient of its outputs."""
    if not any(needs):
        return None, None, None
    found: tuple[Any, ...] = torch.ops.aten.native_layer_norm_backward(
        gradient, inputs, inputs.shape[1:], mean, scale, weight, bias, list(needs)
    )
    return found


def attend(qkv: Tensor, batch: Unpadded, how: Heads) -> tuple[Tensor, list[Tensor | None]]:
    """Attention's outputs, (rows, width), for queries, keys and values side by side, (rows, three widths).

    The list is for `attend_back`, three items for each group: its heads, of shape (3, texts times heads, room, width of
    a head), the probabilities, of shape (texts times heads, room, room), and the random bits of their dropout.
    """
    joined = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    kept: list[Tensor | None] = []
    for group in batch.groups:
        heads = group.spread(qkv, 3, how.count)
        query, key, value = heads
        scores = _scaled(torch.bmm(query, key.mT), group, how)
        chances = scores.softmax(-1)
        bits = None if how.rate is None else draw_bits(chances.shape)
        group.gather(torch.bmm(dropped(chances, bits, how.rate), value), 1, joined)
        kept += heads, chances, bits
    return joined, kept


def attend_back(gradient: Tensor, batch: Unpadded, how: Heads, kept: Sequence[Any]) -> Tensor:
    """The gradient of queries, keys and values side by side, of shape (rows, three widths)."""
    to_qkv = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    for group, (heads, chances, bits) in zip(batch.groups, zip(*[iter(kept)] * 3, strict=True), strict=True):
        query, key, value = heads
        seen = group.spread(gradient, 1, how.count)[0]
        result = torch.empty_like(heads)
        torch.bmm(dropped(chances, bits, how.rate).mT, seen, out=result[2])
        to_scores = dropped(torch.bmm(seen, value.mT), bits, how.rate)
        torch.ops.aten._softmax_backward_data.out(to_scores, chances, -1, chances.dtype, grad_input=to_scores)
        to_scores.mul_(how.scale)
        torch.bmm(to_scores, key, out=result[0])
        torch.bmm(to_scores.mT, query, out=result[1])
        group.gather(result, 3, to_qkv)
    return to_qkv


def _scaled(scores: Tensor, group: LengthGroup, how: Heads) -> Tensor:
    """`scores` times the scale plus the group's mask, in place; no text attends to padding."""
    if group.mask is None:
        return scores.mul_(how.scale)
    each = scores.view(-1, how.count, group.room, group.room)
    torch.add(group.mask, each, alpha=how.scale, out=each)
    return scores
