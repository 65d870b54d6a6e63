"""A batch without padding: its texts' own tokens as rows, one text after the other.

Everything in a layer but attention treats tokens one by one, so padding is wasted there. Attention looks at whole
texts: it takes groups of similar length, each padded to its longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from normtune.modes import unwatched

#: Attention pads texts to at least this many tokens: softmax is several times slower over rows shorter than a register.
ROOM = 16

#: A batch with no larger share of padding than this stays padded: removing it costs as much as it saves.
WASTE = 0.02

#: Texts of up to `EXACT` different lengths are grouped by exact length, which copies least. With more lengths, the
#: shortest text of a group has at least `LIKE` times as many tokens as the longest.
EXACT, LIKE = 8, 7 / 8


@dataclass(frozen=True)
class LengthGroup:
    """Texts of similar length, whose rows lie one after the other.

    Attributes:
        start: The first row.
        lengths: Tokens of each text.
        room: Tokens of each text in attention, padding included.
        places: The index of each row among the (texts times room) padded tokens; None where all texts have one length.
        mask: Added to scores, of shape (texts, 1, 1, room), or (1, 1, 1, room) for all texts; None without padding.
    """

    start: int
    lengths: tuple[int, ...]
    room: int
    places: Tensor | None
    mask: Tensor | None

    @classmethod
    def of(cls, start: int, lengths: Sequence[int], like: Tensor) -> Self:
        """The group of texts with these lengths, for values of the dtype and on the device of `like`."""
        longest = max(lengths)
        room = max(longest, ROOM)
        numbers = torch.arange(room, device=like.device)
        if min(lengths) == longest:
            mask = like.new_zeros(room).masked_fill_(numbers >= longest, -torch.inf)
            return cls(start, tuple(lengths), room, None, mask.view(1, 1, 1, room) if longest < room else None)
        own = numbers < torch.tensor(lengths, device=like.device)[:, None]
        places = own.reshape(-1).nonzero()[:, 0]
        mask = like.new_zeros(own.shape).masked_fill_(~own, -torch.inf)
        return cls(start, tuple(lengths), room, places, mask[:, None, None])

    @classmethod
    def padded(cls, shape: tuple[int, int], own: Tensor | None, like: Tensor) -> Self:
        """All texts of a padded batch of shape (texts, tokens); `own`, of that shape, is true at their tokens."""
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

        Padding is filled with zeros. `rows` are those of the whole batch, of shape (rows, parts times heads times width
        of a head), with parts side by side, such as queries, keys and values.
        """
        own, texts = rows[self.start : self.stop], len(self.lengths)
        if self.places is not None:
            own = own.new_zeros(texts * self.room, own.shape[1]).index_copy_(0, self.places, own)
        split = own.view(texts, -1, parts, heads, own.shape[1] // (parts * heads)).permute(2, 0, 3, 1, 4)
        return self._filled(split).flatten(1, 2)

    def gather(self, spread: Tensor, parts: int, into: Tensor) -> None:
        """Undo `spread`: write the heads of each row into the group's rows of `into`, the whole batch."""
        texts, width = len(self.lengths), spread.shape[-1]
        split = spread.view(parts, texts, -1, self.room, width).permute(1, 3, 0, 2, 4)
        own = into[self.start : self.stop]
        if self.places is None:
            tokens = self.lengths[0]
            own.view(texts, tokens, *split.shape[2:]).copy_(split[:, :tokens])
        else:
            torch.index_select(split.reshape(texts * self.room, -1), 0, self.places, out=own)

    def _filled(self, split: Tensor) -> Tensor:
        """A copy of `split`, of shape (..., tokens, width of a head), padded with zeros to `room` tokens."""
        tokens = split.shape[-2]
        if tokens == self.room:
            return split.contiguous()
        wide = split.new_zeros(*split.shape[:-2], self.room, split.shape[-1])
        wide[..., :tokens, :] = split
        return wide


@dataclass(frozen=True)
class Unpadded:
    """Where the rows of a batch lie.

    Attributes:
        shape: Texts and tokens of the padded batch.
        rows: The index of each row among the (texts times tokens) of the padded batch; None where the rows are all
            of those.
        groups: The texts that attention takes together.
    """

    shape: tuple[int, int]
    rows: Tensor | None
    groups: tuple[LengthGroup, ...]

    @classmethod
    @unwatched
    def of(cls, hidden: Tensor, own: Tensor | None) -> Self:
        """The rows of a batch of shape (texts, tokens, width); `own` is true at a text's own tokens."""
        count, tokens = hidden.shape[:2]
        known = [tokens] * count if own is None else own.sum(1).tolist()
        like = hidden.new_empty(0)
        if own is None or count * tokens - sum(known) <= WASTE * count * tokens:
            padding = None if own is None or sum(known) == count * tokens else own
            group = LengthGroup.padded((count, tokens), padding, like)
            return cls((count, tokens), None, (group,))
        order = sorted(range(count), key=lambda text: -known[text])
        lengths, places = tuple(known[text] for text in order), torch.tensor(order, device=hidden.device)
        rows = torch.arange(count * tokens, device=hidden.device).view(count, tokens)[places][own[places]]
        starts = [0, *accumulate(lengths)]
        groups = tuple(LengthGroup.of(starts[first], lengths[first:last], like) for first, last in _alike(lengths))
        return cls((count, tokens), rows, groups)

    @unwatched
    def strip(self, hidden: Tensor) -> Tensor:
        """The rows, of shape (rows, width), of a padded batch of shape (texts, tokens, width); rows are left alone."""
        if hidden.ndim == 2:
            return hidden
        flat = hidden.reshape(-1, hidden.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)

    @unwatched
    def pad(self, rows: Tensor) -> Tensor:
        """The padded batch of these rows, with zeros as padding; a padded batch is left alone."""
        if rows.ndim == 3:
            return rows
        if self.rows is not None:
            rows = rows.new_zeros(self.shape[0] * self.shape[1], rows.shape[1]).index_copy(0, self.rows, rows)
        return rows.view(*self.shape, -1)


def _alike(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last text of each group, the last excluded, of descending `lengths`; empty texts are in no group."""
    part = 1.0 if len(set(lengths)) <= EXACT else LIKE
    first, end = 0, sum(length > 0 for length in lengths)
    while first < end:
        last = first
        while last < end and lengths[last] >= part * lengths[first]:
            last += 1
        yield first, last
        first = last
