"""The encoder of BERT-like families with each layer as one operation, where only normalisations train in it.

torch's layers are dozens of operations, each of which reads and writes memory and keeps what any gradient could need.
Here a layer is one function with a backward pass of its own: queries, keys and values are one product over weights that
were laid out once (`normtune.fast.layer`), dropout is fused with the sum after it, padding is left out
(`normtune.fast.unpadded`), and only what the gradients of normalisations and of the layer's input need is kept. Where
the head reads the first token alone, the last layer is computed for no other (`normtune.fast.first_token`).

The numbers are those of torch's layers but for rounding. With dropout on, rates and places are the same, but fewer
masks are drawn, and in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from normtune.config import Products
from normtune.fast.first_token import shorter_layer
from normtune.fast.layer import Layer, fits
from normtune.fast.memory import keep_freed
from normtune.fast.modules import replaced
from normtune.fast.unpadded import Unpadded

#: For each fused layer the function that replaces it: from rows, and where they lie, to rows.
Fused = Mapping[nn.Module, Callable[[Tensor, Unpadded], Tensor]]


def fusable(model: PreTrainedModel, products: Products = "float32") -> dict[nn.Module, Layer]:
    """The layers of a BERT-like `model` that can be fused, with weights as they are now.

    `products` is the dtype of their products.
    """
    encoder: Any = model.base_model.encoder
    return {layer: Layer.of(layer, products) for layer in encoder.layer if fits(layer)}


@contextmanager
def fused(model: PreTrainedModel, layers: Fused) -> Iterator[None]:
    """Within this context the encoder of a BERT-like `model` is computed as this module says.

    The frozen weights of `layers`, which `fusable` gave, must not change. Other layers are torch's own, except that the
    last one is computed for the first token alone where `shorter_layer` can.
    """
    keep_freed(True)
    encoder: Any = model.base_model.encoder
    with replaced(encoder, partial(_encode, encoder, layers, shorter_layer(model), encoder.forward)):
        yield


def _encode(
    encoder: Any,
    layers: Fused,
    shorter: Callable[..., Tensor] | None,
    plain: Any,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    **more: Any,
) -> Any:
    """The encoder's forward pass; `shorter`, if any, replaces the last layer, for the first token alone."""
    if more.get("past_key_values") is not None or more.get("encoder_hidden_states") is not None:
        return plain(hidden, attention_mask, **more)
    batch = unpadded(hidden, attention_mask)
    for layer in encoder.layer:  # `shorter` is None where the last layer is an earlier one too
        if layer is encoder.layer[-1] and shorter is not None and "forward" not in vars(layer):
            mask = None if attention_mask is None else _added(attention_mask, hidden.dtype)
            hidden = shorter(layer, batch.pad(hidden), mask)
        else:
            hidden = one_layer(layer, layers, hidden, batch, attention_mask)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=batch.pad(hidden))


def one_layer(layer: Any, layers: Fused, hidden: Tensor, batch: Unpadded, attention_mask: Tensor | None) -> Tensor:
    """The outputs of one layer: rows if it is in `layers` and its forward is not replaced, else a padded batch."""
    if layer in layers and "forward" not in vars(layer):
        return layers[layer](batch.strip(hidden), batch)
    outputs: Tensor = layer(batch.pad(hidden), attention_mask)
    return outputs


def unpadded(hidden: Tensor, mask: Tensor | None) -> Unpadded:
    """The rows of a batch of shape (texts, tokens, width).

    `mask`, as a model gives it to its encoder, says which tokens may be attended to, or is added to scores.
    """
    return Unpadded.of(hidden, None if mask is None else _added(mask, hidden.dtype)[:, 0, 0] == 0.0)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores, of shape (batch, 1, 1, keys), the same for all queries."""
    alike = mask[:, :, :1]
    if alike.dtype != torch.bool:
        return alike.to(dtype)
    return torch.zeros(alike.shape, dtype=dtype, device=mask.device).masked_fill_(~alike, -torch.inf)
