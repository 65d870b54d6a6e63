"""The head: the parameters that a task brings, put on a base model and taken off again.

The head is every parameter outside the encoder, and the pooler where the checkpoint has none. Its values are drawn
anew, except those that the checkpoint holds below the output layer (`Base.begin`). It computes in float32 whatever the
base's dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from transformers import PreTrainedModel

from normtune.data.kind import KindName
from normtune.data.kinds import KINDS, kind_of
from normtune.errors import DeltaError, ModelError, known
from normtune.models.device import seeded
from normtune.models.precision import in_float32


@dataclass(frozen=True)
class HeadSpec:
    """What a head answers.

    Attributes:
        kind: Name of the kind of task (`normtune.data.kinds.KINDS`).
        labels: Label names in class order; empty for regression.
    """

    kind: KindName
    labels: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return KINDS[self.kind].outputs(self.labels)

    @classmethod
    def numbered(cls, outputs: int, kind: KindName = "classification") -> HeadSpec:
        """A head of `outputs` labels called LABEL_0, LABEL_1, ..., if the kind has labels."""
        return cls(kind, tuple(f"LABEL_{i}" for i in range(outputs)) if KINDS[kind].named else ())

    def __post_init__(self) -> None:
        known("kind of task", self.kind, KINDS)
        if KINDS[self.kind].named and len(self.labels) < 2:
            raise ModelError(f"A classifier needs at least two labels; got {len(self.labels)}.")
        if len(set(self.labels)) != len(self.labels):
            raise ModelError("A classifier's label names must differ from each other.")


def head_roots(model: nn.Module, head: Iterable[str]) -> tuple[str, ...]:
    """Paths of the largest modules all of whose parameters are in `head`."""
    names = set(head)
    roots: list[str] = []
    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        inside = any(path.startswith(f"{root}.") for root in roots)
        if path and own and not inside and names.issuperset(own):
            roots.append(path)
    return tuple(roots)


class HeadSwap:
    """A head that replaces a model's modules at the paths `roots`, in place, until `undo`.

    Its values are `tensors`, by parameter name, or else `begin` with the rest drawn from `seed`. `changed` is called
    after the head is put on and after `undo`.

    Raises:
        DeltaError: If `tensors` are not this head's: a name or a shape differs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        roots: tuple[str, ...],
        spec: HeadSpec,
        changed: Callable[[], None],
        *,
        seed: int,
        begin: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor] | None,
    ) -> None:
        modules = new_head(model, roots, spec, seed)
        own = _parameters(modules)
        if tensors is not None:
            check_head(tensors, own)
        with torch.no_grad():
            for name, value in (begin if tensors is None else tensors).items():
                own[name].copy_(value)
            for path, module in modules.items():
                # Running statistics are no trained values: those of a head's norms stay.
                before = dict(model.get_submodule(path).named_buffers())
                for name, buffer in module.named_buffers():
                    if name in before and before[name].shape == buffer.shape:
                        buffer.copy_(before[name])
        self._model, self._changed = model, changed
        self._modules = {path: model.get_submodule(path) for path in roots}
        self._config = {name: getattr(model.config, name) for name in ("id2label", "label2id", "problem_type")}
        set_labels(model, spec)
        for path, module in modules.items():
            model.set_submodule(path, module.train(model.training), strict=True)
        changed()

    def undo(self) -> None:
        """Put back the model's former head, on its current device, and its labels and problem type."""
        for path, module in self._modules.items():
            self._model.set_submodule(path, module.to(self._model.device).train(self._model.training), strict=True)
        for name, value in self._config.items():
            setattr(self._model.config, name, value)
        _set_outputs(self._model)
        self._changed()


def set_labels(model: PreTrainedModel, spec: HeadSpec) -> None:
    """Set what the head answers in the model's configuration."""
    names = spec.labels or ("LABEL_0",)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.config.problem_type = KINDS[spec.kind].problem
    _set_outputs(model)


def _set_outputs(model: PreTrainedModel) -> None:
    """Set ``model.num_labels``, from which the forward pass of some families reads the head's width."""
    setattr(model, "num_labels", len(model.config.id2label or {}))  # noqa: B010


def read_spec(model: PreTrainedModel) -> HeadSpec:
    """What the model's current head answers, from its configuration.

    Raises:
        ModelError: If that is no known kind of task.
    """
    names: dict[Any, str] = model.config.id2label or {}
    problem, regression = model.config.problem_type, len(names) == 1
    if problem is not None and (problem == "regression") != regression:
        raise ModelError(f"A head of {len(names)} outputs for {problem} answers no kind of task that is known here.")
    problem = "regression" if regression else problem
    if {*names} != {*range(len(names))}:
        raise ModelError(f"The model's id2label numbers its labels {', '.join(map(str, names))}, not from 0 on.")
    kind = kind_of(type(model).__name__, problem)
    return HeadSpec(kind.name, tuple(names[i] for i in range(len(names))) if kind.named else ())


def new_head(model: PreTrainedModel, roots: tuple[str, ...], spec: HeadSpec, seed: int) -> dict[str, nn.Module]:
    """Fresh head modules for `model` by path, float32, on its device; their values depend on seed and shapes alone.

    Neither the model nor the global random state is changed.
    """
    device = next(model.parameters()).device
    blank = _without_values(model, roots, spec.outputs)
    modules = {path: module.to_empty(device="cpu").to(torch.float32) for path, module in blank.items()}
    with seeded(seed), torch.no_grad():
        for path in sorted(modules):
            for module in modules[path].modules():
                model._init_weights(module)
    low = model.dtype != torch.float32
    return {path: in_float32(module.to(device)) if low else module.to(device) for path, module in modules.items()}


def meta_head(model: PreTrainedModel, roots: tuple[str, ...], outputs: int) -> dict[str, nn.Parameter]:
    """The parameters, on the meta device, of a head with `outputs` outputs on `model`, at the paths `roots`."""
    return _parameters(_without_values(model, roots, outputs))


def check_head(values: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that `values`, by parameter name, fit a head with the parameters `own`.

    Raises:
        DeltaError: If a name or a shape differs.
    """
    if odd := sorted(own.keys() ^ values.keys()):
        raise DeltaError(f"The delta's head does not fit this model: {', '.join(odd)} only on one side.")
    for name, parameter in own.items():
        if values[name].shape != parameter.shape:
            found, wanted = tuple(values[name].shape), tuple(parameter.shape)
            raise DeltaError(f"The head's {name} has the shape {found} instead of {wanted}.")


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{path}.{name}": value for path, module in modules.items() for name, value in module.named_parameters()}


def _without_values(model: PreTrainedModel, roots: tuple[str, ...], outputs: int) -> dict[str, nn.Module]:
    """The head's modules, by path, of a twin of `model` with `outputs` outputs on the meta device."""
    config = copy.deepcopy(model.config)
    config.num_labels = outputs
    with torch.device("meta"):
        twin = type(model)(config)
    made = dict(twin.named_modules())
    if odd := [path for path in roots if path not in made]:
        raise ModelError(f"{type(model).__name__} defines no module {odd[0]!r}, so it cannot be a head's.")
    for path in roots if not getattr(model, "is_quantized", False) else ():
        own = model.get_submodule(path)
        if [*map(type_before_parametrizations, own.modules())] != [*map(type, made[path].modules())]:
            raise ModelError(
                f"The head's {path!r} is not the module that {type(model).__name__} makes there, so no delta could put"
                " it back; make it in the class's own __init__."
            )
    return {path: made[path] for path in roots}
