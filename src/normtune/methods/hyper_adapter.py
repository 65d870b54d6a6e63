"""Adapters whose weights one network makes from embeddings of task, layer and position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from normtune.methods.adapter import Adapters, both_ends, positive
from normtune.models.layout import Layout

#: The width of the embeddings, and of the layer between them and the adapters' embedding.
_EMBEDDING, _HIDDEN = 64, 128
#: The standard deviation of the first weights of every linear layer.
_SPREAD = 1e-2


def hyper_adapter(layout: Layout, *, seed: int = 0, option: int | None = None) -> HyperAdapter:
    """Adapters that one network makes, and every norm (HyperFormer++, Mahabadi et al. 2021, section 2.4).

    The adapters stand where those of `adapter` do. One task trains, so the task's embedding is a vector that trains.

    Args:
        layout: The model's parameters.
        seed: Seeds the network.
        option: The width of the bottleneck; a 32nd of the model's unless given.

    Raises:
        SelectionError: If the width is not positive, or the family's blocks are not known.
    """
    made = HyperAdapter(layout, both_ends(layout), seed=seed)
    size = max(1, made.width(made.targets[0]) // 32) if option is None else option
    return HyperAdapter(layout, made.targets, positive(size, made.method), seed)


@final
@dataclass(frozen=True)
class HyperAdapter(Adapters):
    """Bottlenecks with weights from one network; the modules come in pairs, two a layer."""

    method = "hyper-adapter"

    def modules(self) -> list[nn.Module]:
        """An adapter for each module, all with one network."""
        (width,) = {self.width(target) for target in self.targets}
        network = Network(-(-len(self.targets) // 2), width, self.size)
        return [Generated(network, *divmod(number, 2)) for number in range(len(self.targets))]


class Network(nn.Module):
    """Makes the weights of any adapter.

    Args:
        layers: Number of layers, each of which has two adapters.
        width: The adapters' outer width.
        size: Their inner width.
    """

    def __init__(self, layers: int, width: int, size: int) -> None:
        super().__init__()
        self.task = nn.Parameter(torch.randn(_EMBEDDING))
        self.layers = nn.Parameter(torch.randn(layers, _EMBEDDING))
        self.positions = nn.Parameter(torch.randn(2, _EMBEDDING))
        self.shapes = ((size, width), (size,), (width, size), (width,), (width,), (width,))
        total = sum(torch.Size(shape).numel() for shape in self.shapes)
        first, second = nn.Linear(3 * _EMBEDDING, _HIDDEN), nn.Linear(_HIDDEN, _EMBEDDING)
        self.embed = nn.Sequential(first, nn.ReLU(), second, nn.LayerNorm(_EMBEDDING, eps=1e-6))
        self.make = nn.Linear(_EMBEDDING, total)
        for linear in (first, second, self.make):
            nn.init.normal_(linear.weight, std=_SPREAD)
            nn.init.zeros_(linear.bias)

    def forward(self, layer: int, position: int) -> list[Tensor]:
        """Weight and bias of the layer down, of the layer up, and of the norm after it."""
        joined = torch.cat([self.task, self.layers[layer], self.positions[position]])
        made: Tensor = self.make(self.embed(joined))
        parts = made.split([torch.Size(shape).numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Generated(nn.Module):
    """h -> h + norm(up(GELU(down(h)))) with the weights that `network` makes (equations 1 and 2)."""

    def __init__(self, network: Network, layer: int, position: int) -> None:
        super().__init__()
        self.network, self.layer, self.position = network, layer, position

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapted `hidden`, of the same shape."""
        down, down_bias, up, up_bias, scale, shift = self.network(self.layer, self.position)
        inner = torch.nn.functional.gelu(hidden @ down.T + down_bias)
        changed = torch.nn.functional.layer_norm(inner @ up.T + up_bias, scale.shape, scale, shift)
        return hidden + changed
