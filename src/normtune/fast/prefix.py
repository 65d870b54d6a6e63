"""The frozen prefix: what lies below everything that trains, computed once for each example and cached.

The hidden states of an example's own tokens, without padding, are kept at one point of a BERT-like encoder: the input
of a layer, or of a layer's ``output.LayerNorm`` where nothing else of that layer trains. They are right only while
dropout is off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from normtune.config import Products
from normtune.data.encode import Encoded, by_length
from normtune.fast.first_token import BERTS, can_shorten, shortened
from normtune.fast.fused import one_layer, unpadded
from normtune.fast.layer import Layer
from normtune.fast.linear import fast_linear
from normtune.fast.modules import is_plain, replaced
from normtune.models.base import Base
from normtune.modes import kept_modes, unwatched

#: The most bytes of hidden states of one set of examples, else it is not kept; all sets may take twice as many.
BUDGET = 4 << 30

#: Sets of examples that are kept: training, picking and scoring of one task, and of the next.
_SETS = 6


@dataclass(frozen=True)
class PrefixEnd:
    """Where a frozen prefix ends.

    Attributes:
        layer: The first layer that is computed anew, wholly or from its ``output.LayerNorm`` on.
        last_norm: Whether only from its ``output.LayerNorm`` on.
    """

    layer: int
    last_norm: bool

    @classmethod
    def of(cls, base: Base) -> Self | None:
        """The highest point of a model below every parameter that trains; None where no layer lies below.

        There is none either if a parameter outside layers, pooler and head trains, since it may be used below them.
        """
        model: Any = base.model
        if model.config.model_type not in BERTS or model.config.is_decoder:
            return None
        body, layers = model.base_model_prefix, model.base_model.encoder.layer
        above = tuple(f"{path}." for path in (*base.roots, f"{body}.pooler"))
        trained: dict[int, list[str]] = {}
        for name in (name for name, parameter in model.named_parameters() if parameter.requires_grad):
            number, _, rest = name.removeprefix(f"{body}.encoder.layer.").partition(".")
            if number.isdecimal():
                trained.setdefault(int(number), []).append(rest)
            elif not name.startswith(above):
                return None
        lowest = min(trained, default=len(layers))
        closing = all(name.startswith("output.LayerNorm.") for name in trained.get(lowest, [""]))
        last_norm = closing and is_plain(layers[lowest])
        return cls(lowest, last_norm) if lowest > 0 or last_norm else None

    def __str__(self) -> str:
        return f"{'the closing norm of ' if self.last_norm else ''}layer {self.layer}"


class StateCache:
    """The hidden states of the last few sets of examples, each of at most `budget` bytes, for all runs on one base.

    Attributes:
        computed: How many examples were computed rather than found in the cache.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._sets: dict[str, tuple[Tensor, np.ndarray]] = {}
        self.computed = 0

    def find(self, prefix: Prefix, encoded: Encoded, key: str) -> tuple[Tensor, np.ndarray] | None:
        """The hidden states under `key`, computed by `prefix` if they are not kept; None if they exceed the budget."""
        if key not in self._sets:
            starts = np.concatenate([[0], encoded.lengths.cumsum()])
            if starts[-1] * prefix.width * prefix.dtype.itemsize > self._budget:
                return None
            room = torch.empty(int(starts[-1]), prefix.width, dtype=prefix.dtype)
            prefix.compute(encoded, starts, room)
            self.computed += len(encoded)
            self._sets[key] = room, starts
            while len(self._sets) > _SETS or sum(s.nbytes for s, _ in self._sets.values()) > 2 * self._budget:
                del self._sets[next(iter(self._sets))]
        self._sets[key] = self._sets.pop(key)  # the least recently used one is dropped first
        return self._sets[key]


class Prefix:
    """The part of a base that lies below one point.

    Args:
        base: The base model.
        point: Where the prefix ends.
        kept: Where hidden states are kept.
        layers: Fused layers that compute it, if any.
        products: What its products are computed in.
    """

    def __init__(
        self,
        base: Base,
        point: PrefixEnd,
        kept: StateCache | None = None,
        layers: Mapping[nn.Module, Layer] | None = None,
        products: Products = "float32",
    ) -> None:
        self._base, self.point, self._products = base, point, products
        self._kept, self._layers = kept or StateCache(), layers or {}
        self._body: Any = base.model.base_model
        self.width, self.dtype = int(base.model.config.hidden_size), base.model.dtype

    def states(self, *sets: Encoded) -> list[HiddenStates | None]:
        """The hidden states of each of `sets`; None for a set that exceeds the budget."""
        frozen = self._digest()
        found = [(encoded, self._kept.find(self, encoded, _key(frozen, encoded))) for encoded in sets]
        return [None if kept is None else HiddenStates(self, encoded, *kept) for encoded, kept in found]

    def _digest(self) -> Any:
        """A hash of the frozen values below the point and of the way of computing.

        It is computed anew each time, since torch does not count changes made through ``.data``.
        """
        below = self._body.encoder.layer[: self.point.layer + self.point.last_norm]
        ways = self.point, [layer in self._layers for layer in below], self._products, torch.get_num_threads()
        digest = hashlib.sha256(" ".join(map(str, ways)).encode())
        for part in (self._body.embeddings, *below):
            for parameter in (value for value in part.parameters() if not value.requires_grad):
                digest.update(f"{parameter.dtype} {tuple(parameter.shape)}".encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest

    def compute(self, encoded: Encoded, starts: np.ndarray, into: Tensor) -> None:
        """Write the hidden states of `encoded`, whose tokens begin at `starts`, into `into`."""
        encode, model = partial(self._encode, self._body.encoder), self._base.model
        with kept_modes(model), torch.no_grad(), fast_linear(self._products), replaced(self._body.encoder, encode):
            model.eval()
            for indices in by_length(encoded.lengths, 64):
                batch = encoded.batch(indices, self._base.device)
                hidden = self._body(**batch).last_hidden_state
                for row, number, mask in zip(hidden, indices, batch["attention_mask"].bool(), strict=True):
                    into[starts[number] : starts[number + 1]] = row[mask].to(into.device)

    def _encode(
        self, encoder: Any, hidden: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """The encoder's forward pass up to the point; the rest is not computed."""
        batch, point = unpadded(hidden, attention_mask), self.point
        for layer in encoder.layer[: point.layer]:
            hidden = one_layer(layer, self._layers, hidden, batch, attention_mask)
        if point.last_norm:
            layer = encoder.layer[point.layer]
            if layer in self._layers:
                hidden = self._layers[layer].before_last_norm(batch.strip(hidden), batch)
            else:
                with replaced(layer.output.LayerNorm, lambda inputs: inputs):
                    hidden = layer(batch.pad(hidden), attention_mask)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=batch.pad(hidden))

    @contextmanager
    def onward(self, hidden: Tensor) -> Iterator[None]:
        """Within this context the model goes on from `hidden`, whatever tokens it is given."""
        encoder, layers = self._body.encoder, self._body.encoder.layer
        rest = layers[self.point.layer :]
        # A fused encoder shortens its last layer by itself.
        shorten = "forward" not in vars(encoder) and len(rest) > self.point.last_norm and can_shorten(self._base.model)
        with ExitStack() as stack:
            stack.enter_context(replaced(self._body.embeddings, lambda *_, **__: hidden))
            if self.point.last_norm:
                norm = rest[0].output.LayerNorm
                stack.enter_context(replaced(rest[0], lambda states, *_, **__: norm(states)))
            if shorten:
                stack.enter_context(shortened(self._base.model))
            encoder.layer = rest
            try:
                yield
            finally:
                encoder.layer = layers


@dataclass(frozen=True)
class HiddenStates:
    """The hidden states of a set of examples.

    Attributes:
        prefix: The prefix that computed them.
        encoded: The examples.
        kept: Of shape (tokens of all examples, width).
        starts: Where each example's tokens begin, and at last where the tokens of the last one end.
    """

    prefix: Prefix
    encoded: Encoded
    kept: Tensor
    starts: np.ndarray

    def logits(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Tensor:
        """The outputs of `model` for the examples at `indices`, computed from the prefix's end on."""
        with self.prefix.onward(self.padded(indices).to(device)):
            outputs: Tensor = model(**self.encoded.batch(indices, device)).logits
        return outputs

    @unwatched
    def padded(self, indices: np.ndarray) -> Tensor:
        """The hidden states of the examples at `indices`, zero-padded: of shape (examples, longest, width)."""
        rows = [self.kept[self.starts[i] : self.starts[i + 1]] for i in indices]
        return pad_sequence(rows, batch_first=True, padding_side=self.encoded.side)


def _key(frozen: Any, encoded: Encoded) -> str:
    """The hash of the frozen values, extended by the examples' tokens."""
    digest = frozen.copy()
    for name, tokens in sorted(encoded.fields.items()):
        digest.update(f"{name} {encoded.side}".encode())
        digest.update(np.asarray([len(value) for value in tokens]).tobytes())
        digest.update(torch.cat([*tokens]).numpy().tobytes())
    return str(digest.hexdigest())
