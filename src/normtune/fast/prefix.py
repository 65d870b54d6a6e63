"""The frozen prefix: what lies below the lowest trained entry, computed once an example and kept.

Kept are the hidden states of an example's own tokens, no padding, at a point of a BERT-like encoder: the input of a
layer, or of a layer's ``output.LayerNorm`` where nothing else of that layer trains. They are right only while dropout
is off below that point, so a protocol names them (`normtune.config.Protocol.prefix`). Above it the last layer is
computed for the first token alone, which is all that these families' heads read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from normtune.config import Layers, Products
from normtune.data.encode import Encoded, by_length
from normtune.fast.first_token import first_token, reads_first_token
from normtune.fast.fused import fusable
from normtune.fast.linear import fast_linear, linear_backend
from normtune.fast.point import Point, hidden_at
from normtune.models.base import Base
from normtune.modes import unwatched

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

#: Bytes of hidden states kept in memory; what is larger lies in a file that is mapped.
BUDGET = 4 << 30

#: Sets of examples that are kept: training, picking and scoring of one task, and of the next.
_SETS = 6


class Prefix:
    """Hidden states at one point of a base, by example.

    Args:
        base: The base model.
        point: Where the prefix ends.
        budget: Bytes that one set of examples may take in memory.
        layers: How what lies below is computed (`normtune.config.Protocol.layers`).
        products: What its products are computed in (`normtune.config.Protocol.inference_products`).
    """

    def __init__(
        self,
        base: Base,
        point: Point,
        budget: int = BUDGET,
        layers: Layers = "torch",
        products: Products = "float32",
    ) -> None:
        self._base, self.point, self.layers, self.products, self._budget = base, point, layers, products, budget
        self._body: Any = base.model.base_model
        self._kept: dict[str, tuple[Tensor, np.ndarray]] = {}
        #: How many examples were computed rather than found.
        self.computed = 0

    def key(self, encoded: Encoded) -> str:
        """A content hash of all that the hidden states depend on: tokens, frozen values below, way to compute."""
        return _key(self._values(), encoded)

    def states(self, encoded: Encoded) -> States:
        """The hidden states of `encoded`, computed unless they are kept."""
        return self.states_of(encoded)[0]

    def states_of(self, *sets: Encoded) -> tuple[States, ...]:
        """The hidden states of each of `sets`, for which the frozen values are looked at once."""
        values = self._values()
        return tuple(self._found(encoded, _key(values, encoded)) for encoded in sets)

    def _found(self, encoded: Encoded, key: str) -> States:
        if key not in self._kept:
            if len(self._kept) >= _SETS:
                self._kept.clear()
            self._kept[key] = self._compute(encoded)
            self.computed += len(encoded)
        return States(self, encoded, *self._kept[key])

    def _values(self) -> Hash:
        """The hash of the frozen values below and of the way to compute.

        It is taken anew whenever it is asked for, since torch does not count changes made through ``.data``.
        """
        ways = self.point, self.layers, self.products, linear_backend(), torch.get_num_threads()
        digest = hashlib.sha256(" ".join(map(str, ways)).encode())
        for parameter in self._below():
            digest.update(f"{parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest

    def _below(self) -> Iterator[Tensor]:
        layers = self._body.encoder.layer
        yield from self._body.embeddings.parameters()
        for layer in layers[: self.point.layer]:
            yield from layer.parameters()
        if self.point.last_norm:
            layer = layers[self.point.layer]
            yield from (value for name, value in layer.named_parameters() if not name.startswith("output.LayerNorm."))

    def _compute(self, encoded: Encoded) -> tuple[Tensor, np.ndarray]:
        starts = np.concatenate([[0], encoded.lengths.cumsum()])
        width = int(self._base.model.config.hidden_size)
        kept = self._room(int(starts[-1]), width)
        training = self._base.model.training
        model = self._base.model.eval()
        layers = None if self.layers == "torch" else fusable(model, self.products, compiled=self.layers == "compiled")
        with torch.no_grad(), fast_linear(self.products):
            for indices in by_length(encoded.lengths, 64):
                batch = encoded.batch(indices, self._base.device)
                hidden = hidden_at(model, self.point, batch, layers)
                for row, number, mask in zip(hidden, indices, batch["attention_mask"].bool(), strict=True):
                    kept[starts[number] : starts[number + 1]] = row[mask].to(kept.device)
        model.train(training)
        return kept, starts

    def _room(self, tokens: int, width: int) -> Tensor:
        dtype = self._base.model.dtype
        if tokens * width * dtype.itemsize <= self._budget:
            return torch.empty(tokens, width, dtype=dtype)
        with tempfile.TemporaryDirectory(prefix="normtune-prefix-") as folder:
            # Mapped, then without a name: the space is free again when the last of the process lets go.
            return torch.from_file(str(Path(folder) / "states"), shared=True, size=tokens * width, dtype=dtype).view(
                tokens, width
            )

    @contextmanager
    def onward(self, hidden: Tensor) -> Iterator[None]:
        """Within this context the model goes on from `hidden`, whatever tokens it is given."""
        embeddings, encoder = self._body.embeddings, self._body.encoder
        layers = encoder.layer
        rest = layers[self.point.layer :]
        embeddings.forward = lambda *_, **__: hidden
        encoder.layer = rest
        if self.point.last_norm:
            rest[0].forward = lambda states, *_, **__: rest[0].output.LayerNorm(states)
        # Of the last layer the head reads one token; what the others would become is not computed. A fused encoder
        # sees to that itself.
        plain = "forward" not in vars(encoder) and reads_first_token(self._base.model.config)
        shorten = plain and len(rest) > self.point.last_norm
        if shorten:
            rest[-1].forward = partial(first_token, rest[-1])
        try:
            yield
        finally:
            del embeddings.forward
            if self.point.last_norm:
                del rest[0].forward
            if shorten:
                del rest[-1].forward
            encoder.layer = layers


@dataclass(frozen=True)
class States:
    """The hidden states of a set of examples.

    Attributes:
        prefix: What they were made by.
        encoded: The examples.
        kept: Of shape (tokens of all examples, width).
        starts: Where each example's tokens begin; one more than there are examples.
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
        """Those of the examples at `indices`, filled up with zeros: of shape (examples, longest, width)."""
        rows = [self.kept[self.starts[i] : self.starts[i + 1]] for i in indices]
        return pad_sequence(rows, batch_first=True, padding_side=self.encoded.side)


def _key(values: Hash, encoded: Encoded) -> str:
    """The hash of frozen values, joined with the tokens."""
    digest = values.copy()
    for name, tokens in sorted(encoded.fields.items()):
        digest.update(f"{name} {encoded.side}".encode())
        digest.update(np.asarray([len(value) for value in tokens]).tobytes())
        digest.update(torch.cat(tokens).numpy().tobytes())
    return digest.hexdigest()
