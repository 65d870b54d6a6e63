"""Adapters whose weights one network makes from embeddings of task, layer and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normtune.methods.adapter import Adapters, both_ends
from normtune.methods.added import NAME
from normtune.methods.selection import in_range
from normtune.models.base import Base
from normtune.models.layout import Layout
from normtune.models.precision import in_full

#: The width of the embeddings, and of the hidden layer that combines them into an adapter's.
_EMBEDDING, _HIDDEN = 64, 128
#: The standard deviation of the initial weights of every linear layer.
_SPREAD = 1e-2


def hyper_adapter(layout: Layout, *, seed: int = 0, option: int | None = None) -> HyperAdapter:
    """Adapters that one network makes, and every norm (HyperFormer++, Mahabadi et al. 2021).

    The adapters are placed as in `adapter`. Each task that trains has an embedding; the norms are shared by all. A
    task's delta holds the adapters that the network made, not the network. Adapters are `option` wide, by default a
    32nd of the model's width.
    """
    targets = both_ends(layout)
    made = HyperAdapter(layout, targets, seed=seed, network=True)
    size = max(1, made.width(targets[0]) // 32) if option is None else option
    return replace(made, size=in_range(made.method, "a width", size))


@final
@dataclass(frozen=True)
class HyperAdapter(Adapters):
    """Bottlenecks with a norm of their own; the targets come in pairs, two per layer.

    Attributes:
        network: Whether one network, which a delta does not hold, makes their weights.
        tasks: How many tasks train together with the network.
    """

    network: bool = False
    tasks: int = 1

    method = "hyper-adapter"
    version = 2

    @property
    def held(self) -> HyperAdapter:
        """The adapters without their network."""
        return replace(self, network=False, tasks=1)

    def modules(self) -> list[nn.Module]:
        """An adapter for each target, all made by one network or each with weights of its own."""
        if self.network:
            return [*self.generated()]
        return [NormedBottleneck(self._shapes) for _ in self.targets]

    def generated(self) -> list[GeneratedBottleneck]:
        """An adapter for each target, all made by one network."""
        network = Network(-(-len(self.targets) // 2), self._shapes, self.tasks)
        return [GeneratedBottleneck(network, *divmod(number, 2)) for number in range(len(self.targets))]

    @property
    def _shapes(self) -> dict[str, torch.Size]:
        """The shapes of an adapter's weights: of the layers down and up, and of the norm after them."""
        (width,), size = {self.width(target) for target in self.targets}, self.size
        matrices = {"down": (size, width), "down_bias": (size,), "up": (width, size), "up_bias": (width,)}
        return {name: torch.Size(shape) for name, shape in {**matrices, "scale": (width,), "shift": (width,)}.items()}

    def choose(self, base: Base, task: int) -> None:
        """Switch the adapters on `base`, where this spec trains, to those of the task of this number."""
        network = base.model.get_submodule(f"{self.targets[0]}.{NAME}.network")
        assert isinstance(network, Network)
        network.chosen = task

    def made(self, values: Mapping[str, Tensor], task: int = 0) -> tuple[HyperAdapter, dict[str, Tensor]]:
        """The adapters of the task of this number, and the norms, without the network (see `Spec.made`)."""
        if not self.network:
            return self, dict(values)
        with torch.device("meta"):
            made = self.generated()
        made[0].network.chosen = task
        shared = f"{self.targets[0]}.{NAME}.network."
        own = {name: values[shared + name].view(p.shape) for name, p in made[0].network.named_parameters()}
        held = {place.parameter: values[place.parameter] for place in self.places}
        for target, module in zip(self.targets, made, strict=True):
            with torch.no_grad():
                weights = functional_call(module.network, own, (module.layer, module.position))
            held |= {f"{target}.{NAME}.{name}": value.reshape(-1).clone() for name, value in weights.items()}
        return self.held, held


def adapt(hidden: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """An adapter's outputs: h + norm(up(GELU(down(h))))."""
    inner = torch.nn.functional.gelu(hidden @ weights["down"].T + weights["down_bias"])
    outer, scale = inner @ weights["up"].T + weights["up_bias"], weights["scale"]
    return hidden + torch.nn.functional.layer_norm(outer, scale.shape, scale, weights["shift"])


class NormedBottleneck(nn.Module):
    """An adapter with weights of its own."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapted `hidden`, of the same shape."""
        return adapt(hidden, dict(self.named_parameters()))


class Network(nn.Module):
    """Makes the weights of any adapter.

    Args:
        layers: Number of layers, each of which has two adapters.
        shapes: The shapes of an adapter's weights.
        tasks: Number of tasks.

    Attributes:
        chosen: The task that the weights are for.
    """

    def __init__(self, layers: int, shapes: Mapping[str, torch.Size], tasks: int) -> None:
        super().__init__()
        self.shapes, self.chosen = shapes, 0
        # The tasks' embeddings, concatenated into a vector, which has no weight decay.
        self.task = nn.Parameter(torch.randn(tasks * _EMBEDDING))
        self.layers = nn.Parameter(torch.randn(layers, _EMBEDDING))
        self.positions = nn.Parameter(torch.randn(2, _EMBEDDING))
        first, second = nn.Linear(3 * _EMBEDDING, _HIDDEN), nn.Linear(_HIDDEN, _EMBEDDING)
        self.embed = nn.Sequential(first, nn.ReLU(), second, nn.LayerNorm(_EMBEDDING, eps=1e-6))
        self.make = nn.Linear(_EMBEDDING, sum(shape.numel() for shape in shapes.values()))
        for linear in (first, second, self.make):
            nn.init.normal_(linear.weight, std=_SPREAD)
            nn.init.zeros_(linear.bias)
        # The last layer's weights are scaled up by this and its inputs down, so that a step of an optimizer moves an
        # adapter's weights about as far as the head's, and one rate suits both.
        self.make.weight.detach().mul_(_EMBEDDING)
        # The norms start at zero, so that the model starts as the base. Small random values, which the authors' code
        # uses for T5, are not small beside the outputs of BERT's blocks.
        nn.init.zeros_(self.make.weight.detach()[-shapes["scale"].numel() - shapes["shift"].numel() :])

    def forward(self, layer: int, position: int) -> dict[str, Tensor]:
        """The weights of a layer's adapter after the attention (0) or after the feed-forward block (1)."""
        task = self.task.split(_EMBEDDING)[self.chosen]
        joined = torch.cat([task, self.layers[layer], self.positions[position]])
        with in_full(joined.device):
            made: Tensor = self.make(self.embed(joined) / _EMBEDDING)
        parts = made.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}


class GeneratedBottleneck(nn.Module):
    """An adapter with weights that the shared `network` makes."""

    def __init__(self, network: Network, layer: int, position: int) -> None:
        super().__init__()
        self.network, self.layer, self.position = network, layer, position

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapted `hidden`, of the same shape."""
        return adapt(hidden, self.network(self.layer, self.position))
