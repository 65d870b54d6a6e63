"""Single entries of a frozen tensor that train: their positions, and their gradients without the dense one."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

#: Numbers held at once while gradients are summed over tokens: on a CPU about what fits in a core's cache.
_BLOCK, _BLOCK_ELSEWHERE = 1 << 18, 1 << 24


class Entries:
    """Positions of the entries that train.

    What is derived from them is computed on first use, since a mask can hold millions.

    Args:
        indices: Positions in the flattened tensor: int64, sorted, without repeats.
        shape: The tensor's shape; its rows are along the last dimension.
    """

    def __init__(self, indices: Tensor, shape: torch.Size) -> None:
        self.indices, self.shape = indices, shape

    def __len__(self) -> int:
        return self.indices.numel()

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.shape[-1]

    @property
    def share(self) -> float:
        """The fraction of the tensor's entries that train."""
        return len(self) / math.prod(self.shape)

    @cached_property
    def rows(self) -> Tensor:
        """Each entry's row."""
        return self.indices // self.width

    @cached_property
    def columns(self) -> Tensor:
        """Each entry's place in its row."""
        return self.indices % self.width

    def seen(self, inputs: Tensor) -> Tensor:
        """The columns of a layer's inputs (tokens, width) that `of_product` needs; all where it needs most."""
        return inputs if self._needed is None else inputs.index_select(1, self._needed)

    def of_product(self, grad: Tensor, seen: Tensor) -> Tensor:
        """Gradients of the entries of a linear weight, in float32 or better.

        For entry (o, i) this is the sum over tokens of ``grad[:, o] * inputs[:, i]``; `grad` is the gradient of the
        layer's outputs, of shape (tokens, outputs), and `seen` what the method `seen` returned for its inputs.
        """
        dtype = torch.promote_types(grad.dtype, torch.float32)
        step = max(1, (_BLOCK if grad.device.type == "cpu" else _BLOCK_ELSEWHERE) // len(self))
        parts = [
            outer.index_select(1, self.rows).to(dtype).mul_(inner.index_select(1, self._places)).sum(0)
            for outer, inner in zip(grad.split(step), seen.split(step), strict=True)
        ]
        return torch.stack(parts).sum(0)

    @cached_property
    def _needed(self) -> Tensor | None:
        """The columns that hold entries, sorted, since memory is read much faster in order; None for all columns."""
        columns = self.columns.unique()
        return columns if 2 * len(columns) <= self.width else None

    @cached_property
    def _places(self) -> Tensor:
        """The index of each entry's column among those that `seen` returns."""
        return self.columns if self._needed is None else torch.searchsorted(self._needed, self.columns)


def mark(weight: Tensor, leaf: Tensor, entries: Entries) -> Tensor:
    """Note on `weight` that its `entries` hold the values of `leaf`, and that nothing else in it trains."""
    setattr(weight, _MARK, (leaf, entries))
    return weight


def marked(weight: Tensor) -> tuple[Tensor, Entries] | None:
    """What `mark` noted on `weight`, if anything."""
    found: tuple[Tensor, Entries] | None = getattr(weight, _MARK, None)
    return found


_MARK = "_normtune_entries"
