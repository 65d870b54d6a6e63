"""A task: what is asked of a text, a pair of texts or a picture, and the data to learn it from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normtune.data.kind import Kind, KindName
from normtune.data.kinds import KINDS
from normtune.errors import DataError, UnknownNameError

#: The columns of a task that reads a text, a pair of texts, a picture, a sentence of words separated by blanks, or
#: running text.
TEXT, PAIR, PICTURE, SENTENCE, LINES = ("text",), ("text", "pair"), ("picture",), ("sentence",), ("lines",)


@dataclass(frozen=True)
class Task:
    """What a task asks, apart from its data.

    Attributes:
        name: Short name, as on the hub (``rte``).
        title: The displayed name (``RTE``).
        kind: Name of the kind (`normtune.data.kinds.KINDS`): what an answer is.
        labels: Label names in the order of their class numbers; empty for regression and language models.
        metrics: Names of the metrics to report (see `normtune.data.metrics`), the primary one first.
        inputs: The columns that an example consists of: `TEXT`, `PAIR`, `PICTURE`, `SENTENCE`, `LINES`, or those of a
            kind that was added to `normtune.data.encode.ENCODERS`.
        about: One line that says what is asked.
        center: For regression, subtracted from a target before training, and added to a prediction.
        scale: For regression, what the difference is divided by before training; a prediction is multiplied by it.
        weights: For classification, the weight of each class in the loss, or None for equal ones.
        columns: In the user's own files, the names of the columns of text, pair (where there is one) and label.
    """

    name: str
    title: str
    kind: KindName
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    inputs: tuple[str, ...] = TEXT
    about: str = ""
    center: float = 0.0
    scale: float = 1.0
    weights: tuple[float, ...] | None = None
    columns: tuple[str, ...] = ()

    @property
    def pair(self) -> bool:
        """Whether an example is a pair of texts."""
        return self.inputs == PAIR

    @property
    def primary(self) -> str:
        """Name of the metric by which models are compared and the best epoch is picked."""
        return self.metrics[0]

    @property
    def asks(self) -> Kind:
        """Its kind."""
        return KINDS[self.kind]

    @property
    def outputs(self) -> int:
        """Width of the head: the number of labels, or `Kind.width` without labels."""
        return self.asks.outputs(self.labels)


def plain(name: str) -> str:
    """A name in lower-case letters and digits only, for comparing tasks and folders."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def resolve(name: str, tasks: Mapping[str, Task], kind: str, aliases: Mapping[str, str] | None = None) -> str:
    """The key of `tasks` that `name` means: a name or a title in any spelling (``SST-2`` for ``sst2``), or an alias.

    Raises:
        UnknownNameError: If it means none; `kind` says what was looked for.
    """
    known = {given: own for given, own in (aliases or {}).items() if own in tasks}
    known |= {plain(given): own for own, task in tasks.items() for given in (own, task.title)}
    if plain(name) not in known:
        raise UnknownNameError(kind, name, tasks)
    return known[plain(name)]


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a task, in order.

    Attributes:
        columns: What the task reads, by the names in `Task.inputs`; the first name decides how it is encoded. Texts are
            strings; other values support `bytes`.
        labels: Class numbers (int64) or targets (float64), or None where they are not known.
        places: Where each example is, to start a sentence about it (``a.csv, line 7``); empty if unknown.
    """

    columns: Mapping[str, tuple[Any, ...]]
    labels: np.ndarray | None = None
    places: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        if self.places:
            lengths["places"] = len(self.places)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"The columns of a split differ in length: {told}.")

    @classmethod
    def of_texts(
        cls, texts: Iterable[str], pairs: Iterable[str] | None = None, labels: np.ndarray | None = None
    ) -> Split:
        """A split of texts, or of pairs of texts."""
        first = {"text": tuple(texts)}
        return cls(first if pairs is None else {**first, "pair": tuple(pairs)}, labels)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def kind(self) -> str:
        """The kind of input, by the name of the first column: ``text``, ``picture``, ``sentence`` or ``lines``."""
        return next(iter(self.columns))

    @property
    def texts(self) -> tuple[str, ...]:
        """The first texts."""
        return self.columns["text"]

    @property
    def pairs(self) -> tuple[str, ...] | None:
        """The second texts, or None where the task has none."""
        return self.columns.get("pair")

    def place(self, number: int) -> str:
        """Where example `number` (from 0) is, to start a sentence about it."""
        return self.places[number] if self.places else f"Text {number + 1} of {len(self)}"

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The examples at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return Split(
            {name: tuple(column[i] for i in chosen) for name, column in self.columns.items()},
            None if self.labels is None else self.labels[chosen],
            [self.places[i] for i in chosen] if self.places else (),
        )

    def sample(self, size: int | None, seed: int) -> Split:
        """A seeded sample without replacement of at most `size` examples, in the data's own order.

        A sample of running text is consecutive lines. The sample depends only on `size`, `seed` and the number of
        examples. None takes all.
        """
        if size is None or size >= len(self):
            return self
        rng = np.random.default_rng([seed, 0x5A3])
        if self.kind == "lines":
            return self.take(np.arange(size) + rng.integers(len(self) - size + 1))
        drawn = rng.choice(len(self), size=size, replace=False)
        return self.take(np.sort(drawn))

    def identity(self) -> str:
        """A content hash over all columns and labels, in order (hexadecimal SHA-256)."""
        digest = hashlib.sha256()
        # A missing column of texts counts as an empty one: records and Fisher files hold hashes made this way.
        for column in {**dict.fromkeys(PAIR, ()), **self.columns}.values():
            digest.update(f"{len(column)}\n".encode())
            for value in column:
                raw = value.encode() if isinstance(value, str) else bytes(value)
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
        dropped: How many rows of the file were left out, by split.
        suite: The task's suite (`normtune.data.suites`); empty for the user's own files.
        notes: For the user's own files, sentences about what was guessed, and about problems in the data.
        labels_count: For the user's own files, the number of train examples of each label, in class order.
    """

    task: Task
    splits: Mapping[str, Split]
    source: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    suite: str = ""
    notes: tuple[str, ...] = ()
    labels_count: Mapping[str, int] = field(default_factory=dict)

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
