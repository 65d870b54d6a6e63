"""Spec, which says what trains in a model, and Trainable, a model that a spec has been put on.

A `Spec` is a pure value: it is counted, named and saved without a model. A `Trainable` is what an optimizer trains.
Training loop, checkpoint, delta, bank and record know a method through these two alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Literal, NoReturn, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normtune.errors import ModelError, SelectionError
from normtune.models.base import APPLIED, TUNED, Base
from normtune.models.layout import Layout, Place, statistics as running
from normtune.models.precision import Float32Module
from normtune.records.run import Counts

#: Extra cost of a trained model at inference over the base model, after merging all that can be merged.
Cost = Literal["none", "extra tokens", "extra layers"]


class Hook:
    """What a method does in each step besides the optimizer's update; this base class does nothing.

    A training loop calls `start` once. In each step, counted from 1, it calls `gradient` between the backward pass and
    clipping, and `stepped` between the optimizer's step and zeroing the gradients.

    Attributes:
        ready: Whether the current values may be kept, as a best epoch or as a delta.
    """

    ready: bool = True

    def start(self, steps: int, seed: int) -> None:
        """Called once, before the first of `steps` steps.

        Draws in a step depend only on its number and the run's seed, so that no generator state is saved.
        """

    def gradient(self, step: int) -> None:
        """Change the gradient of a step."""

    def stepped(self, step: int) -> None:
        """Change the trained values after the optimizer's step."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint saves besides the trained values, by name."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned; the hook is started and the trained values are restored already."""

    def result(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]] | None:
        """The spec and the state that a delta stores for these trained values; None for those of `Spec.made`."""


class Spec(ABC):
    """What trains in a model besides the head: existing entries, or added parameters.

    Its state is a float32 vector for each of its tensors, by name.

    Attributes:
        layout: The layout of the model that it is for.
    """

    layout: Layout

    @abstractmethod
    def __len__(self) -> int:
        """Number of trained entries that a delta holds, without the head's."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over the layout and all that determines what trains; equal specs have equal hashes."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The pre-trained parameters that train, for equation 1; none by default."""
        return ()

    @property
    def added(self) -> int:
        """Number of entries added to the pre-trained model's; 0 by default."""
        return 0

    @property
    def cost(self) -> Cost:
        """Extra cost at inference; none by default."""
        return "none"

    @abstractmethod
    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """Put the spec on a base with frozen parameters, in place, and return the leaves for an optimizer, by name.

        Callbacks pushed on `undo` restore the base, to the bit. `Trainable` calls this.
        """

    def hook(self, leaves: Mapping[str, nn.Parameter]) -> Hook:
        """The method's hook on these leaves; by default one that does nothing."""
        return Hook()

    @abstractmethod
    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        """Whether this leaf, one that `put` returned, has weight decay; norms and biases have none."""

    @abstractmethod
    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Make a base compute with what `Trainable.values` returned, without training it; `undo` is as in `put`."""

    @abstractmethod
    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Like `apply`, but write the values into the base's own parameters; its modules and names do not change.

        Raises:
            DeltaError: If added parameters cannot be merged.
        """

    @abstractmethod
    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The values that replace the base's for this task's rows in a batch that several tasks share.

        For each parameter these are the entries' positions in the flattened parameter, and their values.

        Raises:
            ModelError: If this task's rows cannot share a batch with others.
        """

    def describe(self) -> dict[str, Any] | None:
        """What a delta stores to rebuild the spec, with its name in METHODS as ``method``; None for a selection."""
        return None

    def made(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]]:
        """The spec and the state that a delta stores for these trained values; by default this spec and all values."""
        return self, dict(values)

    @property
    def positions(self) -> int:
        """How many of the model's positions it takes away from a text."""
        return 0

    @property
    def share(self) -> float:
        """Trained entries over all pre-trained ones."""
        return len(self) / self.layout.size

    def counts(self, layout: Layout) -> Counts:
        """How many entries train in a model with this layout, which includes the task's head."""
        return Counts(
            selected=len(self),
            head=layout.head_size,
            trained=len(self) + layout.head_size,
            total=layout.size + layout.head_size + self.added,
            share=self.share,
        )


@final
class Trainable:
    """A model in which a spec's entries and the head train, and nothing else.

    Args:
        base: The base model; its model is changed in place until `undo`.
        spec: What trains beside the head.
        method: The method's name or the expression, for the delta.

    Attributes:
        leaves: The spec's parameters for an optimizer, by name.
        head: The head's parameters, by name.
        hook: What a training loop calls in each step.

    Raises:
        SelectionError: If the spec is for another model.
        ModelError: If the model is being tuned already, or its parameters are sharded.
    """

    def __init__(self, base: Base, spec: Spec, method: str = "") -> None:
        if spec.layout.fingerprint != base.layout.fingerprint:
            raise SelectionError("The spec is for another model.")
        check_free(base.model)
        self.base, self.spec, self.method = base, spec, method
        with ExitStack() as undo:
            self.head = _freeze(base, undo)
            self.leaves = spec.put(base, undo)
            for leaf in self.leaves.values():
                leaf.requires_grad_()
            self.hook = spec.hook(self.leaves)
            self._statistics = _statistics(base)
            self._undo, self._undone = undo.pop_all(), False

    def __deepcopy__(self, _: object) -> NoReturn:
        """Refuse: a copy would undo the original's model."""
        raise ModelError("A Trainable cannot be copied. Keep values() and head_values(), or copy the model itself.")

    def undo(self) -> None:
        """Restore the model, to the bit."""
        self._undo.close()
        self._undone = True

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that trains: the leaves, then the head."""
        yield from self.leaves.values()
        yield from self.head.values()

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: no decay on norms and biases, `weight_decay` on everything else."""
        by_name = self.base.layout.by_name
        decayed: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, leaf in self.leaves.items():
            decayed[self.spec.decays(name, leaf)].append(leaf)
        for name, parameter in self.head.items():
            decayed[decays(by_name[name])].append(parameter)
        rates = {True: weight_decay, False: 0.0}
        return [{"params": own, "weight_decay": rates[decay]} for decay, own in decayed.items() if own]

    def values(self) -> dict[str, Tensor]:
        """Copies of the spec's current state: float32 vectors on the CPU, by name."""
        return {name: leaf.detach().reshape(-1).float().cpu().clone() for name, leaf in self.leaves.items()}

    def result(self) -> tuple[Spec, dict[str, Tensor]]:
        """The spec and the state that a delta stores for the current values.

        Raises:
            ModelError: If the method's hook is not ready, everything was undone, or the model was converted to a lower
                precision.
        """
        if self._undone:
            raise ModelError("This was undone, so nothing of it is left: capture the delta before undo.")
        if any(leaf.dtype.itemsize < 4 for leaf in self.parameters()):
            raise ModelError(
                "The model was converted to a lower precision while it was tuned, which rounded what trains; convert it"
                " before."
            )
        if not self.hook.ready:
            raise ModelError(
                "This method is not done: its hook must be started, and called in each step until it is ready."
            )
        values = self.values()
        return self.hook.result(values) or self.spec.made(values)

    def head_values(self) -> dict[str, Tensor]:
        """Copies of the head's current values, float32, on the CPU, by parameter name."""
        return {name: value.detach().float().cpu().clone() for name, value in self.head.items()}

    def statistics_values(self) -> dict[str, Tensor]:
        """BatchNorm's running statistics and counts, if training moved any, by buffer name; otherwise none.

        They are copies on the CPU, the statistics in float32.
        """
        own = _statistics(self.base)
        return own if any(not torch.equal(value, self._statistics[name]) for name, value in own.items()) else {}

    def load(
        self, values: Mapping[str, Tensor], head: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None = None
    ) -> None:
        """Load what `values`, `head_values` and `statistics_values` returned.

        Raises:
            ModelError: If everything was undone: the values would go into the base.
        """
        if self._undone:
            raise ModelError("This was undone: load values before undo, or apply a delta.")
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(values[name].reshape(leaf.shape))
            for name, parameter in self.head.items():
                parameter.copy_(head[name])
            for name, value in (statistics or self._statistics).items():
                self.base.model.get_buffer(name).copy_(value)


def _statistics(base: Base) -> dict[str, Tensor]:
    """Copies of a model's running statistics, float32, and of their counts, on the CPU."""
    own = {name: base.model.get_buffer(name).detach().cpu() for name in running(base.model, counted=True)}
    return {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in own.items()
    }


def decays(place: Place) -> bool:
    """Whether a parameter has weight decay: norms and biases have none."""
    return not place.norm and place.sub == "weight"


@torch.no_grad()
def copy_values(parameter: Tensor, values: Tensor) -> None:
    """Set a parameter or a buffer, on whatever device it is now."""
    parameter.copy_(values)


def check_free(model: nn.Module) -> None:
    """Check that a model's parameters are neither sharded nor computed, and that it is not tuned and has no delta.

    Raises:
        ModelError: If one is sharded or computed by a parametrization, or the model is being tuned or carries a delta.
    """
    encoder = getattr(model, "base_model", model)  # a wrapper around a sharded model has none
    if hasattr(encoder, APPLIED):
        raise ModelError("This model carries a delta; remove that first.")
    if hasattr(encoder, TUNED):
        raise ModelError("This model is being tuned already; undo that first.")
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ModelError(
                f"{path!r} computes a parameter of its own (as weight norm does). Call"
                " torch.nn.utils.parametrize.remove_parametrizations on it, then wrap the model."
            )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh") or "_fsdp_wrapped_module" in name:
            raise ModelError(
                "This model's parameters are sharded (FSDP, DeepSpeed or DTensor); normtune needs them whole."
            )


def _freeze(base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
    """Freeze a model except its head, whose parameters are returned; callbacks on `undo` restore everything."""
    model = base.model
    setattr(model.base_model, TUNED, True)
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    head = {place.parameter: model.get_parameter(place.parameter) for place in base.layout.head}
    # Buffers too: a normalisation updates its running statistics in training.
    kept = {name: value.detach().clone() for name, value in (*head.items(), *model.named_buffers())}

    @torch.no_grad()
    def thaw() -> None:
        own = {**head, **dict(model.named_buffers())}
        for name, value in kept.items():
            own[name].copy_(value)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag).grad = None
        delattr(model.base_model, TUNED)

    undo.callback(thaw)
    model.requires_grad_(False)
    # The head of a wrapped model may be in lower precision, which loses small steps, so it is raised to float32. Its
    # output stays float32, like that of an applied delta's head (`normtune.models.precision.in_float32`).
    for path in dict.fromkeys(name.rpartition(".")[0] for name, own in head.items() if own.dtype.itemsize < 4):
        undo.callback(Float32Module(model.get_submodule(path), lower=False).undo)
    head = {name: model.get_parameter(name) for name in head}
    for parameter in head.values():
        parameter.requires_grad_()
    return head
