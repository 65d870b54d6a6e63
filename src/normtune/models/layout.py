"""Which component a parameter belongs to, for any family of transformers.

Names are matched whole: a component's name is the path of the module that owns the parameter, without the
prefix that the checkpoint puts before every name and without the layer's own path and number. So
``bert.encoder.layer.3.attention.output.LayerNorm.bias`` is the sub-component ``bias`` of
``attention.output.LayerNorm`` in layer 3, and ``output.LayerNorm`` never matches it.

Image models have layers within stages. Layers are numbered across stages: the first layer of the second stage follows
the last one of the first. A list inside a layer is a list of layers if each of its items has norms and resembles
another item; T5's list of attention and feed-forward block is not.
"""

from __future__ import annotations

import copy
import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from normtune.config import Sub


@dataclass(frozen=True)
class Place:
    """Where one parameter is in the model.

    Attributes:
        parameter: Its full name in the model.
        component: The component it belongs to.
        sub: Its sub-component, ``weight`` or ``bias``.
        layer: Number of its layer from 0, or None outside the layers.
        shape: Its shape.
        head: Whether it belongs to the head.
        norm: Whether a normalisation module owns it.
        batch: Whether that module is a BatchNorm.
        stage: Whether a stage has it beside its layers.
        linear: Whether a linear layer owns it; a router of experts, which returns its choice, does not count.
    """

    parameter: str
    component: str
    sub: Sub
    layer: int | None
    shape: tuple[int, ...]
    head: bool
    norm: bool
    batch: bool = False
    stage: bool = False
    linear: bool = False

    @property
    def size(self) -> int:
        """Number of its entries."""
        return prod(self.shape)


@dataclass(frozen=True)
class Component:
    """All the parameters of one component, over every layer.

    Attributes:
        name: The component's name.
        subs: Its sub-components.
        layers: Numbers of the layers that have it; empty outside the layers.
        entries: Number of entries, all layers and sub-components together.
        head: Whether it belongs to the head.
        norm: Whether it is a normalisation.
    """

    name: str
    subs: tuple[Sub, ...]
    layers: tuple[int, ...]
    entries: int
    head: bool
    norm: bool


@dataclass(frozen=True)
class Layout:
    """The parameters of a model in its own order, each shared tensor once.

    Attributes:
        model_type: The family, as its configuration calls it (``bert``).
        places: One for each parameter.
    """

    model_type: str
    places: tuple[Place, ...]

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    @cached_property
    def body(self) -> tuple[Place, ...]:
        """The pre-trained parameters: all but the head."""
        return tuple(place for place in self.places if not place.head)

    @cached_property
    def head(self) -> tuple[Place, ...]:
        """The parameters of the head."""
        return tuple(place for place in self.places if place.head)

    @cached_property
    def by_name(self) -> dict[str, Place]:
        """Places by parameter name."""
        return {place.parameter: place for place in self.places}

    @cached_property
    def size(self) -> int:
        """Number of pre-trained entries."""
        return sum(place.size for place in self.body)

    @cached_property
    def head_size(self) -> int:
        """Number of entries of the head."""
        return sum(place.size for place in self.head)

    @cached_property
    def layers(self) -> int:
        """Number of layers of the deepest stack."""
        return 1 + max((place.layer for place in self.body if place.layer is not None), default=-1)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The components, in the order in which the model first names them."""
        groups: dict[str, list[Place]] = defaultdict(list)
        for place in self.places:
            groups[place.component].append(place)
        return tuple(
            Component(
                name=name,
                subs=tuple(sub for sub in ("weight", "bias") if any(place.sub == sub for place in places)),
                layers=tuple(sorted({place.layer for place in places if place.layer is not None})),
                entries=sum(place.size for place in places),
                head=places[0].head,
                norm=places[0].norm,
            )
            for name, places in groups.items()
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash over names and shapes of the pre-trained parameters; selections are checked against it."""
        text = "\n".join(f"{place.parameter} {place.shape}" for place in self.body)
        return hashlib.sha256(text.encode()).hexdigest()


def layout(model: PreTrainedModel, head: Iterable[str]) -> Layout:
    """The layout of `model`, whose head has the parameters named in `head`.

    No weights are read, so the model may be on the meta device.
    """
    head_names = set(head)
    # A 4-bit matrix is stored as a column of bytes; its quant_state has the true shape.
    shapes = {
        name: tuple(getattr(parameter, "quant_state", parameter).shape) for name, parameter in model.named_parameters()
    }
    body = [name for name in shapes if name not in head_names]
    prefix = f"{model.base_model_prefix}."
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in shapes}
    norms = {name for name, owner in owners.items() if is_norm(owner)}
    paths = {name: _Path(name.removeprefix(prefix), name in norms) for name in body}
    # A list of single modules that are no norms, such as embedding tables, is not a list of layers.
    real = {path.stack for path in paths.values() if path.norm or len(path.rest) > 1}
    nested = _nested_lists(paths.values())
    for each in paths.values():
        each.settle(real, nested)
    single = _single_lists(paths.values())
    stacks = {path.stack for path in paths.values() if path.spot}
    layers = _numbers(paths.values())
    inside = {path.component(stacks, single) for path in paths.values() if path.spot}
    places = []
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        path = paths.get(name)
        component = path.component(stacks, single) if path else _own_component(name.removeprefix(prefix))
        if component in inside and path and not path.spot:  # named like one in the layers, as ConvNeXt's last norm is
            component = prefix + component
        places.append(
            Place(
                parameter=name,
                component=component,
                sub="bias" if leaf == "bias" or leaf.endswith("_bias") else "weight",
                layer=layers[path.stack].get(path.spot) if path else None,
                shape=shape,
                head=name in head_names,
                norm=name in norms,
                batch=isinstance(owners[name], nn.modules.batchnorm._BatchNorm),
                stage=path is not None and len(path.spot) < max(map(len, layers[path.stack]), default=0),
                linear=isinstance(owners[name], nn.Linear | Conv1D) and "Router" not in type(owners[name]).__name__,
            )
        )
    return Layout(model.config.model_type, tuple(places))


def statistics(model: nn.Module, *, counted: bool = False) -> list[str]:
    """Names of the buffers that hold the running statistics of norms (BatchNorm's running mean and variance).

    With `counted`, those that hold the number of batches seen are included.
    """
    kept = {"running_mean", "running_var", *(["num_batches_tracked"] if counted else [])}
    return [f"{path}.{name}" for path, module in model.named_modules() for name in module._buffers if name in kept]


#: torch's own normalisations; its BatchNorm and InstanceNorm share a base class.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
#: Other classes that were tried, and whether they normalise.
_TRIED: dict[type[nn.Module], bool] = {}


def is_norm(module: nn.Module) -> bool:
    """Whether `module` normalises: one of torch's normalisations, or another class that computes one.

    Such a class has no submodules, and a weight (and perhaps a bias) of one dimension. It is tried once, on a small
    copy on the CPU, so a module on the meta device will do: its outputs must be the same for ten times the inputs, and
    others for another weight.
    """
    if isinstance(module, _NORMS):
        return True
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if weight is None or weight.ndim != 1 or parameters.keys() - {"weight", "bias"} or any(module.children()):
        return False
    kind = type(module)
    if kind not in _TRIED:
        _TRIED[kind] = _normalises(module)
    return _TRIED[kind]


@torch.no_grad()
def _normalises(module: nn.Module) -> bool:
    """Whether a copy of `module` gives the same outputs for ten times its inputs, and others for another weight."""
    own = copy.deepcopy(module).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    width = dict(own.named_parameters())["weight"].numel()
    for parameter in own.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu"))
    inputs = 100 * torch.randn(2, 3, width, generator=generator, device="cpu")

    def holds(*gate: Tensor) -> bool:
        try:
            # The forward of its class, so that no hook runs.
            outputs, larger = (type(own).forward(own, values, *gate) for values in (inputs, 10 * inputs))
            own.get_parameter("weight").add_(1.0)
            other = type(own).forward(own, inputs, *gate)
            same = torch.allclose(outputs, larger, rtol=1e-3, atol=1e-3)
            return same and not torch.allclose(outputs, other, atol=1e-1)
        except Exception:  # it takes other inputs, or returns other than one tensor
            return False

    return holds() or holds(torch.ones_like(inputs))  # Qwen3-Next's norms want a gate beside the hidden states


def _own_component(path: str) -> str:
    """The owning module's path; a parameter that is no module's weight or bias is a component of its own."""
    module, _, leaf = path.rpartition(".")
    return module if leaf in {"weight", "bias"} and module else path


#: A list inside a layer: the stack, and the names that lead to it from the layer.
_List = tuple[str, tuple[str, ...]]


class _Path:
    """A parameter's path without the base's prefix, split at its first number.

    Attributes:
        stack: The list of layers, or of stages.
        spot: The position in it: empty outside the layers, (layer,), or (stage, layer).
        rest: The names inside the layer.
        norm: Whether a norm owns it.
    """

    def __init__(self, path: str, norm: bool) -> None:
        self._parts = parts = path.split(".")
        self.stack, self.spot, self.rest, self.norm = "", tuple[int, ...](), parts, norm
        at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if at is not None:
            self.stack, self.spot, self.rest = ".".join(parts[:at]), (int(parts[at]),), parts[at + 1 :]

    def lists(self) -> Iterator[tuple[_List, int]]:
        """The lists inside the layer that this path goes through, with the position in each."""
        for i, part in enumerate(self.rest):
            if part.isdigit():
                yield (self.stack, tuple(self.rest[:i])), int(part)

    def settle(self, stacks: set[str], nested: set[_List]) -> None:
        """Drop a stack that holds no layers; if a layer's first inner list holds layers, treat it as a stage."""
        if self.stack not in stacks:
            self.stack, self.spot, self.rest = "", (), self._parts
        inner, position = next(self.lists(), (None, 0))
        if inner in nested:
            self.spot, self.rest = (*self.spot, position), self.rest[len(inner[1]) + 1 :]

    def component(self, stacks: set[str], single: set[_List]) -> str:
        dropped = {
            len(inside) + step for (_, inside), _ in self.lists() if (self.stack, inside) in single for step in (-1, 0)
        }
        rest = [part for i, part in enumerate(self.rest) if i not in dropped]
        if self.spot and len(rest) == 1 and rest[0] in {"weight", "bias"}:  # the layers of this stack are single norms
            return self.stack
        name = _own_component(".".join(rest))
        if not self.spot or len(stacks) < 2:
            return name
        first = self.stack.split(".")[0]
        clash = sum(stack.split(".")[0] == first for stack in stacks) > 1
        return f"{self.stack if clash else first}.{name}"


def _numbers(paths: Iterable[_Path]) -> dict[str, dict[tuple[int, ...], int]]:
    """By stack, the layer number of each spot; parameters of a stage outside its layers go to its first layer."""
    spots: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for path in paths:
        spots[path.stack].add(path.spot)
    numbers: dict[str, dict[tuple[int, ...], int]] = defaultdict(dict)
    for stack, own in spots.items():
        staged = sorted(spot for spot in own if len(spot) > 1)
        for spot in filter(None, own):
            numbers[stack][spot] = min(bisect_left(staged, spot), len(staged) - 1) if staged else spot[0]
    return numbers


def _nested_lists(paths: Iterable[_Path]) -> set[_List]:
    """Lists inside a layer that are themselves lists of layers, which makes the layer a stage."""
    items: dict[_List, dict[int, dict[tuple[str, ...], bool]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        for inner, position in path.lists():
            items[inner][position][tuple(path.rest[len(inner[1]) + 1 :])] = path.norm

    def layers(own: dict[int, dict[tuple[str, ...], bool]]) -> bool:
        return all(
            any(item.values()) and any(item.keys() <= other.keys() or other.keys() <= item.keys() for other in others)
            for number, item in own.items()
            for others in [[other for place, other in own.items() if place != number]]
        )

    return {inner for inner, own in items.items() if layers(own)}


def _single_lists(paths: Iterable[_Path]) -> set[_List]:
    """Lists inside a layer that hold one module only (ALBERT's inner groups), so that their number says nothing."""
    positions: dict[_List, set[int]] = defaultdict(set)
    for path in paths:
        for inner, position in path.lists():
            positions[inner].add(position)
    return {inner for inner, seen in positions.items() if seen == {0}}
