"""Methods whose parameters PEFT adds to a model: its adapters are put into the modules, and taken out again.

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
from normtune.models.families import TRANSPOSED
from normtune.models.layout import Layout

#: PEFT's name for an adapter, which stands in the names of its parameters.
ADAPTER = "default"
#: The methods that PEFT computes beside a quantised matrix, on a CPU too.
_ON_QUANTISED = {"lora", "lora-all", "vera"}


def low_rank(layout: Layout, *, method: str, seed: int = 0, option: int = 8) -> Peft:
    """Low-rank matrices beside those of the attention, by one of five methods.

    They stand beside the matrices that PEFT takes for the family by default (for BERT query and value); in a family
    that PEFT has no default for, and for ``lora-all``, beside every matrix of the layers.

    ``lora``, ``lora-all``: two matrices, the second zero in the beginning; their product is scaled by alpha over rank,
    with alpha twice the rank (Hu et al. 2021, section 4). ``dora``: as lora, with the length of each column of the
    matrix apart (Liu et al. 2024, equation 5). ``loha``: the elementwise product of two low-rank matrices, which starts
    at zero (FedPara, Hyeon-Woo et al. 2022). ``vera``: scales of random matrices that all layers share and that do not
    train (Kopiczko et al. 2024, equation 2). `option` is the rank.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    lora = {"peft_type": "LORA", "lora_alpha": 2 * option, "lora_dropout": 0.0}
    configs = {
        "lora": lora,
        "lora-all": lora,
        "dora": {**lora, "use_dora": True},
        "loha": {"peft_type": "LOHA", "alpha": option},
        "vera": {"peft_type": "VERA", "vera_dropout": 0.0, "projection_prng_key": seed},
    }
    config = json.dumps({**configs[method], "r": in_range(method, "a rank", option)}, sort_keys=True)
    targets = matrices(layout, None if method == "lora-all" else KNOWN.get(layout.model_type))
    return Peft(layout, method, config, targets, seed)


def ia3(layout: Layout) -> Peft:
    """A factor for each key, value and input of a layer's last matrix (IA3, Liu et al. 2022, section 3.3).

    Raises:
        SelectionError: If PEFT does not know the family's keys and values, or they are part of a larger matrix.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    known = KNOWN.get(layout.model_type)
    if known is None or any("qkv" in name or "query_key_value" in name or "c_attn" in name for name in known):
        raise SelectionError(f"ia3 needs the keys and values of each layer by name; a {layout.model_type!r} has none.")
    # Of the matrices that share a name, such as both of BERT's output.dense, the one that makes a wide vector narrow.
    shapes = {name: layout.by_name[f"{name}.weight"].shape for name in matrices(layout, known)}
    inner = max(columns for _, columns in shapes.values())
    keys = {"key", "value", "k_proj", "v_proj", "k", "v", "k_lin", "v_lin", "key_proj", "value_proj"}
    targets = tuple(name for name, shape in shapes.items() if name.rpartition(".")[2] in keys or shape[1] == inner)
    return Peft(layout, "ia3", json.dumps({"peft_type": "IA3"}), targets)


def matrices(layout: Layout, names: Iterable[str] | None) -> tuple[str, ...]:
    """Linear layers within the model's layers, with a name that ends as one of `names`; None takes all.

    Raises:
        SelectionError: If there are none.
    """
    wanted = None if names is None else tuple(f".{name}.weight" for name in names)
    found = tuple(
        place.parameter.removesuffix(".weight")
        for place in layout.body
        if place.layer is not None and place.linear and place.sub == "weight"
        if wanted is None or place.parameter.endswith(wanted)
    )
    if not found:
        called = "" if names is None else f" of the names {', '.join(names)}"
        raise SelectionError(f"The layers of this {layout.model_type!r} model have no matrices{called}.")
    return found


@final
@dataclass(frozen=True)
class Peft(Added):
    """Parameters that PEFT adds to some modules.

    Attributes:
        config: PEFT's configuration as JSON, without the modules.
        begin: Makes the method's hook from the leaves, where it has one.
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
        """Number of added entries: PEFT is let loose on matrices of the same shapes that hold nothing."""
        shapes = [self.layout.by_name[f"{target}.weight"].shape for target in self.targets]
        if self.layout.model_type in TRANSPOSED:
            shapes = [shape[::-1] for shape in shapes]
        twin = nn.ModuleList(nn.Linear(columns, rows, bias=False, device="meta") for rows, columns in shapes)
        own = {*twin.parameters()}
        with torch.device("meta"):  # the rank in a file may be any
            _inject(twin, replace(self, targets=tuple(map(str, range(len(shapes))))))
        return sum(p.numel() for p in twin.parameters() if p not in own and p.requires_grad)

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The added parameters as leaves, float32 (see `Spec.put`).

        Raises:
            ModelError: If the model is quantised, and PEFT's way to add them needs its matrices as they are.
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
        """The base's own matrices with what the added parameters contribute (see `Spec.merge`).

        Raises:
            DeltaError: If the base is of lower precision than float32, or names or sizes are not theirs.
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
        # The inputs of a matrix that makes a wide vector narrow are scaled, and the outputs of the others.
        shapes = {name: module.weight.shape for name, module in modules.items()}
        own["feedforward_modules"] = [f"model.{name}" for name, (rows, columns) in shapes.items() if columns > rows]
    elif own["peft_type"] != "LOHA":
        own["fan_in_fan_out"] = isinstance(next(iter(modules.values())), Conv1D)
    # Within a module without a configuration; by the model's PEFT would move targets on to stacked experts.
    outer: Any = nn.ModuleDict({"model": model})
    for flag in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
        setattr(outer, flag, getattr(model, flag, False))
    own["target_modules"] = [f"model.{name}" for name in spec.targets]
    config = get_peft_config(own)
    with seeded(spec.seed):
        try:
            PEFT_TYPE_TO_TUNER_MAPPING[PeftType(own["peft_type"])](outer, config, adapter_name=ADAPTER)
        except (TypeError, ValueError) as error:  # the router of a mixture of experts is no linear layer
            kinds = [type(module).__name__ for module in modules.values()]
            kind = next((kind for kind in kinds if kind not in {"Linear", "Conv1D"}), kinds[0])
            raise SelectionError(f"PEFT has no {spec.method} for the {kind} modules of this model.") from error
    # A constant that PEFT keeps as a parameter is thawed where it is moved to the base's device or dtype.
    for name, parameter in model.named_parameters():
        if name.endswith(f".ranknum.{ADAPTER}"):
            parameter.requires_grad_(False)
