"""Adapters: bottlenecks with a skip connection, after the attention and the feed-forward block of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from normtune.methods.added import OutputModules
from normtune.methods.selection import Selection, in_range, where
from normtune.methods.trainable import Cost
from normtune.models.families import block_ends
from normtune.models.layout import Layout

#: The standard deviation of an adapter's initial weights (Houlsby et al. 2019, section 3.6).
_SPREAD = 1e-2


def adapter(layout: Layout, *, seed: int = 0, option: int = 64) -> Adapter:
    """Bottlenecks after the attention and the feed-forward block of each layer, and every norm (Houlsby et al. 2019).

    As in section 2.1 and figure 2, a bottleneck of width `option` takes the outputs of the block's last matrix, and its
    own outputs go on to the residual sum. The model's norms train too.
    """
    return Adapter(layout, both_ends(layout), in_range("adapter", "a width", option), seed)


def both_ends(layout: Layout) -> tuple[str, ...]:
    """The last module of each block in `layout`, layer by layer, the attention's first."""
    return tuple(name for pair in zip(*block_ends(layout), strict=True) for name in pair)


class Adapters(OutputModules):
    """Bottlenecks of width `size` on the outputs of some modules, and every norm of the base."""

    @property
    def cost(self) -> Cost:
        """They never merge."""
        return "extra layers"

    @property
    def selection(self) -> Selection:
        """Every norm."""
        return where(self.layout, lambda place: place.norm)


@final
@dataclass(frozen=True)
class Adapter(Adapters):
    """Bottlenecks with weights of their own."""

    method = "adapter"

    def modules(self) -> list[nn.Module]:
        """A bottleneck for each module."""
        return [Bottleneck(self.width(target), self.size) for target in self.targets]


class Bottleneck(nn.Module):
    """h -> h + up(GELU(down(h))), initially close to h."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=_SPREAD, a=-2 * _SPREAD, b=2 * _SPREAD)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapted `hidden`, of the same shape."""
        changed: Tensor = self.up(torch.nn.functional.gelu(self.down(hidden)))
        return hidden + changed
