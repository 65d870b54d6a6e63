"""Points of a BERT-like encoder below which nothing trains, and the hidden states there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn
from transformers import PreTrainedModel

from normtune.errors import ConfigError
from normtune.fast.first_token import FAMILIES
from normtune.fast.fused import packing_for
from normtune.fast.layer import Layer
from normtune.methods.selection import Selection
from normtune.models.base import Base


@dataclass(frozen=True)
class Point:
    """Where a frozen prefix ends.

    Attributes:
        layer: The first layer that is computed anew, wholly or from its ``output.LayerNorm`` on.
        last_norm: Whether only its ``output.LayerNorm`` is.
    """

    layer: int
    last_norm: bool

    @classmethod
    def of(cls, base: Base, selection: Selection) -> Point:
        """The highest point below everything that `selection` trains.

        Raises:
            ConfigError: If the family is built in another way, or nothing lies below.
        """
        if base.layout.model_type not in FAMILIES or base.model.config.is_decoder:
            known = ", ".join(FAMILIES)
            raise ConfigError(f"A prefix is known for {known}, not for {base.layout.model_type!r}; leave it out.")
        low = [-1 if place.layer is None else place.layer for place in selection if "pooler" not in place.component]
        layer = min(low, default=base.layout.layers)
        if layer < 0:
            raise ConfigError("The selection trains embeddings, so that there is no frozen prefix; leave it out.")
        own = {place.component for place in selection if place.layer == layer}
        return cls(layer, own == {"output.LayerNorm"})


def hidden_at(
    model: PreTrainedModel, point: Point, batch: Mapping[str, Tensor], layers: Mapping[nn.Module, Layer] | None = None
) -> Tensor:
    """The hidden states of a batch at `point`, of shape (batch, tokens, width); at padding any number.

    Args:
        model: The model, with dropout off; nothing above the point is computed.
        point: The point.
        batch: What the model takes.
        layers: Fused layers to compute with, where they fit all that lies below.
    """
    body: Any = model.base_model
    below = body.encoder.layer[: point.layer + point.last_norm]
    way = _fused if layers is not None and all(layer in layers for layer in below) else _plain
    try:
        with way(body, point, layers or {}):
            outputs: Tensor = body(**batch).last_hidden_state
            return outputs
    except _ReachedError as reached:
        return reached.hidden


@contextmanager
def _plain(body: Any, point: Point, _: Mapping[nn.Module, Layer]) -> Iterator[None]:
    """Within this context `body` stops at `point`, if that is not its end."""

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
        raise _ReachedError(args[0])

    layers = body.encoder.layer
    if point.layer == len(layers):
        yield
        return
    layer = layers[point.layer]
    hook = (layer.output.LayerNorm if point.last_norm else layer).register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _fused(body: Any, point: Point, layers: Mapping[nn.Module, Layer]) -> Iterator[None]:
    """As `_plain`, with all that lies below `point` computed by `layers`."""
    body.encoder.forward = partial(_encode, body.encoder, point, layers)
    try:
        yield
    finally:
        del body.encoder.forward


def _encode(
    encoder: Any,
    point: Point,
    layers: Mapping[nn.Module, Layer],
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> NoReturn:
    packing = packing_for(layers, hidden, attention_mask)
    rows = packing.pack(hidden)
    for layer in encoder.layer[: point.layer]:
        rows = layers[layer](rows, packing)
    if point.last_norm:
        rows = layers[encoder.layer[point.layer]].before_last_norm(rows, packing)
    raise _ReachedError(packing.pad(rows))


class _ReachedError(Exception):
    """The point was reached; nothing above it is computed."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden
