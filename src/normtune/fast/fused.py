"""The encoder of BERT-like families with each layer as one operation, of which only normalisations train.

torch's layers are dozens of operations, each of which reads and writes memory and keeps what any gradient could need.
Here a layer is one function with a backward pass of its own: queries, keys and values are one product over weights that
were laid out once (`normtune.fast.frozen`), dropout is joined to the sum that follows it, and only what the
gradients of normalisations and of the layer's input need is kept; of a layer whose input has no gradient that is the
last normalisation's input. Of the last layer the first token alone is computed (`normtune.fast.first_token`).

The numbers are those of torch's layers but for rounding. With dropout on, the rates and the places that matter to the
output are the same, but fewer masks are drawn, and in another order; so a protocol names it
(`normtune.config.Protocol.layers`).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from normtune.config import Products
from normtune.errors import ConfigError
from normtune.fast.compiled import CompiledLayer
from normtune.fast.first_token import FAMILIES, last_layer, reads_first_token
from normtune.fast.kernels import kernels
from normtune.fast.layer import Layer, Observer, fits
from normtune.fast.stack import Stack
from normtune.fast.unpadded import WASTE, Packing


@contextmanager
def fused(
    model: PreTrainedModel,
    products: Products = "float32",
    layers: Mapping[nn.Module, Layer] | None = None,
    stack: Stack | None = None,
    *,
    inference: Products = "float32",
    compiled: bool = False,
) -> Iterator[None]:
    """Within this context the encoder of `model` is computed as this module says.

    A layer in which anything but normalisations trains, and any layer on another device than the CPU or in another
    dtype than float32 or float64, is torch's own. Frozen weights must not change within the context.

    Args:
        model: The model.
        products: What the fused layers' products are computed in, except in inference mode
            (`normtune.fast.lowered`).
        inference: The same in inference mode.
        layers: What `fusable` gave for this model, where weights that were laid out once serve several contexts.
        stack: Whose candidates share the model, if any do.
        compiled: Whether what lies between products is computed in C++ (`normtune.fast.compiled`).

    Raises:
        ConfigError: If the family is built in another way, or nothing can be compiled here.
    """
    config = model.config
    keep_freed()
    if not reads_first_token(config):
        known = ", ".join(FAMILIES)
        raise ConfigError(f"Fused layers are known for {known}, not for {config.model_type!r}; leave them out.")
    encoder: Any = model.base_model.encoder
    layers = fusable(model, products, inference=inference, compiled=compiled) if layers is None else layers
    encoder.forward = partial(_encode, encoder, layers, stack)
    try:
        yield
    finally:
        del encoder.forward


def fusable(
    model: PreTrainedModel,
    products: Products = "float32",
    observe: Observer | None = None,
    *,
    inference: Products = "float32",
    compiled: bool = False,
) -> dict[nn.Module, Layer]:
    """The layers of a BERT-like `model` that fit, as fused ones, with weights as they are now.

    Args:
        model: The model.
        products: As for `fused`.
        observe: Told of what the gradients of normalisations are made of; these are then not computed.
        inference: As for `fused`.
        compiled: As for `fused`.
    """
    if compiled:
        kernels()
    encoder: Any = model.base_model.encoder
    kind = CompiledLayer if compiled else Layer
    return {layer: kind.of(layer, products, observe, inference) for layer in encoder.layer if fits(layer)}


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
    packing = packing_for(layers, hidden, mask, stack)
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


def packing_for(
    layers: Mapping[nn.Module, Layer], hidden: Tensor, mask: Tensor | None, stack: Stack | None = None
) -> Packing:
    """How `layers` take a batch of shape (texts, tokens, width).

    Args:
        layers: As `fusable` gives them.
        hidden: The batch.
        mask: Which tokens may be looked at, as a model gives it to its encoder, or added to scores; None where all may.
        stack: Whose candidates share the batch, if any do.
    """
    own = None if mask is None else _added(mask, hidden.dtype)[:, 0, 0] == 0.0
    compiled = any(isinstance(layer, CompiledLayer) for layer in layers.values())
    # Attention in C++ goes text by text: for it no padding is too little to be left out.
    return Packing.of(hidden, own, () if stack is None else stack.sizes, 0.0 if compiled else WASTE)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what each query may look at, all alike, as numbers to add to scores: of shape (batch, 1, 1, keys)."""
    alike = mask[:, :, :1]
    if alike.dtype != torch.bool:
        return alike.to(dtype)
    return torch.zeros(alike.shape, dtype=dtype, device=mask.device).masked_fill_(~alike, -torch.inf)
