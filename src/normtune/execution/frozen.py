"""Frozen linear layers, prepared once for products in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normtune.execution.linear import linear_backend, product

#: Rows that oneDNN is told to expect when it lays a weight out; a few hundred to some thousands are computed alike.
_ROWS = 1024


class Frozen:
    """One linear layer, or several over the same inputs whose outputs lie side by side.

    oneDNN lays a weight out anew in every product. Here that is done once for each direction, which leaves every bit of
    a product as it is. Elsewhere the weight is used as it lies.

    Args:
        layers: The layers, of one dtype; what they hold then is what is multiplied with from then on.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [_bias(layer) for layer in layers]
        weight = weights[0] if len(layers) == 1 else torch.cat(weights)
        self._bias = biases[0] if len(layers) == 1 else torch.cat(biases)
        self._onednn = weight.device.type == "cpu" and weight.dtype == torch.float32 and linear_backend() == "onednn"
        self._weight = _laid_out(weight) if self._onednn else weight
        # Laid out for the way back when that is first gone: an evaluation does without.
        self._plain, self._back = layers, None if self._onednn else weight

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs, of shape (rows, outputs), for `inputs` of shape (rows, inputs)."""
        return product(inputs, self._weight, self._bias, self._onednn)

    def back(self, gradient: Tensor) -> Tensor:
        """The inputs' gradient, of shape (rows, inputs), from the outputs', of shape (rows, outputs)."""
        if not self._onednn:
            return gradient @ self._weight
        if self._back is None:
            self._back = _laid_out(torch.cat([layer.weight.detach() for layer in self._plain]).t().contiguous())
        return product(gradient, self._back, None, True)


def _laid_out(weight: Tensor) -> Tensor:
    laid: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return laid


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
