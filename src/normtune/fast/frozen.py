"""Frozen linear layers, prepared once for products in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normtune.config import Products
from normtune.fast.linear import linear_backend, product

#: Rows that oneDNN is told to expect when it lays a weight out; a few hundred to some thousands are computed alike.
_ROWS = 1024


class Frozen:
    """One linear layer, or several over the same inputs whose outputs lie side by side.

    oneDNN lays a weight out anew in every product. Here that is done once for each direction, when it is first gone,
    which leaves every bit of a product as it is. Elsewhere the weight is used as it lies.

    Args:
        layers: The layers, of one dtype; what they hold then is what is multiplied with from then on.
        products: ``bfloat16`` rounds inputs, weights and outputs of float32 layers as `normtune.fast.lowered`
            does, except in inference mode.
        inference: The same in inference mode.
    """

    def __init__(
        self, layers: Sequence[nn.Linear], products: Products = "float32", inference: Products = "float32"
    ) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [_bias(layer) for layer in layers]
        self._weight = weights[0] if len(layers) == 1 else torch.cat(weights)
        self._bias = biases[0] if len(layers) == 1 else torch.cat(biases)
        own = self._weight.dtype
        self._dtype, self._inference_dtype = (
            torch.bfloat16 if wanted == "bfloat16" and own == torch.float32 else own for wanted in (products, inference)
        )
        self._onednn = self._weight.device.type == "cpu" and own == torch.float32 and linear_backend() == "onednn"
        self._laid_out: dict[tuple[torch.dtype, bool], tuple[Tensor, Tensor | None]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in now."""
        return self._inference_dtype if torch.is_inference_mode_enabled() else self._dtype

    def __call__(self, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Outputs, of shape (rows, outputs), for `inputs` of shape (rows, inputs), in `dtype` or that of the inputs."""
        return self._product(inputs, self.dtype, back=False).to(dtype or inputs.dtype)

    def back(self, gradient: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The inputs' gradient, (rows, inputs), from the outputs', (rows, outputs), in `dtype` or the latter's."""
        return self._product(gradient, self._dtype, back=True).to(dtype or gradient.dtype)

    def _product(self, rows: Tensor, dtype: torch.dtype, *, back: bool) -> Tensor:
        if (dtype, back) not in self._laid_out:
            self._laid_out[dtype, back] = self._lay_out(dtype, back=back)
        weight, bias = self._laid_out[dtype, back]
        return product(rows.to(dtype), weight, bias, self._laid(dtype))

    def _laid(self, dtype: torch.dtype) -> bool:
        """Whether oneDNN computes products in `dtype`; it refuses bfloat16 where it would have to emulate it."""
        bfloat16 = dtype == torch.bfloat16
        return self._onednn and (not bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))

    def _lay_out(self, dtype: torch.dtype, *, back: bool) -> tuple[Tensor, Tensor | None]:
        weight = (self._weight.t() if back else self._weight).to(dtype)
        # Not a tensor of the inference mode that it may be laid out in: trainings use it too.
        with torch.inference_mode(False):
            if self._laid(dtype):
                weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
            return weight, None if back else self._bias.to(dtype)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
