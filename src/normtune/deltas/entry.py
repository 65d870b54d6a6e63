"""A task in a bank, and a text made ready for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from normtune.data.task import Task
from normtune.deltas.delta import Delta, DeltaInfo
from normtune.deltas.row_model import Row


@dataclass(frozen=True, eq=False)
class Entry:
    """A task in a bank. It never changes: a task that is replaced gets a new one.

    Attributes:
        name: The name it answers to.
        info: What its delta says of itself.
        task: What it answers.
        values: The values of its rows in a mixed batch; or its delta, if its rows run in batches of their own.
    """

    name: str
    info: DeltaInfo
    task: Task
    values: Row | Delta

    @property
    def apart(self) -> bool:
        """Whether its rows run in batches of their own, with the delta applied."""
        return isinstance(self.values, Delta)

    @property
    def bytes(self) -> int:
        """Bytes of its values in memory, head included."""
        if isinstance(self.values, Row):
            return self.values.bytes
        tensors = (*self.values.values.values(), *self.values.head.values())
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
