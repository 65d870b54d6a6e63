"""What a method makes of a base: a spec, which says what trains, and the trainable that it becomes on a model.

A `Spec` is a pure value: it is counted, named and saved without a model. `Spec.put` puts it on one, and gives the
`Trainable` that an optimizer trains. Loop, checkpoint, delta, bank and record know nothing else of a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normtune.errors import ModelError
from normtune.models.base import Base
from normtune.models.layout import Layout, Place
from normtune.records.run import Counts


class Spec(ABC):
    """What trains of a model, beside the head: existing entries, or parameters that are added.

    Its state is a float32 vector for each of its tensors, by name.

    Attributes:
        layout: The parameters of the model that it is for.
    """

    layout: Layout

    @abstractmethod
    def __len__(self) -> int:
        """Number of trained entries, the head's left out."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over the layout and all that says what trains; equal specs have equal ones."""

    @property
    @abstractmethod
    def places(self) -> tuple[Place, ...]:
        """The pre-trained parameters that train, for equation 1; empty where parameters are added."""

    @property
    @abstractmethod
    def added(self) -> int:
        """Number of entries that are not the pre-trained model's."""

    @abstractmethod
    def put(self, base: Base) -> Trainable:
        """Put it on a base, where it trains until `Trainable.undo`.

        Raises:
            SelectionError: If it is of another model.
            ModelError: If the model is being tuned already, or its parameters are sharded.
        """

    @abstractmethod
    def apply(self, base: Base, state: Mapping[str, Tensor]) -> Applied:
        """Make a base compute with `state`, nothing of which trains, until `Applied.undo`."""

    @abstractmethod
    def merge(self, base: Base, state: Mapping[str, Tensor]) -> Applied:
        """Like `apply`, with the values in the base's own parameters, so that its modules and names are as before.

        Raises:
            DeltaError: If added parameters cannot be merged.
        """

    @abstractmethod
    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The values that replace the base's for this task's rows, in a batch that several tasks share.

        Returns:
            By parameter the positions of the entries in the flattened parameter, and their values.

        Raises:
            ModelError: If its rows cannot share a batch with others.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any] | None:
        """What makes it again from a delta, with its name in METHODS as ``method``; None for a selection."""

    @property
    def share(self) -> float:
        """Trained entries over all pre-trained ones."""
        return len(self) / self.layout.size

    def counts(self, layout: Layout) -> Counts:
        """How many entries train.

        Args:
            layout: The model's parameters, with the head of the task.
        """
        return Counts(
            selected=len(self),
            head=layout.head_size,
            trained=len(self) + layout.head_size,
            total=layout.size + layout.head_size + self.added,
            share=self.share,
        )


class Applied(ABC):
    """A spec's state on a base."""

    @abstractmethod
    def undo(self) -> None:
        """Put the base back, to the bit, as it was before."""


class Trainable(Applied):
    """A model in which a spec's entries and the head train, and nothing else.

    Attributes:
        base: The base model; its model is changed in place until `undo`.
        spec: What trains beside the head.
        leaves: What an optimizer sees of it, by name.
        head: The head's parameters, by name.
    """

    base: Base
    spec: Spec
    leaves: dict[str, nn.Parameter]
    head: dict[str, nn.Parameter]

    @abstractmethod
    def decays(self, name: str) -> bool:
        """Whether the leaf called `name` has weight decay: norms and biases have none."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that trains: the leaves, then the head."""
        yield from self.leaves.values()
        yield from self.head.values()

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: no decay on norms and biases, `weight_decay` on everything else."""
        by_name = self.base.layout.by_name
        decayed: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, leaf in self.leaves.items():
            decayed[self.decays(name)].append(leaf)
        for name, parameter in self.head.items():
            decayed[decays(by_name[name])].append(parameter)
        groups = [
            {"params": decayed[True], "weight_decay": weight_decay},
            {"params": decayed[False], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def values(self) -> dict[str, Tensor]:
        """The spec's state as it is now: copies, float32 vectors on the CPU, by name."""
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


def decays(place: Place) -> bool:
    """Whether a parameter has weight decay: norms and biases have none."""
    return not place.norm and place.sub == "weight"


def refuse_sharded(model: nn.Module) -> None:
    """Check that every parameter lies whole on this process.

    Raises:
        ModelError: If one is sharded, or its model is being tuned already.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module):
            raise ModelError("This model is being tuned already; undo that first.")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh") or "_fsdp_wrapped_module" in name:
            raise ModelError(
                "This model's parameters are sharded (FSDP, DeepSpeed or DTensor); normtune needs them whole."
            )


class Frozen:
    """A model of which only the head trains, and what is unfrozen afterwards; `undo` puts all of it back.

    Args:
        base: The base model.

    Raises:
        ModelError: If the model is being tuned already.
    """

    def __init__(self, base: Base) -> None:
        model = base.model
        if hasattr(model, _MARK):
            raise ModelError("This model is being tuned already; undo that first.")
        setattr(model, _MARK, True)
        self._model = model
        self._flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        model.requires_grad_(False)
        self.head = {place.parameter: model.get_parameter(place.parameter) for place in base.layout.head}
        for parameter in self.head.values():
            parameter.requires_grad_()
        # Statistics that a normalisation keeps as it trains are put back too.
        self._kept = {name: value.detach().clone() for name, value in (*self.head.items(), *model.named_buffers())}

    def undo(self) -> None:
        """Put back the head's values, the buffers, and which parameters had gradients."""
        own = {**self.head, **dict(self._model.named_buffers())}
        with torch.no_grad():
            for name, value in self._kept.items():
                own[name].copy_(value)
        for parameter, flag in self._flags.items():
            parameter.requires_grad_(flag).grad = None
        delattr(self._model, _MARK)


#: An attribute of a model that is being tuned.
_MARK = "_normtune_tuned"
