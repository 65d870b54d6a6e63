"""What trains of a model: the leaves of the selected entries, and the head's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normtune.models.base import Base


class Trained:
    """Leaves and head by parameter name; whoever makes them says how the model comes to compute with them.

    Attributes:
        base: The base model.
        leaves: What trains of its own parameters: a parameter as it is, or the packed vector of its selected values.
        head: The head's parameters.
    """

    base: Base
    leaves: dict[str, nn.Parameter]
    head: dict[str, nn.Parameter]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that trains: the leaves, then the head."""
        yield from self.leaves.values()
        yield from self.head.values()

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: no decay on norms and biases, `weight_decay` on everything else."""
        by_name = self.base.layout.by_name
        decayed: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in {**self.leaves, **self.head}.items():
            place = by_name[name]
            decayed[not place.norm and place.sub == "weight"].append(parameter)
        groups = [
            {"params": decayed[True], "weight_decay": weight_decay},
            {"params": decayed[False], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def values(self) -> dict[str, Tensor]:
        """Copies of the selected values as they are now: packed vectors, float32, on the CPU, by parameter name."""
        return {name: leaf.detach().reshape(-1).float().cpu().clone() for name, leaf in self.leaves.items()}

    def head_values(self) -> dict[str, Tensor]:
        """Copies of the head's values as they are now, float32, on the CPU, by parameter name."""
        return {name: value.detach().float().cpu().clone() for name, value in self.head.items()}

    def load(self, values: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> None:
        """Set what trains to `values` and `head`, as `values` and `head_values` gave them."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(values[name].reshape(leaf.shape))
            for name, parameter in self.head.items():
                parameter.copy_(head[name])
