"""Methods whose parameters PEFT adds to a model: its adapters are put into the modules, and taken out again.

Only PEFT's layers are used, not its models: names, head and configuration stay the base's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from normtune.config import fingerprint
from normtune.errors import DeltaError, ModelError, SelectionError
from normtune.methods.trainable import Spec, copy_values
from normtune.models.base import Base
from normtune.models.layout import Layout, Place

#: PEFT's name for an adapter, which stands in the names of its parameters.
_ADAPTER = "default"


def lora(layout: Layout, *, seed: int = 0, option: int = 8) -> Peft:
    """Low-rank matrices beside those of the attention (LoRA, Hu et al. 2021, section 4).

    The matrices are those that PEFT takes for the family by default (for BERT query and value); in a family that PEFT
    has no default for, every matrix of the layers. The update is scaled by alpha over rank, with alpha twice the rank.

    Args:
        layout: The model's parameters.
        seed: Seeds the first of the two matrices; the second starts at zero.
        option: The rank.

    Raises:
        SelectionError: If the rank is not positive, or the model has no such matrices.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    if option < 1:
        raise SelectionError(f"lora takes a rank of 1 or more; got {option}.")
    targets = matrices(layout, KNOWN.get(layout.model_type))
    config = {"peft_type": "LORA", "r": option, "lora_alpha": 2 * option, "lora_dropout": 0.0}
    return Peft(layout, "lora", json.dumps(config, sort_keys=True), targets, seed)


def matrices(layout: Layout, names: Iterable[str] | None) -> tuple[str, ...]:
    """Modules of the layers with a matrix for a weight.

    Args:
        layout: The model's parameters.
        names: The last parts of their names; None takes all.

    Raises:
        SelectionError: If there are none.
    """
    wanted = None if names is None else {*names}
    found = tuple(
        place.parameter.removesuffix(".weight")
        for place in layout.body
        if place.layer is not None and len(place.shape) == 2 and place.parameter.endswith(".weight")
        if wanted is None or place.parameter.split(".")[-2] in wanted
    )
    if not found:
        raise SelectionError(
            f"This {layout.model_type!r} model has no matrices of the names {', '.join(wanted or ())}."
        )
    return found


@final
@dataclass(frozen=True)
class Peft(Spec):
    """Parameters that PEFT adds to some modules.

    Attributes:
        layout: The model's parameters.
        method: The method's name.
        config: PEFT's configuration as JSON, without the modules.
        targets: The modules.
        seed: Seeds the values that the parameters begin with.
    """

    layout: Layout
    method: str
    config: str
    targets: tuple[str, ...]
    seed: int = 0

    @classmethod
    def read(cls, layout: Layout, description: Mapping[str, Any]) -> Peft:
        """The spec that `describe` described.

        Raises:
            DeltaError: If the description is damaged, or names modules that this model does not have.
        """
        try:
            config, targets = dict(description["config"]), tuple(map(str, description["targets"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DeltaError("The delta does not say what PEFT is to add, or where.") from error
        missing = [name for name in targets if f"{name}.weight" not in layout.by_name]
        if missing:
            raise DeltaError(f"The delta adds parameters to {missing[0]}, which this model does not have.")
        return cls(layout, str(description["method"]), json.dumps(config, sort_keys=True), targets)

    def describe(self) -> dict[str, Any]:
        """Method, configuration and modules."""
        return {"method": self.method, "config": json.loads(self.config), "targets": list(self.targets)}

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the layout and all that is added, the seed included."""
        return fingerprint({"layout": self.layout.fingerprint, **self.describe(), "seed": self.seed})

    @cached_property
    def added(self) -> int:
        """Number of added entries: PEFT is let loose on matrices of the same shapes that hold nothing."""
        shapes = [self.layout.by_name[f"{target}.weight"].shape for target in self.targets]
        twin = nn.ModuleList(nn.Linear(columns, rows, bias=False, device="meta") for rows, columns in shapes)
        own = {*twin.parameters()}
        _inject(twin, replace(self, targets=tuple(map(str, range(len(shapes))))))
        return sum(p.numel() for p in twin.parameters() if p not in own and p.requires_grad)

    def __len__(self) -> int:
        return self.added

    @property
    def places(self) -> tuple[Place, ...]:
        """None: the pre-trained entries stay as they are."""
        return ()

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The added parameters as leaves, float32 (see `Spec.put`)."""
        model = base.model
        modules = {name: model.get_submodule(name) for name in self.targets}
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        _inject(model, self)
        undo.callback(delattr, model, "peft_config")
        for name, module in modules.items():
            undo.callback(model.set_submodule, name, module, strict=True)
        added = {name: p for name, p in model.named_parameters() if p not in flags and p.requires_grad}
        for parameter in added.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(False)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        return {name.replace(f".{_ADAPTER}", ""): parameter for name, parameter in added.items()}

    def decays(self, _: str, leaf: nn.Parameter) -> bool:
        """Matrices have weight decay, vectors none."""
        return leaf.ndim > 1

    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """The added parameters with these values (see `Spec.apply`).

        Raises:
            DeltaError: If names or sizes are not theirs.
        """
        leaves = self.put(base, undo)
        if odd := sorted(state.keys() ^ leaves.keys()):
            raise DeltaError(f"What the delta adds does not fit this model: {odd[0]} is only on one side.")
        for name, leaf in leaves.items():
            if state[name].numel() != leaf.numel():
                raise DeltaError(f"What the delta adds does not fit this model: the size of {name} differs.")
            leaf.data.copy_(state[name].reshape(leaf.shape))

    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """The base's own matrices with what the added parameters contribute (see `Spec.merge`).

        Raises:
            DeltaError: If the base is of lower precision than float32, or names or sizes are not theirs.
        """
        if base.model.dtype.itemsize < 4:
            low = str(base.model.dtype).removeprefix("torch.")
            raise DeltaError(f"What is added cannot be merged into a {low} base without rounding; load it in float32.")
        modules: dict[str, Any] = {name: base.model.get_submodule(name) for name in self.targets}
        self.apply(base, state, undo)
        for name, module in modules.items():
            undo.callback(copy_values, module.weight, module.weight.detach().clone())
            layer: Any = base.model.get_submodule(name)
            layer.merge()
            base.model.set_submodule(name, module, strict=True)

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Never: the rows of a batch share the base's matrices.

        Raises:
            ModelError: Always.
        """
        raise ModelError(f"it adds parameters of its own ({self.method}).")


def _inject(model: nn.Module, spec: Peft) -> None:
    from peft import get_peft_config, inject_adapter_in_model

    config = get_peft_config({**json.loads(spec.config), "target_modules": list(spec.targets)})
    # Drawn on the CPU, so that a seed means the same values on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        inject_adapter_in_model(config, model, _ADAPTER)
