"""A bank: one frozen base model and many deltas, whose rows share batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from types import MappingProxyType

import numpy as np
from torch import Tensor

from normtune.data.encode import Encoded, by_length, padding
from normtune.data.task import Task
from normtune.deltas.answers import Prediction, Text, examples, listed
from normtune.deltas.delta import Delta, DeltaInfo, is_applied
from normtune.deltas.row_model import BatchRow, RowModel
from normtune.errors import DataError, DeltaError, ModelError, SelectionError, UnknownNameError
from normtune.evaluation import EVAL_BATCH, logits
from normtune.methods.trainable import Spec, check_free
from normtune.models.base import Base


@dataclass(frozen=True, eq=False)
class BankTask:
    """A task in a bank. It is immutable: replacing a task makes a new one.

    Attributes:
        name: The name it answers to.
        info: Its delta's metadata.
        task: What it answers.
        values: The values of its rows in a mixed batch; or its delta, if its rows run in batches of their own.
    """

    name: str
    info: DeltaInfo
    task: Task
    values: BatchRow | Delta

    @property
    def apart(self) -> bool:
        """Whether its rows run in batches of their own, with the delta applied."""
        return isinstance(self.values, Delta)

    @property
    def bytes(self) -> int:
        """Bytes of its values in memory, head included."""
        delta = self.values
        own = [delta.packed] if isinstance(delta, BatchRow) else [*delta.values.values(), *delta.statistics.values()]
        return sum(tensor.nbytes for tensor in (*own, *self.values.head.values()))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A text or picture, checked and encoded for a task, with that task as it was then.

    Attributes:
        entry: The task.
        fields: The model's inputs: int64 vectors for a text, pixels for a picture.
        truncated: Whether the text was longer than the task's limit and was cut.
        text: The text or picture.
        firsts: Where each word is answered, the positions of the words' first pieces; otherwise None.
    """

    entry: BankTask
    fields: dict[str, Tensor]
    truncated: bool
    text: Text = ""
    firsts: Tensor | None = None


class Bank:
    """One frozen base model and many deltas that answer together.

    Rows of a batch share the base's products, and each has its own task's vectors and head. Tasks can be added,
    replaced and removed at any time, from any thread; running batches and prepared texts keep the tasks they began
    with.

    Args:
        base: The base model, on its device. While the bank is used, nothing else may put a delta on it or train it.
        max_batch: The most rows in a batch.

    Raises:
        DeltaError: If the base carries a delta.
        ModelError: If it is being tuned, its parameters are sharded, it has no tokenizer, or it is a wrapped
            language model.
    """

    def __init__(self, base: Base, *, max_batch: int = EVAL_BATCH) -> None:
        self._base, self.max_batch = base, max_batch
        self._refuse_applied()
        check_free(base.model)
        base.need_answers()
        self._model = RowModel(base.model, base.layout)
        # How batches are padded; those of pictures are not.
        tokenizer = base.need_tokenizer() if base.reads == "text" else None
        self._pad, self._side = (padding(tokenizer), tokenizer.padding_side) if tokenizer else ({}, "right")
        # One batch at a time runs on the model; a delta that runs apart replaces its head; the tokenizer stores the
        # limit that it cuts at.
        self._running, self._replacing, self._tokenizing = Lock(), Lock(), Lock()
        self._entries: dict[str, BankTask] = {}

    @property
    def tasks(self) -> Mapping[str, BankTask]:
        """The tasks as they are now, by name."""
        return MappingProxyType(self._entries.copy())

    def add(self, name: str, delta: Delta, *, apart: bool = False) -> BankTask:
        """Add a task, or replace the one of this name, at once.

        Args:
            name: The name it answers to.
            delta: Its delta.
            apart: Accept a delta that cannot share batches: its rows then run in batches of their own, with the delta
                applied to the base, which copies its values each time.

        Returns:
            The task.

        Raises:
            DeltaError: If the delta is of another base or is damaged, or cannot share batches and `apart` is off.
        """
        try:
            with self._replacing:
                spec = delta.spec(self._base)
        except (DeltaError, ModelError, SelectionError) as error:
            raise DeltaError(f"The delta {name!r} does not fit: {error}") from error
        values: BatchRow | Delta = delta
        try:
            values = self._row(spec, delta)
        except ModelError as error:
            if not apart:
                raise DeltaError(
                    f"The delta {name!r} cannot share batches with others: {error} Add it with apart, and it runs in"
                    " batches of its own."
                ) from error
            if delta.info.added is not None:
                with self._on(delta):
                    pass  # putting it on checks what it adds
        entry = self._entries[name] = BankTask(name, delta.info, replace(delta.info.as_task, name=name), values)
        return entry

    def remove(self, name: str) -> None:
        """Remove a task; texts prepared for it are still answered.

        Raises:
            UnknownNameError: If there is none of this name.
        """
        if self._entries.pop(name, None) is None:
            raise UnknownNameError("task", name, self._entries.copy())

    def prepare(self, text: Text, task: str) -> Prepared:
        """Check and tokenize one text for a task (see `prepare_many`)."""
        return self.prepare_many([text], task)[0]

    def prepare_many(
        self, texts: Sequence[Text], tasks: Sequence[str] | str, places: Sequence[str] = ()
    ) -> list[Prepared]:
        """Check and tokenize texts for `answer`, with the tasks as they are now, even if they change before that.

        Args:
            texts: Texts, or pairs of texts where their task reads pairs.
            tasks: The task of each text, or one for all.
            places: Where each text is, for messages.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If there are no texts, not as many as names, one is empty, or its task reads another kind of
                input.
        """
        texts = listed(texts)
        names = [tasks] * len(texts) if isinstance(tasks, str) else tasks
        if len(names) != len(texts):
            raise DataError(f"There are {len(texts)} texts, but {len(names)} names of tasks.")
        if not texts:
            raise DataError("There are no texts.")
        entries = [self.entry(name) for name in names]
        places = places or [f"Text {number} of {len(texts)}" for number in range(1, len(texts) + 1)]
        alike: dict[tuple[bool, int], list[int]] = defaultdict(list)
        for number, (text, entry) in enumerate(zip(texts, entries, strict=True)):
            examples([text], entry.task)
            alike[entry.task.pair, entry.info.max_length].append(number)
        prepared: dict[int, Prepared] = {}
        for (_, limit), numbers in alike.items():
            split = examples([texts[number] for number in numbers], entries[numbers[0]].task)
            split = replace(split, places=[places[number] for number in numbers])
            with self._tokenizing:
                encoded = self._base.encode(split, limit)
            for at, number in enumerate(numbers):
                fields = {name: values[at] for name, values in encoded.fields.items()}
                firsts = None if encoded.firsts is None else encoded.firsts[at]
                prepared[number] = Prepared(entries[number], fields, at in encoded.cut, texts[number], firsts)
        return [prepared[number] for number in range(len(texts))]

    def answer(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """The answers for what `prepare_many` gave, in its order."""
        return [
            Prediction.of(outputs, one.entry.task, one.text)
            for outputs, one in zip(self.logits(prepared), prepared, strict=True)
        ]

    def logits(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        """The head's outputs for what `prepare_many` gave, in its order.

        For each it is a float32 vector of its task's outputs; for tagged words, one for each word.

        Raises:
            DeltaError: If somebody put a delta on the base.
        """
        alike: dict[BankTask | None, list[int]] = defaultdict(list)
        for number, one in enumerate(prepared):
            alike[one.entry if one.entry.apart else None].append(number)
        results: dict[int, np.ndarray] = {}
        for entry, numbers in alike.items():
            some = [prepared[number] for number in numbers]
            outputs = self._mixed(some) if entry is None else self._apart(entry, some)
            results.update(zip(numbers, outputs, strict=True))
        return [results[number] for number in range(len(prepared))]

    def predict(self, texts: Sequence[Text], tasks: Sequence[str] | str) -> list[Prediction]:
        """The answers for `texts`, in their order (see `prepare_many`)."""
        return self.answer(self.prepare_many(texts, tasks))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> BankTask:
        """The task of this name as it is now.

        Raises:
            UnknownNameError: If there is none.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownNameError("task", name, self._entries.copy())
        return entry

    def _row(self, spec: Spec, delta: Delta) -> BatchRow:
        """The values of a delta's rows in mixed batches."""
        if delta.statistics:
            raise ModelError("it has running statistics of its own.")
        row = self._model.row(spec.vectors(delta.values), delta.head)
        if unproven := self._model.unproven(row):
            with self._running:
                self._model.prove(unproven)
        return row

    def _encoded(self, prepared: Sequence[Prepared]) -> Encoded:
        fields = {name: tuple(one.fields[name] for one in prepared) for name in prepared[0].fields}
        firsts = tuple(one.firsts for one in prepared if one.firsts is not None)
        return Encoded(fields, None, self._pad, "right" if firsts else self._side, firsts=firsts or None)

    def _apart(self, entry: BankTask, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        """The outputs of rows of one task, with its delta on the base."""
        assert isinstance(entry.values, Delta)
        with self._on(entry.values):
            encoded = self._encoded(prepared)
            return [*map(encoded.own, logits(self._base, encoded, self.max_batch), range(len(encoded)))]

    def _mixed(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        """The outputs of rows that share batches."""
        encoded = self._encoded(prepared)
        results: dict[int, np.ndarray] = {}
        for batch in by_length(encoded.lengths, self.max_batch):
            inputs = encoded.batch(batch, self._base.device)
            rows = [row for number in batch if isinstance(row := prepared[number].entry.values, BatchRow)]
            with self._alone():
                outputs = encoded.answered(self._model.logits(rows, inputs), batch).cpu().numpy()
            for number, row in zip(batch, outputs, strict=True):
                results[number] = encoded.own(row, number)[..., : prepared[number].entry.task.outputs]
        return [results[number] for number in range(len(prepared))]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within this context nothing else runs on the model, whose sites hold one batch's values at a time."""
        with self._running:
            self._refuse_applied()
            yield

    @contextmanager
    def _on(self, delta: Delta) -> Iterator[None]:
        """Within this context a delta is on the base, and nothing else runs on the model."""
        with self._alone(), self._replacing, delta.apply(self._base):
            yield

    def _refuse_applied(self) -> None:
        if is_applied(self._base):
            raise DeltaError("The bank's base model carries a delta; remove that first.")
