"""The embedded suite as a folder in GLUE's official layout, with the phenomenon of every row in a file beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from normtune.data.task import Split, Task, TaskData
from normtune.data.templates.suite import SOURCE, TEMPLATES, generate
from normtune.data.tsv import read_table
from normtune.errors import DataError, OutputError, UnknownNameError

PHENOMENA_FILE = "phenomena.tsv"
_COLUMNS = ("split", "row", "phenomenon")
_ABSENT = "-"

Row = Callable[[int, str, str, str], tuple[str, ...]]


@dataclass(frozen=True)
class _Layout:
    """The columns of a task's files, and how a row is made of its number, its texts and its label."""

    header: str | None
    row: Row
    named: bool = False


def _filled(before: int, after: int = 0) -> Row:
    """Rows with a number, columns that hold nothing here, both texts, such columns again, and the label."""
    return lambda i, text, pair, label: (str(i), *(_ABSENT,) * before, text, pair, *(_ABSENT,) * after, label)


_LAYOUTS = {
    "cola": _Layout(None, lambda _, text, pair, label: (SOURCE, label, "" if label == "1" else "*", text)),
    "sst2": _Layout("sentence label", lambda _, text, pair, label: (text, label)),
    "mrpc": _Layout(
        "Quality|#1 ID|#2 ID|#1 String|#2 String",
        lambda i, text, pair, label: (label, str(2 * i), str(2 * i + 1), text, pair),
    ),
    "stsb": _Layout("index genre filename year old_index source1 source2 sentence1 sentence2 score", _filled(before=6)),
    "qqp": _Layout(
        "id qid1 qid2 question1 question2 is_duplicate",
        lambda i, text, pair, label: (str(i), str(2 * i), str(2 * i + 1), text, pair, label),
    ),
    "mnli": _Layout(
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
        "sentence1 sentence2 label1 gold_label",
        _filled(before=7, after=1),
        named=True,
    ),
    "qnli": _Layout("index question sentence label", _filled(before=0), named=True),
    "rte": _Layout("index sentence1 sentence2 label", _filled(before=0), named=True),
}


def write(folder: Path, *, train: int, dev: int, seed: int, tasks: Iterable[str] | None = None) -> None:
    """Writes the suite as GLUE is laid out (``RTE/train.tsv``), so that GLUE's reader reads it.

    Every task's folder also has ``phenomena.tsv``, which names the phenomenon of every row; see `read_phenomena`. The
    folder appears complete or not at all. The same arguments give the same bytes.

    Args:
        folder: Where to; it must not exist, or be empty.
        train: Number of train examples a task.
        dev: Number of examples in each dev split.
        seed: Seed of all draws.
        tasks: Names of the tasks, all by default.

    Raises:
        UnknownNameError: If the suite has no such task.
        OutputError: If the folder is in use or cannot be written.
    """
    names = list(TEMPLATES if tasks is None else tasks)
    for name in names:
        if name not in TEMPLATES:
            raise UnknownNameError("task of the embedded suite", name, TEMPLATES)
    _require_free(folder)
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        for name in names:
            _write_task(aside, generate(name, train=train, dev=dev, seed=seed))
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise OutputError(f"The suite cannot be written to {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_phenomena(folder: Path, name: str) -> Mapping[str, tuple[str, ...]]:
    """The phenomenon of every row of a task that `write` wrote, by split, in the order of the rows.

    Args:
        folder: The folder that was given to `write`.
        name: The task.

    Returns:
        Phenomena by split (``train``, ``dev``, ``dev_mismatched``), as `Split.tags` has them.

    Raises:
        UnknownNameError: If the suite has no such task.
        DataError: If the rows of the file are not numbered one after the other.
    """
    if name not in TEMPLATES:
        raise UnknownNameError("task of the embedded suite", name, TEMPLATES)
    path = folder / TEMPLATES[name].title / PHENOMENA_FILE
    table = read_table(path, _COLUMNS)
    found: dict[str, list[str]] = {}
    for line, (split, row, phenomenon) in zip(table.lines, table.rows, strict=True):
        tags = found.setdefault(split, [])
        if row != str(len(tags)):
            raise DataError(f"{path}, line {line}: row {row!r} of split {split!r} where row {len(tags)} should be.")
        tags.append(phenomenon)
    return {split: tuple(tags) for split, tags in found.items()}


def _require_free(folder: Path) -> None:
    """Nothing.

    Raises:
        OutputError: If something is there that is not an empty folder.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is not a folder; choose another one.")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; choose a new folder.")


def _write_task(folder: Path, data: TaskData) -> None:
    place = folder / data.task.title
    place.mkdir()
    matched = "dev_matched" if "dev_mismatched" in data.splits else "dev"
    for name, split in data.splits.items():
        _write_lines(place / f"{matched if name == 'dev' else name}.tsv", _lines(data.task, split))
    tags = [(name, str(i), tag) for name, split in data.splits.items() for i, tag in enumerate(split.tags or ())]
    _write_lines(place / PHENOMENA_FILE, [_COLUMNS, *tags])


def _lines(task: Task, split: Split) -> list[tuple[str, ...]]:
    layout = _LAYOUTS[task.name]
    labels = [_label(task, label, named=layout.named) for label in ([] if split.labels is None else split.labels)]
    pairs = split.pairs or ("",) * len(split)
    rows = [layout.row(i, *row) for i, row in enumerate(zip(split.texts, pairs, labels, strict=True))]
    if layout.header is None:
        return rows
    return [tuple(layout.header.split("|" if "|" in layout.header else " ")), *rows]


def _label(task: Task, label: float, *, named: bool) -> str:
    if task.kind == "regression":
        return f"{label:.3f}"
    return task.labels[int(label)] if named else str(int(label))


def _write_lines(path: Path, lines: Iterable[tuple[str, ...]]) -> None:
    path.write_bytes("".join("\t".join(line) + "\n" for line in lines).encode())
