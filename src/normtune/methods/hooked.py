"""A selection that trains with a hook: the `Spec` of methods that change how existing entries train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from normtune.config import fingerprint
from normtune.methods.selection import Selection
from normtune.methods.trainable import Hook, Spec
from normtune.models.base import Base
from normtune.models.layout import Layout, Place


@final
@dataclass(frozen=True)
class Hooked(Spec):
    """Entries that train with a hook. The delta is a selection's, so it is read, merged and served as one.

    Attributes:
        size: Number of entries in the final delta.
        decayed: Whether there is weight decay.
        begin: Makes the hook from the leaves.
        version: As `normtune.methods.added.Added.version`.
    """

    layout: Layout
    selection: Selection
    method: str
    option: int
    size: int
    decayed: bool
    begin: Callable[[Mapping[str, nn.Parameter]], Hook] = field(compare=False)
    version: int = 1

    def __len__(self) -> int:
        return self.size

    @property
    def fingerprint(self) -> str:
        """A hash over the selection, the method and its number."""
        own = {"selection": self.selection.fingerprint, "method": self.method, "option": self.option}
        return fingerprint({**own, "version": self.version} if self.version > 1 else own)

    @property
    def places(self) -> tuple[Place, ...]:
        """The parameters with selected entries."""
        return self.selection.places

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The selection's entries as leaves (see `Spec.put`)."""
        return self.selection.put(base, undo)

    def hook(self, leaves: Mapping[str, nn.Parameter]) -> Hook:
        """The method's hook (see `Spec.hook`)."""
        return self.begin(leaves)

    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        """Whether a leaf has weight decay: as in the selection, if there is any (see `Spec.decays`)."""
        return self.decayed and self.selection.decays(name, leaf)

    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Write the values into the base's own parameters (see `Spec.apply`)."""
        self.selection.apply(base, state, undo)

    merge = apply

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The selection's entries and their values (see `Spec.vectors`)."""
        return self.selection.vectors(state)

    def made(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]]:
        """The selection, with all of the values (see `Spec.made`)."""
        return self.selection, dict(values)


def generator_of(device: torch.device, seed: int, step: int) -> torch.Generator:
    """The generator of a hook's draws in a step: the same numbers in every process, and after a resume."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
