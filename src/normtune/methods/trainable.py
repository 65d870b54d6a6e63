"""What a method makes of a base: a spec, which says what trains, and the trainable that it becomes on a model.

A `Spec` is a pure value: it is counted, named and saved without a model. A `Trainable` is a model with a spec on it,
which an optimizer trains. Loop, checkpoint, delta, bank and record know nothing else of a method.
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
from normtune.models.layout import Layout, Place
from normtune.models.layout import statistics as running
from normtune.models.precision import Raised
from normtune.records.run import Counts

#: What a trained model costs at inference beside the base model, once all that can be merged is merged.
Cost = Literal["none", "extra tokens", "extra layers"]


class Hook:
    """What a method does in each step beside the optimizer; as it stands, nothing.

    It is started once and then called in each step, from 1: by `gradient` between the backward pass and clipping, and
    by `stepped` between the optimizer's step and the removal of the gradient. A loop knows nothing else of it.

    Attributes:
        ready: Whether what trains may be kept as it is now, as a best epoch or as a delta.
    """

    ready: bool = True

    def start(self, steps: int, seed: int) -> None:
        """Called once, before the first of `steps` steps.

        What is drawn in a step follows from its number and the run's seed, so that no generator is kept.
        """

    def gradient(self, step: int) -> None:
        """Change the gradient of a step."""

    def stepped(self, step: int) -> None:
        """Change what trains, once the optimizer has changed it."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the trained values, by name."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, in a hook that was started and whose trained values are as they were then."""

    def result(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]] | None:
        """What a delta holds of these values of what trained; None for what the spec says (`Spec.made`)."""


class Spec(ABC):
    """What trains of a model, beside the head: existing entries, or parameters that are added.

    Its state is a float32 vector for each of its tensors, by name.

    Attributes:
        layout: The parameters of the model that it is for.
    """

    layout: Layout

    @abstractmethod
    def __len__(self) -> int:
        """Number of trained entries that a delta holds, the head's left out."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over the layout and all that says what trains; equal specs have equal ones."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The pre-trained parameters that train, for equation 1; none, unless a method says which."""
        return ()

    @property
    def added(self) -> int:
        """Number of entries that are not the pre-trained model's; none, unless a method adds some."""
        return 0

    @property
    def cost(self) -> Cost:
        """What it costs at inference; nothing, unless a method says what."""
        return "none"

    @abstractmethod
    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """Put it on a base whose parameters are frozen, in place, and give what an optimizer is to see, by name.

        `undo` takes what puts the base back, to the bit. A `Trainable` calls this.
        """

    def hook(self, leaves: Mapping[str, nn.Parameter]) -> Hook:
        """What the method does to the leaves in each step beside the optimizer; nothing, unless it has its own hook."""
        return Hook()

    @abstractmethod
    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        """Whether this leaf, one of those that `put` gave, has weight decay: norms and biases have none."""

    @abstractmethod
    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Make a base compute with what `Trainable.values` gave, nothing of which trains; `undo` is as in `put`."""

    @abstractmethod
    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Like `apply`, with the values in the base's own parameters, so that its modules and names are as before.

        Raises:
            DeltaError: If added parameters cannot be merged.
        """

    @abstractmethod
    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The values that replace the base's for this task's rows, in a batch that several tasks share.

        They are by parameter the positions of the entries in the flattened parameter, and their values.

        Raises:
            ModelError: If its rows cannot share a batch with others.
        """

    def describe(self) -> dict[str, Any] | None:
        """What makes it again from a delta, with its name in METHODS as ``method``; None for a selection."""
        return None

    def made(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]]:
        """What a delta holds of these values of what trained: a spec, and its state; here all of them, as they are."""
        return self, dict(values)

    @property
    def positions(self) -> int:
        """How many of the model's positions it takes, which a text then has not."""
        return 0

    @property
    def share(self) -> float:
        """Trained entries over all pre-trained ones."""
        return len(self) / self.layout.size

    def counts(self, layout: Layout) -> Counts:
        """How many entries train of a model with this layout, which has the head of the task."""
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
        leaves: What an optimizer sees of the spec, by name.
        head: The head's parameters, by name.
        hook: What a training loop calls in each step.

    Raises:
        SelectionError: If the spec is of another model.
        ModelError: If the model is being tuned already, or its parameters are sharded.
    """

    def __init__(self, base: Base, spec: Spec, method: str = "") -> None:
        if spec.layout.fingerprint != base.layout.fingerprint:
            raise SelectionError("What is to train is of another model.")
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
        raise ModelError("What trains is not copied. Keep values() and head_values(), or copy the model itself.")

    def undo(self) -> None:
        """Put the model back, to the bit, as it was before."""
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
        """The spec's state as it is now: copies, float32 vectors on the CPU, by name."""
        return {name: leaf.detach().reshape(-1).float().cpu().clone() for name, leaf in self.leaves.items()}

    def result(self) -> tuple[Spec, dict[str, Tensor]]:
        """What a delta holds of the values as they are now: its spec, and that one's state.

        Raises:
            ModelError: If the method has not done yet what its hook is to do, everything was undone, or the model was
                converted to a lower precision.
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
                "This method is not done: its hook is to be started, and called in each step until it is ready."
            )
        values = self.values()
        return self.hook.result(values) or self.spec.made(values)

    def head_values(self) -> dict[str, Tensor]:
        """Copies of the head's values as they are now, float32, on the CPU, by parameter name."""
        return {name: value.detach().float().cpu().clone() for name, value in self.head.items()}

    def statistics_values(self) -> dict[str, Tensor]:
        """BatchNorm's running statistics and counts, if training moved any, by buffer name; otherwise none.

        They are copies, float32, on the CPU.
        """
        own = _statistics(self.base)
        return own if any(not torch.equal(value, self._statistics[name]) for name, value in own.items()) else {}

    def load(
        self, values: Mapping[str, Tensor], head: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None = None
    ) -> None:
        """Set what trains to what `values`, `head_values` and `statistics_values` gave.

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
    """Set a parameter or a buffer, wherever its model is by now."""
    parameter.copy_(values)


def check_free(model: nn.Module) -> None:
    """Check that every parameter lies whole on this process, and that none is being tuned or a delta's.

    Raises:
        ModelError: If one is sharded or computed by a parametrization, or its model is being tuned or carries a delta.
    """
    if hasattr(model, APPLIED):
        raise ModelError("This model carries a delta; remove that first.")
    if hasattr(model, TUNED):
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
    """Freeze a model but for its head, whose parameters are returned; `undo` takes what puts all of it back."""
    model = base.model
    setattr(model, TUNED, True)
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    head = {place.parameter: model.get_parameter(place.parameter) for place in base.layout.head}
    # Statistics that a normalisation keeps as it trains are put back too.
    kept = {name: value.detach().clone() for name, value in (*head.items(), *model.named_buffers())}

    @torch.no_grad()
    def thaw() -> None:
        own = {**head, **dict(model.named_buffers())}
        for name, value in kept.items():
            own[name].copy_(value)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag).grad = None
        delattr(model, TUNED)

    undo.callback(thaw)
    model.requires_grad_(False)
    # The head of a model that was wrapped may be of lower precision, in which small steps are lost. Its output stays
    # float32, as that of an applied delta's head does (`normtune.models.precision.in_float32`).
    for path in dict.fromkeys(name.rpartition(".")[0] for name, own in head.items() if own.dtype.itemsize < 4):
        undo.callback(Raised(model.get_submodule(path), lower=False).undo)
    head = {name: model.get_parameter(name) for name in head}
    for parameter in head.values():
        parameter.requires_grad_()
    return head
