"""A batch without any padding: its texts' own tokens as rows, one text after the other.

Everything in a layer but attention treats tokens one by one, so that padding there is waste. Attention looks at whole
texts: it takes groups of like length, each filled up to its longest text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor

from normtune.modes import unwatched

#: Tokens that attention is given at least: softmax takes several times as long over rows shorter than a register.
ROOM = 16

#: A batch of which padding is a smaller part than this stays padded, where attention goes by groups: packing it costs
#: as much as it saves.
WASTE = 0.02

#: Texts of so many lengths are grouped by length exactly, which copies least; of more lengths, those are grouped of
#: which the shortest has at least this part of the tokens of the longest.
EXACT, LIKE = 8, 7 / 8


@dataclass(frozen=True)
class Group:
    """Texts of like length, whose rows lie one after the other.

    Attributes:
        start: The first row.
        lengths: Tokens of each text.
        room: Tokens that attention gives each text.
        places: For each row its place among the (texts times room) places; None where texts fill all but the end alike.
        sources: For each place the row, counted from `start`, that it is filled with: its own, or any; None likewise.
        mask: Added to scores, of shape (texts, 1, 1, room), or (1, 1, 1, room) for all alike; None where all is filled.
    """

    start: int
    lengths: tuple[int, ...]
    room: int
    places: Tensor | None
    sources: Tensor | None
    mask: Tensor | None

    @classmethod
    def of(cls, start: int, lengths: Sequence[int], like: Tensor) -> Self:
        """The group of texts with such lengths, for values of the dtype and on the device of `like`."""
        longest = max(lengths)
        room = max(longest, ROOM)
        numbers = torch.arange(room, device=like.device)
        if min(lengths) == longest:
            mask = like.new_zeros(room).masked_fill_(numbers >= longest, -torch.inf)
            return cls(start, tuple(lengths), room, None, None, mask.view(1, 1, 1, room) if longest < room else None)
        own = numbers < torch.tensor(lengths, device=like.device)[:, None]
        places = own.reshape(-1).nonzero()[:, 0]
        sources = (own.reshape(-1).cumsum(0) - 1).clamp_(min=0)
        mask = like.new_zeros(own.shape).masked_fill_(~own, -torch.inf)
        return cls(start, tuple(lengths), room, places, sources, mask[:, None, None])

    @classmethod
    def padded(cls, shape: tuple[int, int], own: Tensor | None, like: Tensor) -> Self:
        """All texts of a padded batch, (texts, tokens), of which `own`, of that shape, is attended."""
        count, tokens = shape
        group = cls.of(0, (tokens,) * count, like)
        if own is None:
            return group
        mask = like.new_full((count, group.room), -torch.inf)
        mask[:, :tokens].masked_fill_(own, 0.0)
        return replace(group, mask=mask[:, None, None])

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.start + sum(self.lengths)

    def spread(self, rows: Tensor, parts: int, heads: int) -> Tensor:
        """The heads of the group's texts, of shape (parts, texts times heads, room, width of a head).

        What is not a text's own is a number, but no matter which.

        Args:
            rows: Those of the whole batch, of shape (rows, parts times heads times width of a head).
            parts: Such as queries, keys and values.
            heads: Of attention.
        """
        own, texts = rows[self.start : self.stop], len(self.lengths)
        if self.sources is not None:
            own = own.index_select(0, self.sources)
        split = own.view(texts, -1, parts, heads, own.shape[1] // (parts * heads)).permute(2, 0, 3, 1, 4)
        return self._filled(split).flatten(1, 2)

    def spread_gradient(self, rows: Tensor, heads: int) -> Tensor:
        """As `spread`, for one part, with zeros at what is not a text's own: nothing comes from there."""
        own, texts = rows[self.start : self.stop], len(self.lengths)
        if self.places is not None:
            own = own.new_zeros(texts * self.room, own.shape[1]).index_copy_(0, self.places, own)
        split = own.view(texts, -1, heads, own.shape[1] // heads).transpose(1, 2)
        return self._filled(split).flatten(0, 1)

    def gather(self, spread: Tensor, parts: int, into: Tensor) -> None:
        """Undo `spread`: write each row's own heads to the group's rows of `into`, those of the whole batch."""
        texts, width = len(self.lengths), spread.shape[-1]
        split = spread.view(parts, texts, -1, self.room, width).permute(1, 3, 0, 2, 4)
        own = into[self.start : self.stop]
        if self.places is None:
            tokens = self.lengths[0]
            own.view(texts, tokens, *split.shape[2:]).copy_(split[:, :tokens])
        else:
            torch.index_select(split.reshape(texts * self.room, -1), 0, self.places, out=own)

    def _filled(self, split: Tensor) -> Tensor:
        """A copy of `split`, of shape (..., tokens, width of a head), filled up with zeros to `room` tokens."""
        tokens = split.shape[-2]
        if tokens == self.room:
            return split.contiguous()
        wide = split.new_zeros(*split.shape[:-2], self.room, split.shape[-1])
        wide[..., :tokens, :] = split
        return wide


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch lie.

    Attributes:
        shape: Texts and tokens of the padded batch.
        texts: The texts in the order of their rows.
        lengths: Rows of each of them, in that order.
        rows: For each row its place among the (texts times tokens) of the padded batch; None where rows are all of
            those.
        like: Nothing, of the batch's dtype and on its device.
        own: True where a token of the padded batch is a text's own; None where all are.
        sizes: Of a batch that candidates share, the texts of each; else the number of all.
        shares: Of a batch that candidates share, the rows of each, which lie one after the other; else nothing.
        padding: Rows that are no text's own.
    """

    shape: tuple[int, int]
    texts: tuple[int, ...]
    lengths: tuple[int, ...]
    rows: Tensor | None
    like: Tensor
    own: Tensor | None
    sizes: tuple[int, ...]
    shares: tuple[int, ...] = ()
    padding: int = 0

    @cached_property
    def starts(self) -> Tensor:
        """The first row of each text, in their order, and the number of rows at the end: int64."""
        return torch.tensor([0, *accumulate(self.lengths)])

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What attention takes together; made when it is first asked for, since compiled layers take text by text."""
        if self.rows is None:
            return (Group.padded(self.shape, self.own, self.like),)
        starts, found = [0, *accumulate(self.lengths)], []
        for begin, end in pairwise([0, *accumulate(self.sizes)]):
            for first, last in _alike(self.lengths[begin:end]):
                lengths = self.lengths[begin + first : begin + last]
                found.append(Group.of(starts[begin + first], lengths, self.like))
        return tuple(found)

    @classmethod
    @unwatched
    def of(cls, hidden: Tensor, own: Tensor | None, sizes: Sequence[int] = (), waste: float = WASTE) -> Self:
        """The packing of a batch.

        Args:
            hidden: The padded batch, of shape (texts, tokens, width).
            own: Of shape (texts, tokens): true where a token is a text's own; None where all are.
            sizes: Of a batch that candidates share, the texts of each, which are never grouped with another's.
            waste: A batch of which padding is a smaller part than this stays padded.
        """
        count, tokens = hidden.shape[:2]
        known = [tokens] * count if own is None else own.sum(1).tolist()
        padding = count * tokens - sum(known)
        parts, like = tuple(sizes) or (count,), hidden.new_empty(0)
        if own is None or padding == 0 or padding < waste * count * tokens:
            shares = tuple(size * tokens for size in sizes)
            return cls((count, tokens), tuple(range(count)), (tokens,) * count, None, like, own, parts, shares, padding)
        order: list[int] = []
        for begin, end in pairwise([0, *accumulate(parts)]):
            order += sorted(range(begin, end), key=lambda text: -known[text])
        lengths, shares = tuple(known[text] for text in order), ()
        places = torch.tensor(order, device=hidden.device)
        rows = torch.arange(count * tokens, device=hidden.device).view(count, tokens)[places][own[places]]
        if sizes:
            shares = tuple(sum(lengths[begin:end]) for begin, end in pairwise([0, *accumulate(sizes)]))
        return cls((count, tokens), tuple(order), lengths, rows, like, own, parts, shares)

    @unwatched
    def pack(self, hidden: Tensor) -> Tensor:
        """The rows, of shape (rows, width), of a padded batch of shape (texts, tokens, width), or of rows."""
        if hidden.ndim == 2:
            return hidden
        flat = hidden.reshape(-1, hidden.shape[-1])
        return flat if self.rows is None else _pick(flat, self.rows)

    @unwatched
    def pad(self, rows: Tensor) -> Tensor:
        """The padded batch, with zeros where nothing is a text's own; what is one already is left as it is."""
        if rows.ndim == 3:
            return rows
        if self.rows is not None:
            rows = rows.new_zeros(self.shape[0] * self.shape[1], rows.shape[1]).index_copy(0, self.rows, rows)
        return rows.view(*self.shape, -1)


def _alike(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each group, the last excluded; `lengths` fall. Texts without tokens are in none."""
    part = 1.0 if len(set(lengths)) <= EXACT else LIKE
    first, end = 0, sum(length > 0 for length in lengths)
    while first < end:
        last = first
        while last < end and lengths[last] >= part * lengths[first]:
            last += 1
        yield first, last
        first = last


class _Pick(torch.autograd.Function):
    """Rows of which each is picked once at most: their gradient is copied back, where torch would add row by row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = len(values)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.count, grads[0].shape[1]).index_copy(0, rows, grads[0]), None


#: torch leaves `apply` untyped.
_pick: Callable[..., Tensor] = _Pick.apply
