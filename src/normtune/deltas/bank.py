"""A bank: one frozen base model and many deltas that answer together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from types import MappingProxyType

import numpy as np

from normtune.answers import Prediction, Text, examples, predictions
from normtune.deltas.delta import Delta
from normtune.deltas.entry import Entry, Prepared
from normtune.errors import DataError, DeltaError, UnknownNameError
from normtune.evaluation import logits
from normtune.execution.batching import Encoded, encode
from normtune.models.base import Base


class Bank:
    """One frozen base model and many deltas, which answer in the same batches.

    Tasks are added, replaced and removed at any time, from any thread.

    Args:
        base: The base model; while the bank lives, it is the bank's, and nobody else may change it.
        max_batch: Rows a batch.
    """

    def __init__(self, base: Base, *, max_batch: int = 64) -> None:
        self._base, self.max_batch = base, max_batch
        self._entries: dict[str, Entry] = {}
        self._tokenizing, self._running = Lock(), Lock()

    @property
    def tasks(self) -> Mapping[str, Entry]:
        """The tasks as they are now, by name."""
        return MappingProxyType(dict(self._entries))

    def add(self, name: str, delta: Delta, *, apart: bool = False) -> None:
        """Add a task, or replace the one of this name, at once.

        Args:
            name: The name it answers to.
            delta: Its delta.
            apart: Let a delta that is not made of vectors alone in, to run in batches of its own.

        Raises:
            DeltaError: If the delta is of another base, is damaged, or cannot join a mixed batch and `apart` is off.
        """
        delta.check(self._base)
        matrices = [n for n in delta.values if len(self._base.layout.by_name[n].shape) != 1]
        if matrices and not apart:
            raise DeltaError(f"The delta {name!r} changes {matrices[0]}, which is no vector; add it apart.")
        self._entries[name] = Entry.of(name, delta, apart=bool(matrices))

    def remove(self, name: str) -> None:
        """Remove a task; what is prepared for it is still answered.

        Raises:
            UnknownNameError: If there is none of this name.
        """
        if self._entries.pop(name, None) is None:
            raise UnknownNameError("task", name, self._entries)

    def prepare(self, text: Text, task: str) -> Prepared:
        """Check and tokenize one text for a task.

        Args:
            text: A text, or a text and its pair where the task reads pairs.
            task: The task's name.

        Returns:
            What `answer` takes; it keeps the task as it is now, even if that is replaced or removed before the answer.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If the text is empty, or a pair where the task reads single texts, or the other way round.
        """
        return self.prepare_many([text], [task])[0]

    def prepare_many(self, texts: Sequence[Text], tasks: Sequence[str]) -> list[Prepared]:
        """Like `prepare`, for many texts."""
        done = []
        for text, task in zip(texts, tasks, strict=True):
            entry = self._entry(task)
            with self._tokenizing:
                encoded = encode(examples([text], entry.task), self._base.need_tokenizer(), entry.info.max_length)
            fields = {name: values[0] for name, values in encoded.fields.items()}
            done.append(Prepared(entry, fields, bool(encoded.truncated)))
        return done

    def answer(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """The answers for what `prepare` gave, in its order."""
        rows = self.logits(prepared)
        return [predictions(row[None], one.entry.task)[0] for row, one in zip(rows, prepared, strict=True)]

    def logits(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        """The head's outputs for what `prepare` gave: float32, one vector a row, as long as its task has outputs."""
        tokenizer = self._base.need_tokenizer()
        results = []
        for one in prepared:
            pad = {"input_ids": int(tokenizer.pad_token_id or 0), "token_type_ids": 0, "attention_mask": 0}
            encoded = Encoded({name: (value,) for name, value in one.fields.items()}, None, 0, pad)
            with self._running, one.entry.delta.apply(self._base):
                results.append(logits(self._base, encoded)[0])
        return results

    def predict(self, texts: Sequence[Text], tasks: Sequence[str] | str) -> list[Prediction]:
        """The answers for `texts`, in their order.

        Args:
            texts: Texts, or pairs of texts where their task reads pairs.
            tasks: The task of each text, or one for all.

        Returns:
            One prediction a text.

        Raises:
            UnknownNameError: If there is no such task.
            DataError: If the counts differ, a text is empty, or its task does not read such.
        """
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise DataError(f"There are {len(texts)} texts, but {len(names)} names of tasks.")
        return self.answer(self.prepare_many(texts, names))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownNameError("task", name, dict(self._entries))
        return entry
