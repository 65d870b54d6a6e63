"""Attention over the rows of a batch without padding, group by group, with a backward pass that is called by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from normtune.fast.dropout import Rate, draw_bits, dropped
from normtune.fast.unpadded import Group, Unpadded


@dataclass(frozen=True)
class Heads:
    """How attention is computed.

    Attributes:
        count: Number of heads.
        scale: Factor of the scores.
        rate: Rate of dropout of the probabilities, or None.
    """

    count: int
    scale: float
    rate: Rate | None


@dataclass(frozen=True)
class Attended:
    """What the backward pass of one group needs.

    Attributes:
        heads: Queries, keys and values, of shape (3, texts times heads, room, width of a head).
        chances: The probabilities, of shape (texts times heads, room, room).
        bits: The random bits that dropped some of them.
    """

    heads: Tensor
    chances: Tensor
    bits: Tensor | None

    @property
    def tensors(self) -> list[Tensor | None]:
        """To be saved."""
        return [self.heads, self.chances, self.bits]


def attend(qkv: Tensor, batch: Unpadded, how: Heads) -> tuple[Tensor, list[Attended]]:
    """Attention's outputs, of shape (rows, width), and what its backward pass needs, by group.

    Args:
        qkv: Queries, keys and values side by side, of shape (rows, three widths).
        batch: Where the rows lie.
        how: Heads, scale and dropout.
    """
    joined = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    kept = []
    for group in batch.groups:
        heads = group.spread(qkv, 3, how.count)
        query, key, value = heads
        scores = _scaled(torch.bmm(query, key.mT), group, how)
        chances = scores.softmax(-1)
        bits = None if how.rate is None else draw_bits(chances.shape)
        group.gather(torch.bmm(dropped(chances, bits, how.rate), value), 1, joined)
        kept.append(Attended(heads, chances, bits))
    return joined, kept


def attend_back(gradient: Tensor, batch: Unpadded, how: Heads, kept: Iterator[Attended]) -> Tensor:
    """The gradient of queries, keys and values side by side, of shape (rows, three widths)."""
    to_qkv = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    for group, attended in zip(batch.groups, kept, strict=True):
        query, key, value = attended.heads
        chances, bits = attended.chances, attended.bits
        seen = group.spread_gradient(gradient, how.count)
        result = torch.empty_like(attended.heads)
        torch.bmm(dropped(chances, bits, how.rate).mT, seen, out=result[2])
        to_scores = dropped(torch.bmm(seen, value.mT), bits, how.rate)
        torch.ops.aten._softmax_backward_data.out(to_scores, chances, -1, chances.dtype, grad_input=to_scores)
        to_scores.mul_(how.scale)
        torch.bmm(to_scores, key, out=result[0])
        torch.bmm(to_scores.mT, query, out=result[1])
        group.gather(result, 3, to_qkv)
    return to_qkv


def attended(tensors: list[Tensor | None]) -> Iterator[Attended]:
    """What was saved, group by group."""
    for heads, chances, bits in zip(*[iter(tensors)] * 3, strict=True):
        assert heads is not None
        assert chances is not None
        yield Attended(heads, chances, bits)


def _scaled(scores: Tensor, group: Group, how: Heads) -> Tensor:
    """`scores` times the scale plus the group's mask, in place; no text looks at padding."""
    if group.mask is None:
        return scores.mul_(how.scale)
    each = scores.view(-1, how.count, group.room, group.room)
    torch.add(group.mask, each, alpha=how.scale, out=each)
    return scores
