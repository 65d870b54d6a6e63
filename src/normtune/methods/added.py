"""Base classes of methods that add parameters to a base's modules, or modules of our own to their outputs.

A module of our own is a child, called `NAME`, of the module whose outputs it takes, and runs as a forward hook on it.
So the base's modules, names and values do not change.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from normtune.config import fingerprint
from normtune.errors import DeltaError, ModelError, refusing
from normtune.methods.selection import Selection, nothing
from normtune.methods.trainable import Spec
from normtune.models.base import Base
from normtune.models.device import seeded
from normtune.models.families import TRANSPOSED
from normtune.models.layout import Layout, Place

#: Name of a module of our own in the base's module that it is a child of.
NAME = "added"


class Added(Spec):
    """Parameters added to modules of the base; entries of the base may train with them.

    Attributes:
        method: The method's name.
        seed: Seeds the parameters' initial values.
        version: Raised when the method trains in another way, so that old runs are not taken for new ones.
    """

    method: str
    seed: int
    version: ClassVar[int] = 1

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a delta stores to rebuild the spec, with its name as ``method``."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the layout and all that is added, the seed included."""
        later = {"version": self.version} if self.version > 1 else {}
        return fingerprint({"layout": self.layout.fingerprint, **self.describe(), "seed": self.seed, **later})

    def __len__(self) -> int:
        return self.added + sum(place.size for place in self.places)

    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        """Matrices have weight decay; vectors have none."""
        return leaf.ndim > 1

    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Add the parameters with these values (see `Spec.apply`).

        Raises:
            DeltaError: If names or sizes do not match.
        """
        if (found := sum(values.numel() for values in state.values())) != len(self):  # before any is allocated
            raise DeltaError(f"What the delta adds does not fit this model: {found:,} of {len(self):,} entries.")
        leaves = self.put(base, undo)
        if odd := sorted(state.keys() ^ leaves.keys()):
            raise DeltaError(f"What the delta adds does not fit this model: {odd[0]} is only on one side.")
        for name, leaf in leaves.items():
            if state[name].numel() != leaf.numel():
                raise DeltaError(f"What the delta adds does not fit this model: the size of {name} differs.")
            leaf.data.copy_(state[name].reshape(leaf.shape))

    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Refuse by default: no plain model has such layers or tokens.

        Raises:
            DeltaError: Always.
        """
        raise DeltaError(f"{self.method} adds what no plain model has, so it cannot be merged into one.")

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Refuse: the rows of a batch share the base's modules.

        Raises:
            ModelError: Always.
        """
        raise ModelError(f"it adds parameters of its own ({self.method}).")


@dataclass(frozen=True)
class OutputModules(Added):
    """Modules of our own, each applied to the outputs of a module of the base.

    Attributes:
        targets: The modules of the base.
        size: Inner width of a module of our own; 0 where it has none.
    """

    layout: Layout
    targets: tuple[str, ...]
    size: int = 0
    seed: int = 0

    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """A module for each target, which maps its outputs to as many. They may share parameters."""

    @property
    def selection(self) -> Selection:
        """The entries of the base that train too; none by default."""
        return nothing(self.layout)

    @property
    def held(self) -> Self:
        """The spec that a delta stores; by default this one."""
        return self

    @classmethod
    def read(cls, layout: Layout, description: Mapping[str, Any]) -> Self:
        """The spec that `describe` described.

        Raises:
            DeltaError: If the description is damaged, or names modules that this model does not have.
        """
        targets = known_targets(layout, description)
        with refusing(DeltaError, "The delta does not say what is added"):
            spec = cls(layout, targets, int(description.get("size", 0)))
            len(spec)
        return spec

    def describe(self) -> dict[str, Any]:
        """Method, modules and inner width."""
        return {"method": self.method, "targets": list(self.targets), **({"size": self.size} if self.size else {})}

    def width(self, target: str) -> int:
        """How many outputs a module of the base has."""
        return self.layout.by_name[f"{target}.weight"].shape[self.layout.model_type in TRANSPOSED]

    @cached_property
    def added(self) -> int:
        """Number of added entries that a delta holds."""
        with torch.device("meta"):
            return sum(value.numel() for value in nn.ModuleList(self.held.modules()).parameters())

    @property
    def places(self) -> tuple[Place, ...]:
        """The pre-trained parameters that train too."""
        return self.selection.places

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The added parameters as float32 leaves, after those of the base (see `Spec.put`)."""
        leaves = self.selection.put(base, undo)
        with seeded(self.seed):
            made = nn.ModuleList(self.modules()).requires_grad_(False)
        for target, module in zip(self.targets, made.to(base.device), strict=True):
            own = base.model.get_submodule(target)
            own.add_module(NAME, module)
            undo.callback(own._modules.pop, NAME)
            undo.callback(own.register_forward_hook(_run).remove)
        added = {*made.parameters()}
        return leaves | {name: value for name, value in base.model.named_parameters() if value in added}


def _run(module: Any, _: Any, outputs: Tensor) -> Tensor:
    """Apply the module of our own to the outputs; it computes in the precision of its parameters."""
    made: Tensor = module.added(outputs.to(next(module.added.parameters()).dtype))
    return made.to(outputs.dtype)


def known_targets(layout: Layout, description: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that a delta's description names.

    Raises:
        DeltaError: If it has no list of modules, or names one that is not a matrix of this model.
    """
    with refusing(DeltaError, "The delta does not say where it adds parameters"):
        targets = tuple(map(str, description["targets"]))
    places = {name: layout.by_name.get(f"{name}.weight") for name in targets}
    missing = [name for name, place in places.items() if place is None or place.head or not place.linear]
    if missing:
        raise DeltaError(f"The delta adds parameters to {missing[0]}, which this model does not have.")
    return targets


def refuse_rounding(base: Base) -> None:
    """Check that a base's own parameters can hold merged values without rounding.

    Raises:
        DeltaError: If it is of lower precision than float32.
    """
    if base.model.dtype.itemsize < 4:
        low = str(base.model.dtype).removeprefix("torch.")
        raise DeltaError(f"What is added cannot be merged into a {low} base without rounding; load it in float32.")
