"""Attention over the rows of a batch without padding, group by group, with a backward pass written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normtune.fast.dropout import Rate, draw_bits, dropped
from normtune.fast.unpadded import LengthGroup, Unpadded


@dataclass(frozen=True)
class Heads:
    """How attention is computed.

    Attributes:
        count: Number of heads.
        scale: Factor of the scores.
        rate: Dropout rate of the probabilities, or None.
    """

    count: int
    scale: float
    rate: Rate | None


def attend(qkv: Tensor, batch: Unpadded, how: Heads) -> tuple[Tensor, list[Tensor | None]]:
    """Attention's outputs, (rows, width), for queries, keys and values side by side, (rows, three widths).

    The list is for `attend_back`, three items for each group: its heads, of shape (3, texts times heads, room, width of
    a head), the probabilities, of shape (texts times heads, room, room), and the random bits of their dropout.
    """
    joined = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    kept: list[Tensor | None] = []
    for group in batch.groups:
        heads = group.spread(qkv, 3, how.count)
        query, key, value = heads
        scores = _scaled(torch.bmm(query, key.mT), group, how)
        chances = scores.softmax(-1)
        bits = None if how.rate is None else draw_bits(chances.shape)
        group.gather(torch.bmm(dropped(chances, bits, how.rate), value), 1, joined)
        kept += heads, chances, bits
    return joined, kept


def attend_back(gradient: Tensor, batch: Unpadded, how: Heads, kept: Sequence[Any]) -> Tensor:
    """The gradient of queries, keys and values side by side, of shape (rows, three widths)."""
    to_qkv = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    for group, (heads, chances, bits) in zip(batch.groups, zip(*[iter(kept)] * 3, strict=True), strict=True):
        query, key, value = heads
        seen = group.spread(gradient, 1, how.count)[0]
        result = torch.empty_like(heads)
        torch.bmm(dropped(chances, bits, how.rate).mT, seen, out=result[2])
        to_scores = dropped(torch.bmm(seen, value.mT), bits, how.rate)
        torch.ops.aten._softmax_backward_data.out(to_scores, chances, -1, chances.dtype, grad_input=to_scores)
        to_scores.mul_(how.scale)
        torch.bmm(to_scores, key, out=result[0])
        torch.bmm(to_scores.mT, query, out=result[1])
        group.gather(result, 3, to_qkv)
    return to_qkv


def _scaled(scores: Tensor, group: LengthGroup, how: Heads) -> Tensor:
    """`scores` times the scale plus the group's mask, in place; no text attends to padding."""
    if group.mask is None:
        return scores.mul_(how.scale)
    each = scores.view(-1, how.count, group.room, group.room)
    torch.add(group.mask, each, alpha=how.scale, out=each)
    return scores
