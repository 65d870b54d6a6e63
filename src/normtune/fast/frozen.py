"""Frozen linear layers, prepared once for products in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normtune.config import Products
from normtune.fast.linear import prefers_onednn, product

#: Rows that oneDNN is told to expect when it lays a weight out; from a few hundred to some thousands it makes no odds.
_ROWS = 1024


class Frozen:
    """One linear layer, or several over the same inputs whose outputs lie side by side.

    oneDNN lays a weight out anew in every product. Here that is done once for each direction, when it is first used;
    the products are the same to the bit. Elsewhere the weight is used as it is.

    Args:
        layers: The layers, of one dtype. Their weights are read now and when a direction is first used.
        products: ``bfloat16`` rounds inputs, weights and outputs of float32 layers (`normtune.fast.bfloat16`).
    """

    def __init__(self, layers: Sequence[nn.Linear], products: Products = "float32") -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [_bias(layer) for layer in layers]
        self._weight = weights[0] if len(layers) == 1 else torch.cat(weights)
        self._bias = biases[0] if len(layers) == 1 else torch.cat(biases)
        own = self._weight.dtype
        self._dtype = torch.bfloat16 if products == "bfloat16" and own == torch.float32 else own
        self._onednn = self._weight.device.type == "cpu" and own == torch.float32 and prefers_onednn()
        if self._dtype == torch.bfloat16:  # which oneDNN refuses where it would have to emulate it
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
        # Not a tensor of the inference mode that may be on now: trainings use it too.
        with torch.inference_mode(False):
            if self._onednn:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
            return weight, None if back else self._bias.to(self._dtype)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
