"""The limit: nothing but the matrix products that training every output LayerNorm cannot do without.

These are, for each layer, the products of the forward pass, and, above the lowest layer, those that carry the gradient
to the layer's input: one for each linear layer and four for attention. Weights' gradients are not among them, nor are
biases, softmax, activations, normalisations, dropout, padding or an optimizer. They run over the same batches, on the
faster of the libraries that we choose from.

Without dropout the lowest layer is computed once for all epochs, and the last one costs next to nothing, since the head
reads its first token alone: `Shape.inner_layers` leaves out both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from harness import now
from torch import Tensor
from transformers import PreTrainedConfig

from normtune.fast.linear import prefers_onednn, product


@dataclass(frozen=True)
class Shape:
    """What decides a model's products."""

    layers: int
    width: int
    heads: int
    inner: int
    input_needs_gradient: bool = False

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """The shape of a BERT with `config`."""
        return cls(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)

    @property
    def inner_layers(self) -> Shape:
        """The layers between the lowest and the last one, whose inputs all need a gradient."""
        return replace(self, layers=self.layers - 2, input_needs_gradient=True)

    @property
    def backwards(self) -> int:
        """How many layers carry the gradient to their input."""
        return self.layers - (not self.input_needs_gradient)


class Products:
    """The products of one training step.

    Args:
        shape: The model's.
        device: Where they run.
        dtype: Of the products.
    """

    def __init__(self, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.shape = shape
        self._onednn = device == "cpu" and prefers_onednn()
        width, inner = shape.width, shape.inner
        sizes = [(width, width)] * 4 + [(inner, width), (width, inner)]
        make: Callable[..., Tensor] = torch.randn
        self._weights = [make(size, device=device, dtype=dtype) for size in sizes]
        self._transposed = [weight.t().contiguous() for weight in self._weights]
        self._device, self._dtype = device, dtype

    def step(self, batch: int, tokens: int) -> None:
        """Run the products of one step over `batch` texts of `tokens` tokens."""
        shape, rows = self.shape, batch * tokens
        narrow = torch.full((rows, shape.width), 0.5, device=self._device, dtype=self._dtype)
        wide = torch.full((rows, shape.inner), 0.5, device=self._device, dtype=self._dtype)
        heads = narrow.view(batch, tokens, shape.heads, -1).transpose(1, 2).contiguous()
        square = torch.full((batch, shape.heads, tokens, tokens), 0.5, device=self._device, dtype=self._dtype)
        for backward in [False] * shape.layers + [True] * shape.backwards:
            self._linear(self._transposed if backward else self._weights, narrow, wide)
            for _ in range(1 + backward):
                torch.matmul(heads, heads.transpose(2, 3))
                torch.matmul(square, heads)

    def _linear(self, weights: list[Tensor], narrow: Tensor, wide: Tensor) -> None:
        for weight in weights:
            product(wide if weight.shape[1] == wide.shape[1] else narrow, weight, None, self._onednn)

    def operations(self, batch: int, tokens: int) -> float:
        """Floating-point operations of `step`, two for each multiplication and addition."""
        shape = self.shape
        linear = sum(weight.numel() for weight in self._weights) * batch * tokens
        attention = batch * tokens * tokens * shape.width
        forward, backward = shape.layers, shape.backwards
        return 2.0 * (linear * (forward + backward) + attention * (2 * forward + 4 * backward))


def peak_rate(device: str, side: int) -> float:
    """bfloat16 operations a second of a large square product: the machine's attainable peak."""
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(10):
        started = now()
        torch.matmul(left, left)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(now() - started)
    return float(2.0 * side**3 / min(seconds))
