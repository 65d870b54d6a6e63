"""A bank: one frozen base model and many deltas, whose rows share batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import MappingProxyType

import numpy as np

from normtune.data.encode import by_length
from normtune.deltas.admission import Admission
from normtune.deltas.answers import Prediction, Text, predictions
from normtune.deltas.delta import Delta, is_applied
from normtune.deltas.entry import Entry, Prepared
from normtune.deltas.preparing import Preparer
from normtune.deltas.row_model import Row, RowModel
from normtune.errors import DataError, DeltaError, UnknownNameError
from normtune.evaluation import EVAL_BATCH, logits
from normtune.methods.sparse import refuse_sharded
from normtune.models.base import Base


class Bank:
    """One frozen base model and many deltas that answer together.

    Rows of a batch share the base's products, and each has its own task's vectors and head. Tasks are added, replaced
    and removed at any time, from any thread; a batch that runs and a text that is prepared keep the tasks they began
    with.

    Args:
        base: The base model, on its device. While the bank is used, nothing else may put a delta on it or train it.
        max_batch: Rows a batch.

    Raises:
        DeltaError: If the base carries a delta.
        ModelError: If it is being tuned, its parameters are sharded, or it has no tokenizer.
    """

    def __init__(self, base: Base, *, max_batch: int = EVAL_BATCH) -> None:
        self._base, self.max_batch = base, max_batch
        self._refuse_applied()
        refuse_sharded(base.model)
        self._running = Lock()
        self._model = RowModel(base.model, base.layout)
        self._admission = Admission(base, self._model, self._running)
        self._preparer = Preparer(base.need_tokenizer())
        self._entries: dict[str, Entry] = {}

    @property
    def tasks(self) -> Mapping[str, Entry]:
        """The tasks as they are now, by name."""
        return MappingProxyType(self._entries.copy())

    def add(self, name: str, delta: Delta, *, apart: bool = False) -> None:
        """Add a task, or replace the one of this name, at once.

        Args:
            name: The name it answers to.
            delta: Its delta.
            apart: Let in a delta that cannot share batches: its rows then run in batches of their own, with the delta
                applied to the base, which copies its values each time.

        Raises:
            DeltaError: If the delta is of another base or is damaged, or cannot share batches and `apart` is off.
        """
        self._entries[name] = self._admission.admit(name, delta, apart=apart)

    def remove(self, name: str) -> None:
        """Remove a task; what is prepared for it is still answered.

        Raises:
            UnknownNameError: If there is none of this name.
        """
        if self._entries.pop(name, None) is None:
            raise UnknownNameError("task", name, self._entries.copy())

    def prepare(self, text: Text, task: str) -> Prepared:
        """Check and tokenize one text for a task.

        Args:
            text: A text, or a text and its pair where the task reads pairs.
            task: The task's name.

        Returns:
            What `answer` takes. It keeps the task as it is now, even if that is replaced or removed before the answer.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If the text is empty, or a pair where the task reads single texts, or the other way round.
        """
        return self.prepare_many([text], [task])[0]

    def prepare_many(self, texts: Sequence[Text], tasks: Sequence[str] | str) -> list[Prepared]:
        """Like `prepare`, for many texts, each with its task's name, or with one name for all.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If there are no texts, their number is not that of the names, one is empty, or its task does not
                read such.
        """
        names = [tasks] * len(texts) if isinstance(tasks, str) else tasks
        if len(names) != len(texts):
            raise DataError(f"There are {len(texts)} texts, but {len(names)} names of tasks.")
        if not texts:
            raise DataError("There are no texts.")
        return self._preparer.prepare(texts, [self._entry(name) for name in names])

    def answer(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """The answers for what `prepare` gave, in its order."""
        return predictions(self.logits(prepared), [one.entry.task for one in prepared])

    def logits(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        """The head's outputs for what `prepare` gave, in its order.

        Args:
            prepared: Texts and their tasks.

        Returns:
            For each a float32 vector, as long as its task has outputs.

        Raises:
            DeltaError: If somebody put a delta on the base.
        """
        results: dict[int, np.ndarray] = {}
        for numbers in self._alike(prepared):
            some = [prepared[number] for number in numbers]
            results.update(zip(numbers, self._outputs(some), strict=True))
        return [results[number] for number in range(len(prepared))]

    def predict(self, texts: Sequence[Text], tasks: Sequence[str] | str) -> list[Prediction]:
        """The answers for `texts`, in their order.

        Args:
            texts: Texts, or pairs of texts where their task reads pairs.
            tasks: The task of each text, or one for all.

        Returns:
            One prediction a text.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If there are no texts, the counts differ, a text is empty, or its task does not read such.
        """
        return self.answer(self.prepare_many(texts, tasks))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownNameError("task", name, self._entries.copy())
        return entry

    def _alike(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Positions of what can share batches: all whose values are a row's own, and each other entry's."""
        groups: dict[Entry | None, list[int]] = defaultdict(list)
        for number, one in enumerate(prepared):
            groups[one.entry if one.entry.apart else None].append(number)
        return list(groups.values())

    def _outputs(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        encoded = self._preparer.together(prepared)
        delta = prepared[0].entry.values
        if isinstance(delta, Delta):
            with self._alone(), delta.apply(self._base):
                return list(logits(self._base, encoded, self.max_batch))
        results: dict[int, np.ndarray] = {}
        for batch in by_length(encoded.lengths, self.max_batch):
            inputs = encoded.batch(batch, self._base.device)
            rows = [row for number in batch if isinstance(row := prepared[number].entry.values, Row)]
            with self._alone():
                outputs = self._model.logits(rows, inputs).cpu().numpy()
            for number, row in zip(batch, outputs, strict=True):
                results[number] = row[: prepared[number].entry.task.outputs]
        return [results[number] for number in range(len(prepared))]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nothing else runs on the model: its sites hold one batch's values at a time."""
        with self._running:
            self._refuse_applied()
            yield

    def _refuse_applied(self) -> None:
        if is_applied(self._base):
            raise DeltaError("The bank's base model carries a delta; remove that first.")
