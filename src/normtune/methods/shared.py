"""What several tasks can train at once, each ending with a delta of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from torch import Tensor

from normtune.methods.trainable import Spec
from normtune.models.base import Base


class Shared(Spec):
    """A spec that tasks can share (see `normtune.training.together`)."""

    @abstractmethod
    def of_tasks(self, count: int) -> Self:
        """The same for so many tasks."""

    @abstractmethod
    def choose(self, base: Base, task: int) -> None:
        """Make `base`, on which this trains, compute for the task of this number."""

    @abstractmethod
    def made(self, values: Mapping[str, Tensor], task: int = 0) -> tuple[Spec, dict[str, Tensor]]:
        """What the delta of the task of this number holds, of these values of what trained: a spec, and its state."""
