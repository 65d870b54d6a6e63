"""A task: what is asked of a text or a pair of texts, and the data to learn it from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from normtune.errors import DataError

Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class Task:
    """What a task asks, apart from its data.

    Attributes:
        name: Short name, as on the hub (``rte``).
        title: The name in print (``RTE``).
        kind: ``classification`` (one label of several) or ``regression`` (one number).
        labels: Label names in the order of their class numbers; empty for regression.
        metrics: Names of the metrics to report (see `normtune.data.metrics`), the primary one first.
        pair: Whether an example is a pair of texts.
        positive: For metrics that need one, the class number that counts as positive.
        about: One line that says what is asked.
        center: For regression, what is taken from a target before training and added to a prediction.
        scale: For regression, what the rest is divided by before training; a prediction is multiplied by it.
        weights: For classification, the weight of each class in the loss, or None for equal ones.
        columns: In the user's own files, the names of the columns of text, pair (where there is one) and label.
    """

    name: str
    title: str
    kind: Kind
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    pair: bool
    positive: int = 1
    about: str = ""
    center: float = 0.0
    scale: float = 1.0
    weights: tuple[float, ...] | None = None
    columns: tuple[str, ...] = ()

    @property
    def primary(self) -> str:
        """Name of the metric by which models are compared and the best epoch is picked."""
        return self.metrics[0]

    @property
    def outputs(self) -> int:
        """Width of the head: the number of labels, or 1 for regression."""
        return len(self.labels) if self.kind == "classification" else 1


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a task, in order.

    Attributes:
        texts: First texts.
        pairs: Second texts, or None where the task has none.
        labels: Class numbers (int64) or targets (float64), or None where they are not known.
        tags: For each example the named phenomenon that it tests, or None where the data names none.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    tags: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("pairs", "labels", "tags"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.texts):
                raise DataError(f"A split has {len(self.texts)} texts but {len(column)} {name}.")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The examples at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return Split(
            texts=tuple(self.texts[i] for i in chosen),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            tags=None if self.tags is None else tuple(self.tags[i] for i in chosen),
        )

    def sample(self, size: int | None, seed: int) -> Split:
        """A seeded sample without replacement of at most `size` examples, in the data's own order.

        The sample depends on `size`, `seed` and the number of examples only. None takes all.
        """
        if size is None or size >= len(self):
            return self
        drawn = np.random.default_rng([seed, 0x5A3]).choice(len(self), size=size, replace=False)
        return self.take(np.sort(drawn))

    def identity(self) -> str:
        """A content hash over texts and labels, in order (hexadecimal SHA-256)."""
        digest = hashlib.sha256()
        for column in (self.texts, self.pairs or ()):
            digest.update(f"{len(column)}\n".encode())
            for text in column:
                raw = text.encode()
                digest.update(f"{len(raw)}:".encode() + raw)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """A task with its data.

    Attributes:
        task: What is asked.
        splits: Splits by name: ``train``, ``dev``, ``test`` and, for MNLI, ``dev_mismatched`` and
            ``test_mismatched``. Only those that were found.
        source: Where the data was read from, for people and for the record.
        dropped: Rows that were left out although the file holds them, by split, with the count.
        suite: The suite that the task is of (`normtune.data.suites`); empty for files of the user's own.
    """

    task: Task
    splits: Mapping[str, Split]
    source: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    suite: str = ""

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def split(self, name: str) -> Split:
        """The split called `name`.

        Raises:
            DataError: If this data has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"Task {self.task.name!r} has no {name!r} split in {self.source}; it has: {', '.join(self) or 'none'}."
            )
        return self.splits[name]

    def labelled(self, name: str) -> Split:
        """The split called `name`, which must have labels.

        Raises:
            DataError: If there is no such split, or if it has no labels or no examples.
        """
        split = self.split(name)
        if split.labels is None:
            raise DataError(f"The {name!r} split of task {self.task.name!r} in {self.source} has no labels.")
        if not len(split):
            raise DataError(f"The {name!r} split of task {self.task.name!r} in {self.source} has no examples.")
        return split
