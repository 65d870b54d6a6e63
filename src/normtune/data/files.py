"""A task from the user's own files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from normtune.data.content import task_name
from normtune.data.holdout import NUMBER, divide, labels_of, notes_on
from normtune.data.images import COLUMN, holds_pictures, pictures_of, read_pictures
from normtune.data.kind import Kind, KindName
from normtune.data.kinds import KINDS
from normtune.data.labels import several, words
from normtune.data.metrics import is_constant
from normtune.data.reading import RECOGNISED, Reading
from normtune.data.rows import read_rows
from normtune.data.table import Rows, places
from normtune.data.task import Split, Task, TaskData
from normtune.errors import ConfigError, DataError

#: The part of a train file that becomes the dev split where there is no dev file.
DEV_FRACTION = 0.1

# A number with a decimal comma.
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


def load_files(
    train: Path,
    dev: Path | None,
    *,
    text: str,
    pair: str | None = None,
    label: str,
    kind: KindName = "classification",
    seed: int = 0,
    class_weights: bool = False,
    name: str | None = None,
    reading: Reading = RECOGNISED,
) -> TaskData:
    """Reads a task from one or two files or folders.

    A file is a table in any format that `normtune.data.rows.read_rows` knows, or pictures in any form that
    `normtune.data.images.read_pictures` knows. A table's column ``image`` holds paths of pictures, relative to the
    table's folder; it is read if `text` names it, or names no column of the table.

    The classes are those of the train file. Without a dev file, a seeded tenth of the train file becomes the dev split:
    classes keep their proportions, every class with at least two different texts is in both splits, and identical texts
    stay together. Texts are kept as they are; labels are stripped. Anything wrong with a file raises a `DataError` that
    names the file and the line.

    Args:
        train: The file to train on.
        dev: The file to evaluate on, or None to split it off `train`.
        text: Column of the texts.
        pair: Column of the second texts, for a task about pairs.
        label: Column of the labels or, for regression, of the targets.
        kind: What the labels are. Training standardises numbers by mean and standard deviation of the train split.
        seed: Seed of that split.
        class_weights: Weigh each class in the loss by examples / (classes * examples of the class).
        name: The task's name; None takes it from the train file's.
        reading: How both files are read.

    Returns:
        The task with its ``train`` and ``dev`` splits, and notes.

    Raises:
        ConfigError: If `class_weights` or a field of `reading` does not fit the labels or the file.
    """
    asks = KINDS[kind]
    if class_weights and not asks.weighted:
        raise ConfigError(f"Class weights need one class an example, but this task is {kind}.")
    read = _read(train, text, pair, label, reading, asks)
    told, bad = read.rows.notes, {"train": len(read.rows.bad)}
    names = _classes(read) if asks.named else ()
    whole = _split(read, asks, names, train)
    if dev is None:
        splits = divide(whole, asks, DEV_FRACTION, seed, names)
    else:
        beside = _read(dev, text, pair, label, reading, asks)
        told, bad["dev"] = told + beside.rows.notes, len(beside.rows.bad)
        splits = {"train": whole, "dev": _split(beside, asks, names, train)}
    own = asks.counts(labels_of(splits["train"]), len(names))
    counts = dict(zip(names, own.tolist(), strict=True))
    center, scale = (0.0, 1.0) if asks.named else _standard(splits["train"], train)
    called = name or task_name(train)
    task = Task(
        name=called,
        title=called,
        kind=kind,
        labels=names,
        metrics=asks.metrics(names),
        inputs=tuple(whole.columns),
        center=center,
        scale=scale,
        weights=tuple((own.sum() / (len(names) * own)).tolist()) if class_weights else None,
    )
    notes = (*told, *notes_on(asks, whole, splits, counts, train.name, None if dev else DEV_FRACTION))
    source = ", ".join(path.name for path in (train, dev) if path is not None)
    dropped = {split: count for split, count in bad.items() if count}
    return TaskData(task, splits, source, dropped, notes=notes, labels_count=counts)


def read_split(
    path: Path,
    *,
    text: str,
    pair: str | None,
    label: str,
    names: Sequence[str],
    kind: KindName = "classification",
    reading: Reading = RECOGNISED,
) -> tuple[Split, tuple[str, ...]]:
    """Reads the examples of a file as `load_files` does, for a task whose labels have these names, in class order.

    Returns:
        All of its examples, and notes on how they were read.
    """
    asks = KINDS[kind]
    read = _read(path, text, pair, label, reading, asks)
    return _split(read, asks, names, "the task's labels"), read.rows.notes


@dataclass(frozen=True)
class _Examples:
    """A file's rows, its inputs (a split that has labels only if they are numbers), and each example's labels."""

    rows: Rows
    inputs: Split
    labels: list[list[str]]


def _read(path: Path, text: str, pair: str | None, label: str, reading: Reading, asks: Kind) -> _Examples:
    """Read the wanted columns of a file, with labels of this kind; numbers may have decimal commas."""
    if reading.decimal and asks.named:
        raise ConfigError("Only labels that are numbers have a decimal sign; leave decimal out of --read.")
    if reading.labels and asks.read is not several:
        raise ConfigError("Only several labels in a cell have a separator; leave labels out of --read.")
    texts, bare = [text] if pair is None else [text, pair], holds_pictures(path)
    if bare:
        if reading != RECOGNISED:
            raise ConfigError(f"--read says how tables are read, and {path} is none; leave it out.")
        rows, texts = read_pictures(path, labelled=True), []
    else:
        rows = read_rows(path, reading)
    pictures = COLUMN in rows.columns and (text == COLUMN or text not in rows.columns)
    if pictures and pair is not None:
        raise DataError(f"{path} holds pictures, which have no pairs; leave out the column {pair!r}.")
    if asks.words and (pictures or pair is not None or bare):
        raise DataError(f"{path}: tags need single texts, not pairs or pictures.")
    read = words if asks.words else Rows.column
    columns = {name: read(rows, name) for name in (COLUMN if pictures else own for own in texts)}
    given = asks.read(rows, label, reading)
    cells = ((index, name, cell) for name, column in columns.items() for index, cell in enumerate(column))
    faults = [(index, name, f"the column {name!r} is empty") for index, name, cell in cells if not cell.strip()]
    if asks.words:
        counts = [(len(own.split()), len(tags)) for own, tags in zip(columns[text], given.values, strict=True)]
        ragged = ((index, *both) for index, both in enumerate(counts) if len({*both}) > 1)
        faults += [(index, text, f"{own} words have {tags} tags") for index, own, tags in ragged]
    faults = sorted([*faults, *((index, label, said) for index, said in given.faults.items())])
    if faults and not reading.skip:
        first, _, said = faults[0]
        found = [*dict.fromkeys(rows.lines[index] for index, *_ in faults)]
        every = f" ({len(found)} bad rows in all: {rows.unit}s {places(found)})" if found[1:] else ""
        hint = "Fill in or remove such rows, or leave them out with --read skip-bad-rows."
        raise DataError(f"{rows.place(first)}: {said}{every}. {hint}")
    labels = given.values
    figures = [] if asks.named else [own for own, *_ in labels]
    commas = [own for own in figures if _COMMA.fullmatch(own)]
    # A comma before three digits may separate thousands, unless other labels show that commas are decimal.
    guessed = any(len(own.rpartition(",")[2]) != 3 for own in commas) and not any("." in own for own in figures)
    comma = guessed if not reading.decimal else reading.decimal == "comma"
    targets = np.array([_number(own, comma=comma) for own in figures])
    odd = np.flatnonzero(~np.isfinite(targets)).tolist()
    if odd and not reading.skip:
        how, target = " with a decimal comma" if comma else "", figures[odd[0]]
        hint = "Correct it, or leave such rows out with --read skip-bad-rows."
        if _COMMA.fullmatch(target):  # so commas were not taken as decimal
            hint = f"If {target} is {target.replace(',', '.')}, say --read decimal=comma."
        raise DataError(f"{rows.place(odd[0])}: the target {target!r} is not a finite number{how}. {hint}")
    if reading.skip:
        bad = {*odd, *(index for index, *_ in faults)}
        good = [index for index in range(len(rows)) if index not in bad]
        rows, labels = rows.drop(bad), [labels[index] for index in good]
        targets = targets if asks.named else targets[good]
        columns = {name: read(rows, name) for name in columns}
    notes = (*rows.notes, *rows.left_out, *given.notes)
    if guessed and not reading.decimal:
        notes += (f"{path.name}: commas in {label!r} are decimal: {commas[0]} is {commas[0].replace(',', '.')}.",)
    if pictures:
        inputs = Split({"picture": pictures_of(rows)})
    elif asks.words:
        inputs = Split({"sentence": tuple(columns[text])})
    else:
        inputs = Split.of_texts(columns[text], None if pair is None else columns[pair])
    inputs = replace(inputs, places=rows.places, labels=None if asks.named else targets)
    return _Examples(replace(rows, notes=notes), inputs, labels)


def _number(label: str, *, comma: bool) -> float:
    """The number that a label is, or NaN; if the decimal sign is a `comma`, a label with a point is NaN."""
    text = label if not comma else label.replace(".", "?").replace(",", ".")
    return float(text) if NUMBER.fullmatch(text) else math.nan


def _classes(read: _Examples) -> tuple[str, ...]:
    """The labels that occur: numbers first, by value, then the others."""
    found = sorted({*chain(*read.labels)})
    found.sort(key=lambda label: (0, float(label)) if NUMBER.fullmatch(label) else (1, 0.0))
    if len(found) < 2:
        one = f"only one label, {found[0]!r}" if found else "no labels"
        raise DataError(f"{read.rows.source} has {one}, so there is nothing to tell apart.")
    return tuple(found)


def _split(read: _Examples, asks: Kind, names: Sequence[str], train: Path | str) -> Split:
    """All examples of a file, with class numbers or targets."""
    if not asks.named:
        return read.inputs
    numbers = {label: number for number, label in enumerate(names)}
    unknown = list(dict.fromkeys(label for label in chain(*read.labels) if label not in numbers))
    if unknown:
        place = read.rows.place(next(index for index, own in enumerate(read.labels) if unknown[0] in own))
        more = f" (other such labels in this file: {len(unknown) - 1})" if unknown[1:] else ""
        raise DataError(f"{place}: the label {unknown[0]!r} does not occur in {train}{more}.")
    classes = [[numbers[label] for label in own] for own in read.labels]
    return replace(read.inputs, labels=asks.pack(classes, len(names)))


def _standard(train: Split, source: Path) -> tuple[float, float]:
    """Mean and standard deviation of the targets."""
    targets = labels_of(train)
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale, same = float(targets.mean()), float(targets.std()), is_constant(targets)
    if same:
        raise DataError(f"{source}: all targets of the train split are {targets[0]:g}, so there is nothing to learn.")
    if not 0 < scale < math.inf:
        raise DataError(f"{source}: the targets are too large or too small to be standardised.")
    return center, scale
