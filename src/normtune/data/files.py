"""A task from the user's own files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normtune.data.holdout import NUMBER, alike, divide, labels_of
from normtune.data.rows import Rows, read_rows
from normtune.data.task import PAIR, TEXT, Split, Task, TaskData
from normtune.errors import ConfigError, DataError

LONG_TEXT = 20_000
SMALL_CLASS = 5

# Below this spread, relative to the largest target, differences are rounding errors.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class FileTask:
    """A task from files, and what its user should know about them.

    Attributes:
        data: The task with its ``train`` and ``dev`` splits.
        notes: Sentences about what may do harm, such as duplicates; empty where nothing does.
        labels_count: Examples of the train split by label, in the order of the classes; None for regression.
    """

    data: TaskData
    notes: tuple[str, ...]
    labels_count: Mapping[str, int] | None


@dataclass(frozen=True)
class _Examples:
    """The wanted columns of a file; labels are stripped."""

    rows: Rows
    texts: list[str]
    pairs: list[str] | None
    labels: list[str]

    def split(self, labels: np.ndarray) -> Split:
        return Split.of_texts(self.texts, self.pairs, labels)


def load_files(
    train: Path,
    dev: Path | None,
    *,
    text: str,
    pair: str | None = None,
    label: str,
    regression: bool = False,
    dev_fraction: float = 0.1,
    seed: int = 0,
    class_weights: bool = False,
    name: str | None = None,
) -> FileTask:
    """Reads a task from one or two files, in any format that `normtune.data.rows.read_rows` knows.

    The classes are those of the train file. Without a dev file a seeded part of the train file becomes the dev split:
    classes keep their proportions, every class with at least two different texts is on both sides, and identical texts
    stay on one side. Texts are kept as they are, labels are stripped. Whatever is wrong with a file is a `DataError`
    that names it and the line.

    Args:
        train: The file to train on.
        dev: The file to evaluate on, or None to split it off `train`.
        text: Column of the texts.
        pair: Column of the second texts, for a task about pairs.
        label: Column of the labels or, for regression, of the targets.
        regression: Predict a number; training standardises it by mean and standard deviation of the train split.
        dev_fraction: Fraction of the train file that becomes the dev split where there is no dev file.
        seed: Seed of that split.
        class_weights: Weigh each class in the loss by examples / (classes * examples of the class).
        name: The task's name; None takes it from the train file's.

    Returns:
        The task, with notes.

    Raises:
        ConfigError: If class weights are asked for in regression.
        DataError: If `dev_fraction` is not between 0 and 1.
    """
    if not 0 < dev_fraction < 1:
        raise DataError(f"The dev fraction must be more than 0 and less than 1, not {dev_fraction:g}.")
    if regression and class_weights:
        raise ConfigError("Class weights need classes, but this task is regression.")
    read = _read(train, text, pair, label)
    given = None if dev is None else _read(dev, text, pair, label)
    names = () if regression else _classes(read)
    whole = _split(read, names, read.rows.source)
    notes = _contradictions(whole, train.name)
    if given is None:
        splits = divide(whole, dev_fraction, seed, names)
        notes += _moved(splits, dev_fraction)
    else:
        splits = {"train": whole, "dev": _split(given, names, read.rows.source)}
        notes += _leaks(splits)
    counts = None if regression else _counts(splits["train"], names)
    notes += [*_small(counts or {}), *_unseen(splits["dev"], names, made=given is None), *_long(splits.values())]
    called = name or _safe(train.stem)
    if counts is None:
        task = _regression(called, splits["train"], read.rows.source)
    else:
        weights = _weights(list(counts.values())) if class_weights else None
        task = _classification(called, names, pair=pair is not None, weights=weights)
    source = ", ".join(path.name for path in (train, dev) if path is not None)
    return FileTask(TaskData(task, splits, source), tuple(notes), counts)


def read_split(path: Path, *, text: str, pair: str | None, label: str, names: Sequence[str]) -> Split:
    """Reads a file's examples for a task that is known already.

    Whatever is wrong with the file is a `DataError` that names it and the line.

    Args:
        path: The file, in any format that `normtune.data.rows.read_rows` knows.
        text: Column of the texts.
        pair: Column of the second texts, for a task about pairs.
        label: Column of the labels or, for regression, of the targets.
        names: The task's labels in class order; none for regression.

    Returns:
        All of its examples.
    """
    return _split(_read(path, text, pair, label), names, "the task's labels")


def _read(path: Path, text: str, pair: str | None, label: str) -> _Examples:
    """The wanted columns of a file.

    Raises:
        DataError: If a text or a label is empty.
    """
    rows = read_rows(path)
    labels = [value.strip() for value in rows.column(label)]
    found = _Examples(rows, rows.column(text), None if pair is None else rows.column(pair), labels)
    for column, values in ((text, found.texts), (pair, found.pairs or []), (label, labels)):
        for index, value in enumerate(values):
            if not value.strip():
                raise DataError(f"{rows.place(index)}: the column {column!r} is empty.")
    return found


def _classes(read: _Examples) -> tuple[str, ...]:
    """The labels that occur: numbers first, by value, then the others.

    Raises:
        DataError: If there is only one.
    """
    found = sorted(set(read.labels), key=lambda label: (*_number(label), label))
    if len(found) == 1:
        raise DataError(f"{read.rows.source} has only one label, {found[0]!r}, so there is nothing to tell apart.")
    return tuple(found)


def _number(label: str) -> tuple[bool, float]:
    """Where a label is sorted: (whether it is no number, its value)."""
    return (False, float(label)) if NUMBER.fullmatch(label) else (True, 0.0)


def _split(read: _Examples, names: Sequence[str], train: str) -> Split:
    """All examples of a file, as targets where there are no `names` of classes."""
    return read.split(_codes(read, names, train) if names else _targets(read))


def _codes(read: _Examples, names: Sequence[str], train: str) -> np.ndarray:
    """The class numbers of a file's labels.

    Raises:
        DataError: If a label is not one of `names`, which are those of the file `train`.
    """
    numbers = {label: number for number, label in enumerate(names)}
    unknown = list(dict.fromkeys(label for label in read.labels if label not in numbers))
    if unknown:
        place = read.rows.place(read.labels.index(unknown[0]))
        more = f" (other such labels in this file: {len(unknown) - 1})" if unknown[1:] else ""
        raise DataError(f"{place}: the label {unknown[0]!r} does not occur in {train}{more}.")
    return np.array([numbers[label] for label in read.labels], dtype=np.int64)


def _targets(read: _Examples) -> np.ndarray:
    """The targets of a file.

    Raises:
        DataError: If one is not a finite number.
    """
    targets = []
    for index, label in enumerate(read.labels):
        target = float(label) if NUMBER.fullmatch(label) else math.nan
        if not math.isfinite(target):
            raise DataError(f"{read.rows.place(index)}: the target {label!r} is not a finite number.")
        targets.append(target)
    return np.array(targets, dtype=np.float64)


def _classification(name: str, names: tuple[str, ...], *, pair: bool, weights: tuple[float, ...] | None) -> Task:
    return Task(
        name=name,
        title=name,
        kind="classification",
        labels=names,
        metrics=("accuracy", "macro_f1", *(("f1", "matthews") if len(names) == 2 else ())),
        inputs=PAIR if pair else TEXT,
        about=f"Which of {len(names)} labels does a {'pair of texts' if pair else 'text'} have?",
        weights=weights,
    )


def _regression(name: str, train: Split, source: str) -> Task:
    """A regression task, standardised by the train split.

    Raises:
        DataError: If its targets cannot be standardised.
    """
    targets = labels_of(train)
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale, spread = float(targets.mean()), float(targets.std()), float(np.ptp(targets))
    if spread <= _ROUNDING * np.abs(targets).max():
        raise DataError(f"{source}: all targets of the train split are {targets[0]:g}, so there is nothing to learn.")
    if not 0 < scale < math.inf:
        raise DataError(f"{source}: the targets are too large or too small to be standardised.")
    return Task(
        name=name,
        title=name,
        kind="regression",
        labels=(),
        metrics=("spearman", "pearson", "mse"),
        inputs=tuple(train.columns),
        about=f"What number does a {'pair of texts' if train.pairs is not None else 'text'} have?",
        center=center,
        scale=scale,
    )


def _safe(stem: str) -> str:
    """A file's name without what a folder or a shell could stumble over."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "task"


def _counts(split: Split, names: Sequence[str]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels_of(split), minlength=len(names)).tolist(), strict=True))


def _weights(counts: Sequence[int]) -> tuple[float, ...]:
    return tuple(sum(counts) / (len(counts) * count) for count in counts)


def _some(labels: Sequence[str]) -> str:
    """The first few labels in words."""
    shown = ", ".join(repr(label) for label in labels[:5])
    return f"{shown} and {len(labels) - 5} more" if len(labels) > 5 else shown


def _contradictions(whole: Split, file: str) -> list[str]:
    labels = labels_of(whole)
    found = [rows for rows in alike(whole).values() if len(rows) > 1 and np.ptp(labels[rows]) > 0]
    if not found:
        return []
    return [f"{file}: {sum(map(len, found))} rows share their texts with others that have another label."]


def _leaks(splits: Mapping[str, Split]) -> list[str]:
    seen, dev = alike(splits["train"]), alike(splits["dev"])
    count = sum(len(rows) for key, rows in dev.items() if key in seen)
    if not count:
        return []
    return [f"Dev rows whose texts are in train too, which flatters the scores: {count} of {len(splits['dev'])}."]


def _moved(splits: Mapping[str, Split], fraction: float) -> list[str]:
    held = len(splits["dev"])
    total = held + len(splits["train"])
    if abs(held - fraction * total) <= max(1.0, 0.1 * fraction * total):
        return []
    return [
        f"Dev takes {held} of {total} rows, not the fraction {fraction:g}, as identical texts stay together and small "
        "classes are shared out."
    ]


def _small(counts: Mapping[str, int]) -> list[str]:
    small = [label for label, count in counts.items() if count < SMALL_CLASS]
    if not small:
        return []
    return [f"Classes with fewer than {SMALL_CLASS} train rows: {len(small)} of {len(counts)} ({_some(small)})."]


def _unseen(dev: Split, names: Sequence[str], *, made: bool) -> list[str]:
    present = set(labels_of(dev).tolist()) if names else set()
    lacking = [name for number, name in enumerate(names) if number not in present]
    if not lacking:
        return []
    why = ", as they have too few different texts to share" if made else ""
    return [f"Classes that are in train but not in dev{why}: {len(lacking)} of {len(names)} ({_some(lacking)})."]


def _long(splits: Iterable[Split]) -> list[str]:
    columns = [column for split in splits for column in (split.texts, split.pairs) if column is not None]
    count = sum(len(text) > LONG_TEXT for column in columns for text in column)
    if not count:
        return []
    return [f"Texts of more than {LONG_TEXT:,} characters, of which a model reads only the start: {count}."]
