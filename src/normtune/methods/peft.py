"""Methods that add parameters through PEFT, whose adapters are put into the model's modules and taken out again.

Only PEFT's layers are used, not its models: names, head and configuration stay the base's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from normtune.errors import DeltaError, ModelError, SelectionError, refusing
from normtune.methods.added import Added, known_targets, refuse_rounding
from normtune.methods.selection import in_range
from normtune.methods.trainable import Hook, copy_values
from normtune.models.base import Base
from normtune.models.device import seeded
from normtune.models.families import FUSED, KEYS, QUERIES, READ_PAST, TRANSPOSED, VALUES, stack
from normtune.models.layout import Layout, Place

#: PEFT's name for an adapter, which is part of its parameters' names.
ADAPTER = "default"
#: The methods that PEFT can add to a quantised matrix, on a CPU too.
_ON_QUANTISED = {"lora", "lora-all", "vera"}


def low_rank(layout: Layout, *, method: str, seed: int = 0, option: int = 8) -> Peft:
    """Low-rank matrices added to those of the attention, by one of five methods.

    They are added to the matrices that make queries and values, or to one that makes both (Hu et al. 2021, section
    7.1); ``lora-all`` adds them to every matrix of the layers.

    ``lora``, ``lora-all``: two matrices, the second initially zero; their product is scaled by alpha over rank, with
    alpha twice the rank (Hu et al. 2021, section 4). ``dora``: lora, with a separate length for each column of the
    matrix (Liu et al. 2024, equation 5). ``loha``: the elementwise product of two low-rank matrices, which starts at
    zero (FedPara, Hyeon-Woo et al. 2022). ``vera``: scales of frozen random matrices that all layers share (Kopiczko
    et al. 2024, equation 2). `option` is the rank.

    Raises:
        SelectionError: If the family's queries and values are not known by name.
    """
    lora = {"peft_type": "LORA", "lora_alpha": 2 * option, "lora_dropout": 0.0}
    configs = {
        "lora": lora,
        "lora-all": lora,
        "dora": {**lora, "use_dora": True},
        "loha": {"peft_type": "LOHA", "alpha": option},
        "vera": {"peft_type": "VERA", "vera_dropout": 0.0, "projection_prng_key": seed},
    }
    config = json.dumps({**configs[method], "r": in_range(method, "a rank", option)}, sort_keys=True)
    if method == "lora-all":
        return Peft(layout, method, config, every_matrix(layout), seed)
    apart = _matrices(layout, QUERIES) and _matrices(layout, VALUES)
    found = _matrices(layout, QUERIES + VALUES if apart else FUSED)
    if not found:
        raise SelectionError(
            f"{method} finds no queries and values of a known name in the layers of this {layout.model_type!r} model;"
            " lora-all takes every matrix."
        )
    return Peft(layout, method, config, _paths(found), seed)


def ia3(layout: Layout) -> Peft:
    """A factor for each key, value and inner unit of a layer (IA3, Liu et al. 2022, section 3.3).

    Keys and values are scaled as outputs of their matrices, inner units as inputs of the matrix that narrows them.

    Raises:
        SelectionError: If the layers have no matrices for keys or for values by a known name, or none for inner units.
    """
    keys, values = _matrices(layout, KEYS), _matrices(layout, VALUES)
    # A layer's inner units are the inputs of the widest of the matrices that give its hidden units, which its
    # self-attention reads; a cross-attention, which comes later, reads those of the encoder.
    hidden, inner = {_layer(place): place.shape[1] for place in reversed(values)}, dict[tuple[str, int | None], int]()
    narrow = [p for p in _matrices(layout) if p.shape[0] == hidden.get(_layer(p), 0) < p.shape[1]]
    if not (keys and values and narrow):
        raise SelectionError(
            "ia3 needs matrices of their own for the keys, the values and the inner units of a layer; those of this"
            f" {layout.model_type!r} model are in one, stacked, or of no known name."
        )
    for place in narrow:
        inner[_layer(place)] = max(inner.get(_layer(place), 0), place.shape[1])
    scaled = {*keys, *values, *(place for place in narrow if place.shape[1] == inner[_layer(place)])}
    targets = _paths(place for place in layout.body if place in scaled)
    return Peft(layout, "ia3", json.dumps({"peft_type": "IA3"}), targets)


def _layer(place: Place) -> tuple[str, int | None]:
    """The layer of a parameter: the stack that it is in, and its number there."""
    return stack(place), place.layer


def every_matrix(layout: Layout) -> tuple[str, ...]:
    """The linear layers within the model's layers.

    Raises:
        SelectionError: If there are none.
    """
    found = _matrices(layout)
    if not found:
        raise SelectionError(f"The layers of this {layout.model_type!r} model have no matrices.")
    return _paths(found)


def _matrices(layout: Layout, names: tuple[str, ...] = ("",)) -> list[Place]:
    """The weights of the linear layers within the model's layers, all or those of these names."""
    ends = tuple(f".{name}.weight" if name else ".weight" for name in names)
    past = tuple(f".{name}.weight" for name in READ_PAST.get(layout.model_type, ()))
    inside = [p for p in layout.body if p.layer is not None and p.linear]
    return [p for p in inside if p.parameter.endswith(ends) and not p.parameter.endswith(past)]


def _paths(places: Iterable[Place]) -> tuple[str, ...]:
    return tuple(place.parameter.removesuffix(".weight") for place in places)


@final
@dataclass(frozen=True)
class Peft(Added):
    """Parameters that PEFT adds to some modules.

    Attributes:
        config: PEFT's configuration as JSON, without the target modules.
        begin: Makes the method's hook from the leaves, if it has one.
    """

    layout: Layout
    method: str
    config: str
    targets: tuple[str, ...]
    seed: int = 0
    begin: Callable[[Mapping[str, nn.Parameter]], Hook] | None = field(default=None, compare=False)

    @classmethod
    def read(cls, layout: Layout, description: Mapping[str, Any]) -> Peft:
        """The spec that `describe` described.

        Raises:
            DeltaError: If the description is damaged, or names modules that this model does not have.
        """
        targets = known_targets(layout, description)
        with refusing(DeltaError, "PEFT does not take what the delta adds"):
            config = json.dumps(dict(description["config"]), sort_keys=True)
            spec = cls(layout, str(description["method"]), config, targets)
            len(spec)
        return spec

    def describe(self) -> dict[str, Any]:
        """Method, configuration and modules."""
        return {"method": self.method, "config": json.loads(self.config), "targets": list(self.targets)}

    @cached_property
    def added(self) -> int:
        """Number of added entries, found by applying PEFT to matrices of the same shapes without data."""
        shapes = [self.layout.by_name[f"{target}.weight"].shape for target in self.targets]
        if self.layout.model_type in TRANSPOSED:
            shapes = [shape[::-1] for shape in shapes]
        names = [target.rpartition(".")[2] for target in self.targets]  # these tell IA3 what to scale
        twin = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(columns, rows, bias=False, device="meta")})
            for name, (rows, columns) in zip(names, shapes, strict=True)
        )
        own = {*twin.parameters()}
        with torch.device("meta"):  # the rank in a file may be any, however large
            _inject(twin, replace(self, targets=tuple(f"{place}.{name}" for place, name in enumerate(names))))
        return sum(p.numel() for p in twin.parameters() if p not in own and p.requires_grad)

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The added parameters as float32 leaves (see `Spec.put`).

        Raises:
            ModelError: If the model is quantised, and PEFT cannot add the method's parameters to quantised matrices.
        """
        model = base.model
        if getattr(model, "is_quantized", False) and self.method.partition("@")[0] not in _ON_QUANTISED:
            raise ModelError(
                f"{self.method} does not train on a quantised model; load it in bfloat16 or float32, or take lora."
            )
        modules = {name: model.get_submodule(name) for name in self.targets}
        flags, buffers = {parameter: parameter.requires_grad for parameter in model.parameters()}, {*model.buffers()}
        for name, module in modules.items():
            undo.callback(model.set_submodule, name, module, strict=True)
        _inject(model, self)
        added = {name: p for name, p in model.named_parameters() if p not in flags and p.requires_grad}
        for value in (*added.values(), *(buffer for buffer in model.buffers() if buffer not in buffers)):
            value.data = value.data.float()
            value.requires_grad_(False)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        return {name.replace(f".{ADAPTER}", ""): parameter for name, parameter in added.items()}

    def hook(self, leaves: Mapping[str, nn.Parameter]) -> Hook:
        """The method's hook (see `Spec.hook`)."""
        return Hook() if self.begin is None else self.begin(leaves)

    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        """Matrices have weight decay; vectors and factors, which PEFT may keep as a row or a column, have none."""
        return super().decays(name, leaf) and ".ia3_l" not in name and ".lora_E" not in name

    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Merge the added parameters into the base's own matrices (see `Spec.merge`).

        Raises:
            DeltaError: If the base is of lower precision than float32, or names or sizes do not match.
        """
        refuse_rounding(base)
        modules: dict[str, Any] = {name: base.model.get_submodule(name) for name in self.targets}
        self.apply(base, state, undo)
        for name, module in modules.items():
            for parameter in module.parameters(recurse=False):
                undo.callback(copy_values, parameter, parameter.detach().clone())
            layer: Any = base.model.get_submodule(name)
            layer.merge()
            base.model.set_submodule(name, module, strict=True)


def _inject(model: nn.Module, spec: Peft) -> None:
    """Let PEFT put its layers into a model."""
    from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftType, get_peft_config

    modules: dict[str, Any] = {name: model.get_submodule(name) for name in spec.targets}
    own = json.loads(spec.config)
    if own["peft_type"] == "IA3":
        made = (*KEYS, *VALUES)  # whose outputs are scaled; of the others, the inputs are
        own["feedforward_modules"] = [f"model.{name}" for name in modules if name.rpartition(".")[2] not in made]
    elif own["peft_type"] != "LOHA":
        own["fan_in_fan_out"] = isinstance(next(iter(modules.values())), Conv1D)
    # In a module without a configuration: given the model's, PEFT would move targets to stacked experts.
    outer: Any = nn.ModuleDict({"model": model})
    for flag in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
        setattr(outer, flag, getattr(model, flag, False))
    own["target_modules"] = [f"model.{name}" for name in spec.targets]
    config = get_peft_config(own)
    with seeded(spec.seed):
        try:
            PEFT_TYPE_TO_TUNER_MAPPING[PeftType(own["peft_type"])](outer, config, adapter_name=ADAPTER)
        except (TypeError, ValueError) as error:  # the router of a mixture of experts is not a linear layer
            kinds = [type(module).__name__ for module in modules.values()]
            kind = next((kind for kind in kinds if kind not in {"Linear", "Conv1D"}), kinds[0])
            raise SelectionError(f"PEFT has no {spec.method} for the {kind} modules of this model.") from error
    # PEFT keeps a constant as a parameter, and makes it trainable when moving it to the base's device or dtype.
    for name, parameter in model.named_parameters():
        if name.endswith(f".ranknum.{ADAPTER}"):
            parameter.requires_grad_(False)
