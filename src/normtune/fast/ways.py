"""The one entry to this folder for training and evaluation: chooses the faster ways that fit a model, and uses them.

`choose` looks only at the model as it is now: which parameters train, where they are, and whether each layer has
exactly the parts that its family gives it. What a way does not cover is computed by torch, layer by layer. The numbers
are the same but for rounding, and for the draws of dropout.

``Ways(base)`` is plain torch: with it alone the program is slower but complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from normtune.config import Memory, Products
from normtune.data.encode import Encoded
from normtune.fast.dropout import FastDropout
from normtune.fast.first_token import can_shorten, last_of, reads_first_token
from normtune.fast.fused import fusable, fused
from normtune.fast.layer import Layer
from normtune.fast.linear import fast_linear
from normtune.fast.memory import again, checkpointed
from normtune.fast.modules import is_foreign, is_library
from normtune.fast.prefix import HiddenStates, Prefix, PrefixEnd, StateCache
from normtune.models.base import Base

#: Tokens per evaluation batch where padding is left out, and for language models, whose texts are long.
_TOKENS = 4096


@dataclass(frozen=True)
class Ways:
    """How a model is computed.

    Attributes:
        base: The model; its frozen values may not change as long as this is used.
        products: What the products of frozen linear layers are computed in.
        memory: What is kept for the backward pass.
        dropout: Whether dropout is drawn from the fast generator.
        layers: The fused layers, by the layer that each replaces; None where the encoder is torch's own.
        prefix: What is computed once for each example.
        names: Names of the ways, for a record.
    """

    base: Base
    products: Products = "float32"
    memory: Memory = "plain"
    dropout: bool = False
    layers: Mapping[nn.Module, Layer] | None = None
    prefix: Prefix | None = None
    names: tuple[str, ...] = ()

    @property
    def tokens(self) -> int | None:
        """Tokens per evaluation batch; None where batches have a fixed number of examples."""
        return _TOKENS if self.layers or self.base.language else None

    @contextmanager
    def context(self) -> Iterator[None]:
        """Within this context the model is computed in these ways, in training and in evaluation."""
        model, layers, low = self.base.model, self.layers, self.memory == "low"
        dropout, linear = FastDropout() if self.dropout else nullcontext(), fast_linear(self.products)

        @contextmanager
        def modes() -> Iterator[None]:
            with dropout, linear:
                yield

        with ExitStack() as stack:
            stack.enter_context(modes())
            if layers is not None:
                less = {module: partial(again, layer, modes) for module, layer in layers.items()}
                stack.enter_context(fused(model, less if low else layers))
            if low:
                last = {last_of(model)} if layers is not None and can_shorten(model) else set()
                stack.enter_context(checkpointed(model, {*(layers or ()), *last}, modes))
            yield

    def states(self, *sets: Encoded) -> list[HiddenStates | None]:
        """The hidden states of each of `sets` at the end of the prefix, to go on from; None where there is none."""
        return [None] * len(sets) if self.prefix is None else self.prefix.states(*sets)


def choose(
    base: Base,
    *,
    dropout: bool = False,
    products: Products = "float32",
    memory: Memory = "plain",
    mixed: bool = False,
    plain: bool = False,
    kept: StateCache | None = None,
) -> Ways:
    """The fastest ways that fit a model.

    Args:
        base: The model, with everything that trains in place: each such parameter is one of the model's and has
            ``requires_grad``.
        dropout: Whether dropout is on in training.
        products: What the products of frozen linear layers are computed in.
        memory: What is kept for the backward pass.
        mixed: Whether precisions are mixed (autocast).
        plain: Whether to take none: transformers' layers, torch's dropout, padded batches, no prefix. Linear layers
            still go through the faster of torch's two libraries (`normtune.fast.linear`).
        kept: Where the prefix's hidden states are kept from run to run; None keeps no prefix.
    """
    model, names = base.model, []
    # A model that computes layers again in the backward pass by itself is left alone.
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    body: nn.Module = model.base_model
    changed = any(map(is_foreign, (model, body, *body.children()))) or not all(map(is_library, body.children()))
    if plain or recomputes or changed or base.language:  # a language model reads every token's hidden state
        return Ways(base, products, memory)
    on_cpu = base.device.type == "cpu"
    mixed = mixed or (on_cpu and torch.is_autocast_enabled("cpu"))
    layers, known = None, reads_first_token(model.config)
    if known and on_cpu and not mixed and model.dtype in {torch.float32, torch.float64}:
        layers = fusable(model, products)
        names += ["fused layers", "no padding"] if layers else []
    point = None if dropout or kept is None else PrefixEnd.of(base)
    if point is not None and not on_cpu and 2 * point.layer < base.layout.layers:
        point = None  # on a GPU, few layers cost less than copying their hidden states from memory
    prefix = None if point is None else Prefix(base, point, kept, layers, products)
    if (layers is not None or prefix is not None) and can_shorten(model):
        names.append("first token")
    if point is not None:
        names.append(f"prefix below {point}")
    if dropout and on_cpu:
        names.append("fast dropout")
    return Ways(base, products, memory, dropout and on_cpu, layers, prefix, tuple(names))
