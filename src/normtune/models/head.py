"""The head: the parameters that a task brings, put on a base model and taken off again.

The head is every parameter that the base's checkpoint does not hold: always the classifier, and the pooler
where the checkpoint has none. It computes in float32 whatever the base's dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from normtune.data.task import Kind
from normtune.errors import DeltaError, ModelError
from normtune.models.precision import in_float32


@dataclass(frozen=True)
class HeadSpec:
    """What a head answers.

    Attributes:
        kind: ``classification`` or ``regression``.
        labels: Label names in class order; empty for regression.
    """

    kind: Kind
    labels: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def problem_type(self) -> Literal["regression", "single_label_classification"]:
        """The name that transformers has for it."""
        return "regression" if self.kind == "regression" else "single_label_classification"

    @classmethod
    def numbered(cls, outputs: int) -> HeadSpec:
        """A classifier over `outputs` labels without names of their own."""
        return cls("classification", tuple(f"LABEL_{i}" for i in range(outputs)))

    def __post_init__(self) -> None:
        if self.kind == "classification" and len(self.labels) < 2:
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
    """A head put on a model, which `undo` takes off again.

    Args:
        model: The model; it is changed in place.
        roots: Paths of the head's modules (see `head_roots`).
        spec: What the new head answers.
        seed: Seeds the new head's values.
        tensors: The new head's values by parameter name; without them they are drawn from `seed`.

    Raises:
        DeltaError: If `tensors` are not this head's: a name or a shape differs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        roots: tuple[str, ...],
        spec: HeadSpec,
        *,
        seed: int = 0,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        modules = new_head(model, roots, spec, seed)
        if tensors is not None:
            _fill(modules, tensors)
        self._model = model
        self._modules = {path: model.get_submodule(path) for path in roots}
        self._config = {name: getattr(model.config, name) for name in ("id2label", "label2id", "problem_type")}
        set_labels(model, spec)
        for path, module in modules.items():
            model.set_submodule(path, module.train(model.training), strict=True)

    def undo(self) -> None:
        """Put back the head, the labels and the problem type that the model had."""
        for path, module in self._modules.items():
            self._model.set_submodule(path, module.train(self._model.training), strict=True)
        for name, value in self._config.items():
            setattr(self._model.config, name, value)
        _set_outputs(self._model)


def set_labels(model: PreTrainedModel, spec: HeadSpec) -> None:
    """Tell the model's configuration what its head answers."""
    names = spec.labels or ("LABEL_0",)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.config.problem_type = spec.problem_type
    _set_outputs(model)


def _set_outputs(model: PreTrainedModel) -> None:
    """Some families' forward pass reads the width from an attribute of the model's own."""
    setattr(model, "num_labels", len(model.config.id2label or {}))  # noqa: B010


def read_spec(model: PreTrainedModel) -> HeadSpec:
    """What the model's present head answers, from its configuration."""
    names: dict[Any, str] = model.config.id2label or {}
    if model.config.problem_type == "regression" or len(names) == 1:
        return HeadSpec("regression")
    return HeadSpec("classification", tuple(names[i] for i in range(len(names))))


def new_head(model: PreTrainedModel, roots: tuple[str, ...], spec: HeadSpec, seed: int) -> dict[str, nn.Module]:
    """Fresh head modules for `model`, with values that depend on `seed` and the shapes alone.

    Args:
        model: The model that they are for; it is not changed.
        roots: Paths of the head's modules.
        spec: What the head answers.
        seed: Seeds the values; the global random state is left as it was.

    Returns:
        Modules by path, float32, on the model's device.
    """
    twin = _without_values(model, spec.outputs)
    device = next(model.parameters()).device
    modules = {path: twin.get_submodule(path).to_empty(device="cpu").to(torch.float32) for path in roots}
    # Drawn on the CPU, so that a seed means the same head on every device.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for path in sorted(modules):
            for module in modules[path].modules():
                model._init_weights(module)
    low = model.dtype != torch.float32
    return {path: in_float32(module.to(device)) if low else module.to(device) for path, module in modules.items()}


def head_shapes(model: PreTrainedModel, roots: tuple[str, ...]) -> dict[str, tuple[int | None, ...]]:
    """The shape of each of a head's parameters, with None in the place of the number of outputs.

    Args:
        model: The model that heads are for.
        roots: Paths of the head's modules.
    """
    two, three = (
        {
            f"{path}.{name}": tuple(value.shape)
            for path in roots
            for name, value in _without_values(model, outputs).get_submodule(path).named_parameters()
        }
        for outputs in (2, 3)
    )
    return {
        name: tuple(a if a == b else None for a, b in zip(shape, three[name], strict=True))
        for name, shape in two.items()
    }


def outputs_of_values(shapes: Mapping[str, tuple[int | None, ...]], values: Mapping[str, Tensor]) -> int:
    """The number of outputs that a head with these values has.

    Args:
        shapes: What `head_shapes` gave for the model.
        values: The head's values by parameter name.

    Raises:
        DeltaError: If they are no head of this model.
    """
    if odd := sorted(shapes.keys() ^ values.keys()):
        raise DeltaError(f"The heads have different parameters: {', '.join(odd)} only on one side.")
    found: set[int] = set()
    for name, shape in shapes.items():
        own = tuple(values[name].shape)
        if len(own) != len(shape) or any(size not in {None, mine} for mine, size in zip(own, shape, strict=True)):
            wanted = ", ".join("outputs" if size is None else str(size) for size in shape)
            raise DeltaError(f"The head's {name} has the shape {own} instead of ({wanted}).")
        found.update(mine for mine, size in zip(own, shape, strict=True) if size is None)
    if len(found) != 1:
        raise DeltaError(f"The parts of the head do not fit together: {sorted(found)} outputs.")
    return found.pop()


def _without_values(model: PreTrainedModel, outputs: int) -> PreTrainedModel:
    """A model of the same kind on the meta device, with this many outputs."""
    config = copy.deepcopy(model.config)
    config.num_labels = outputs
    with torch.device("meta"):
        return type(model)(config)


def _fill(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    own = {f"{path}.{name}": value for path, module in modules.items() for name, value in module.named_parameters()}
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise DeltaError(f"The delta's head does not fit this model: {', '.join(odd)} only on one side.")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise DeltaError(
                f"The delta's {name} has shape {tuple(tensors[name].shape)}, the model's {tuple(value.shape)}."
            )
        with torch.no_grad():
            value.copy_(tensors[name])
