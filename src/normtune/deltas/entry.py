"""A task in a bank, and a text made ready for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from normtune.deltas.answering import task_of
from normtune.deltas.delta import Delta, DeltaInfo
from normtune.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Entry:
    """A task in a bank. It never changes: a task that is replaced gets a new one.

    Attributes:
        name: The name it answers to.
        delta: Its delta.
        task: What it answers.
        apart: Whether its rows run in batches of their own.
    """

    name: str
    delta: Delta
    task: Task
    apart: bool

    @classmethod
    def of(cls, name: str, delta: Delta, *, apart: bool) -> Entry:
        """The entry of a delta."""
        return cls(name, delta, task_of(delta), apart)

    @property
    def info(self) -> DeltaInfo:
        """What the delta says of itself."""
        return self.delta.info

    @property
    def bytes(self) -> int:
        """Bytes of its values in memory, head included."""
        tensors = [*self.delta.values.values(), *self.delta.head.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A text that is checked and tokenized for a task, and holds on to that task as it was then.

    Attributes:
        entry: The task.
        fields: The tokenizer's fields, each a vector of int64.
        truncated: Whether the text was longer than the task's limit and was cut.
    """

    entry: Entry
    fields: dict[str, Tensor]
    truncated: bool

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.fields["input_ids"])
