"""A task from the user's own files."""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from normtune.data.content import PACKED
from normtune.data.holdout import NUMBER, alike, divide, labels_of
from normtune.data.images import COLUMN, holds_pictures, pictures_of, read_pictures
from normtune.data.kind import Kind, KindName
from normtune.data.kinds import KINDS
from normtune.data.labels import several, words
from normtune.data.reading import RECOGNISED, Reading
from normtune.data.rows import read_rows
from normtune.data.table import Rows, places
from normtune.data.task import Split, Task, TaskData
from normtune.errors import ConfigError, DataError

#: The part of a train file that becomes the dev split where there is no dev file.
DEV_FRACTION = 0.1
LONG_TEXT = 20_000
SMALL_CLASS = 5

# A number with a decimal comma.
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)

# Below this spread, relative to the largest target, differences are rounding errors.
_ROUNDING = 1e-12


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

    A file is a table in any format that `normtune.data.rows.read_rows` knows; what else holds pictures
    `normtune.data.images.read_pictures` says. The cells of a column ``image`` are paths of pictures, relative to
    the table's folder; it is read where `text` names it, or where there is no such column.

    The classes are those of the train file. Without a dev file a seeded tenth of the train file becomes the dev split:
    classes keep their proportions, every class with at least two different texts is on both sides, and identical texts
    stay on one side. Texts are kept as they are, labels are stripped. Whatever is wrong with a file is a `DataError`
    that names it and the line.

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
        ConfigError: If class weights or a decimal sign are asked for where labels have none.
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
    stem = Path(train.stem).stem if train.suffix.lower() in PACKED else train.stem
    called = name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "task"
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
    notes = (*told, *_notes(asks, whole, splits, counts, train.name, divided=dev is None))
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
    """Reads a file's examples for a task that is known already.

    Whatever is wrong with the file is a `DataError` that names it and the line.

    Args:
        path: The file, in any format that `normtune.data.rows.read_rows` knows.
        text: Column of the texts.
        pair: Column of the second texts, for a task about pairs.
        label: Column of the labels or, for regression, of the targets.
        names: The task's labels in class order; none for regression.
        kind: What the labels are.
        reading: How it is read.

    Returns:
        All of its examples, and notes on how they were read.
    """
    asks = KINDS[kind]
    read = _read(path, text, pair, label, reading, asks)
    # Earlier versions named booleans and whole numbers of JSONL and Parquet so.
    every = dict.fromkeys(chain(*read.labels))
    before = {own: {"True": "true", "False": "false"}.get(own, own.removesuffix(".0")) for own in every}
    known = {own: old for own, old in before.items() if own not in names and old in names}
    notes = read.rows.notes
    if known:
        own, old = next(iter(known.items()))
        notes += (f"{path.name}: labels are read as earlier versions wrote them: {own} is {old}.",)
        read = replace(read, labels=[[known.get(own, own) for own in row] for row in read.labels])
    return _split(read, asks, names, "the task's labels"), notes


@dataclass(frozen=True)
class _Examples:
    """The wanted columns of a file, as a split without labels, and the labels of each example.

    `comma` says whether they are numbers with a decimal comma.
    """

    rows: Rows
    inputs: Split
    labels: list[list[str]]
    comma: bool


def _read(path: Path, text: str, pair: str | None, label: str, reading: Reading, asks: Kind) -> _Examples:
    """The wanted columns of a file with labels of a kind; if they are numbers, they may have decimal commas.

    Raises:
        ConfigError: If a decimal sign is asked for, and there are no numbers, or a separator, and there are no lists.
        DataError: If a text or a label is empty, or labels are not what they should be.
    """
    numbers = not asks.named
    if reading.decimal and not numbers:
        raise ConfigError("Only labels that are numbers have a decimal sign; leave decimal out of --read.")
    if reading.labels and asks.read is not several:
        raise ConfigError("Only several labels in a cell have a separator; leave labels out of --read.")
    texts = [text] if pair is None else [text, pair]
    if holds_pictures(path):
        if reading != RECOGNISED:
            raise ConfigError(f"--read says how tables are read, and {path} is none; leave it out.")
        rows, texts = read_pictures(path, labelled=True), []
    else:
        rows = read_rows(path, reading)
    pictures = COLUMN in rows.columns and (text == COLUMN or text not in rows.columns)
    if pictures and pair is not None:
        raise DataError(f"{path} holds pictures, which have no pairs; leave out the column {pair!r}.")
    if asks.words and (pictures or pair is not None or holds_pictures(path)):
        raise DataError(f"Words have tags, and neither pairs nor pictures do; look at {path}.")
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
        (first, _, said), *others = faults
        what = "empty" if all(said.endswith(" is empty") for *_, said in faults) else "bad"
        found = places([rows.lines[index] for index, *_ in faults])
        every = f" ({len(faults)} {what} cells in all: {rows.unit}s {found})" if others else ""
        hint = "Fill in or remove such rows, or leave them out with --read skip-bad-rows."
        raise DataError(f"{rows.place(first)}: {said}{every}. {hint}")
    labels = given.values
    figures = [own for own, *_ in labels] if numbers else []
    commas = [own for own in figures if _COMMA.fullmatch(own)]
    # Three digits behind a comma may be thousands, unless other labels show what commas are.
    guessed = any(len(own.rpartition(",")[2]) != 3 for own in commas) and not any("." in own for own in figures)
    comma = guessed if not reading.decimal else reading.decimal == "comma"
    if reading.skip:
        bad = {index for index, *_ in faults}
        bad |= {index for index, own in enumerate(figures) if not math.isfinite(_number(own, comma=comma))}
        rows, labels = rows.drop(bad), [own for index, own in enumerate(labels) if index not in bad]
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
    return _Examples(replace(rows, notes=notes), replace(inputs, places=rows.places), labels, comma)


def _number(label: str, *, comma: bool) -> float:
    """The number that a label is, or NaN; if its decimal sign is a `comma`, a point has no place in it."""
    text = label if not comma else label.replace(".", "?").replace(",", ".")
    return float(text) if NUMBER.fullmatch(text) else math.nan


def _classes(read: _Examples) -> tuple[str, ...]:
    """The labels that occur: numbers first, by value, then the others.

    Raises:
        DataError: If there is only one, or none.
    """

    def order(label: str) -> tuple[bool, float, str]:
        number = NUMBER.fullmatch(label)
        return number is None, float(label) if number else 0.0, label

    found = sorted({*chain(*read.labels)}, key=order)
    if len(found) < 2:
        one = f"only one label, {found[0]!r}" if found else "no labels"
        raise DataError(f"{read.rows.source} has {one}, so there is nothing to tell apart.")
    return tuple(found)


def _split(read: _Examples, asks: Kind, names: Sequence[str], train: Path | str) -> Split:
    """All examples of a file, with class numbers or, where there are no `names` of classes, with targets.

    Raises:
        DataError: If a label is not one of `names`, which are those of the file `train`, or a target is no number.
    """
    if not asks.named:
        targets = [_number(label, comma=read.comma) for label, *_ in read.labels]
        for index, target in enumerate(targets):
            if not math.isfinite(target):
                place = read.rows.place(index)
                how = " with a decimal comma" if read.comma else ""
                raise DataError(f"{place}: the target {read.labels[index][0]!r} is not a finite number{how}.")
        return replace(read.inputs, labels=np.array(targets, dtype=np.float64))
    numbers = {label: number for number, label in enumerate(names)}
    unknown = list(dict.fromkeys(label for label in chain(*read.labels) if label not in numbers))
    if unknown:
        place = read.rows.place(next(index for index, own in enumerate(read.labels) if unknown[0] in own))
        more = f" (other such labels in this file: {len(unknown) - 1})" if unknown[1:] else ""
        raise DataError(f"{place}: the label {unknown[0]!r} does not occur in {train}{more}.")
    classes = [[numbers[label] for label in own] for own in read.labels]
    return replace(read.inputs, labels=asks.pack(classes, len(names)))


def _standard(train: Split, source: Path) -> tuple[float, float]:
    """Mean and standard deviation of the targets.

    Raises:
        DataError: If the targets cannot be standardised by them.
    """
    targets = labels_of(train)
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale, spread = float(targets.mean()), float(targets.std()), float(np.ptp(targets))
    if spread <= _ROUNDING * np.abs(targets).max():
        raise DataError(f"{source}: all targets of the train split are {targets[0]:g}, so there is nothing to learn.")
    if not 0 < scale < math.inf:
        raise DataError(f"{source}: the targets are too large or too small to be standardised.")
    return center, scale


def _notes(
    asks: Kind, whole: Split, splits: Mapping[str, Split], counts: Mapping[str, int], file: str, *, divided: bool
) -> tuple[str, ...]:
    """What may do harm in a task's data; `divided` says whether dev was split off the train file."""
    labels, train, dev = labels_of(whole), splits["train"], splits["dev"]
    torn = sum(len(rows) for rows in alike(whole).values() if np.ptp(labels[rows], axis=0).any())
    seen = alike(train)
    leaked = sum(len(rows) for texts, rows in alike(dev).items() if texts in seen)
    names = list(counts)
    small = [name for name, count in counts.items() if count < SMALL_CLASS]
    absent = [name for name, count in zip(names, asks.counts(labels_of(dev), len(names)), strict=True) if not count]
    kind, columns = whole.kind, [column for split in splits.values() for column in split.columns.values()]
    long = sum(kind == "text" and len(text) > LONG_TEXT for column in columns for text in column)
    spelt = Counter(unicodedata.normalize("NFKC", name).casefold() for name in names)
    twins = [name for name in names if spelt[unicodedata.normalize("NFKC", name).casefold()] > 1]
    lists = [name for name in names if name.startswith("[") and name.endswith("]")]
    wanted = DEV_FRACTION * len(whole)
    moved = divided and abs(len(dev) - wanted) > max(1.0, 0.1 * wanted)
    why = "" if not divided else f", as they have too few different {whole.kind}s to share"
    told = (
        (torn, f"{file}: {torn} rows share their {kind}s with others that have another label."),
        (leaked, f"Dev rows whose {kind}s are in train too, which flatters the scores: {leaked} of {len(dev)}."),
        (
            moved,
            f"Dev takes {len(dev)} of {len(whole)} rows, not the fraction {DEV_FRACTION:g}, as identical {kind}s stay "
            "together and small classes are shared out.",
        ),
        (small, f"Classes with fewer than {SMALL_CLASS} train rows: {_some(small, names)}."),
        (absent, f"Classes that are in train but not in dev{why}: {_some(absent, names)}."),
        (twins, f"Classes of their own that look alike: {_some(twins, names)}."),
        (lists, f"Classes that are lists, where --labels several takes each for itself: {_some(lists, names)}."),
        (long, f"Texts of more than {LONG_TEXT:,} characters, of which a model reads only the start: {long}."),
    )
    return tuple(note for found, note in told if found)


def _some(labels: Sequence[str], names: Sequence[str]) -> str:
    """How many labels, and the first few of them."""
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{len(labels)} of {len(names)} ({', '.join(map(reprlib.repr, labels[:5]))}{more})"
