"""GLUE, read from a folder in its official layout or from the hub (``nyu-mll/glue``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normtune.data.glue_tasks import GLUE, LAYOUTS, canonical_name
from normtune.data.task import Listing, Split, Task, TaskData, plain
from normtune.data.tsv import count_rows, read_table
from normtune.errors import DataError

__all__ = ["GLUE", "HUB_DATASET", "canonical_name", "load_glue", "survey"]

HUB_DATASET = "nyu-mll/glue"
HIGHEST_SCORE = 5.0


def load_glue(name: str, data: Path | None) -> TaskData:
    """Reads a GLUE task.

    Texts are stripped. Test splits carry no labels. QQP's rows with missing columns or an empty question, and MNLI's
    rows without a settled label, are left out of train and dev and counted in `TaskData.dropped`; every row of a test
    split is kept, as a submission must answer every row. Whatever else is wrong with a file is a `DataError` that
    names the file and the line.

    Args:
        name: Any name that `canonical_name` knows; others raise its `UnknownNameError`.
        data: A folder in GLUE's official layout (``RTE/train.tsv``; the folder's case and hyphens do not matter), or
            None to read ``nyu-mll/glue`` from the hub.

    Returns:
        The task with the splits that were found.

    Raises:
        DataError: If the folder holds no file of the task.
    """
    task = GLUE[canonical_name(name)]
    if data is None:
        return _load_from_hub(task)
    files = _find(task, data)
    if not files:
        looked = ", ".join(str(path) for path in _candidates(task, data))
        reason = "" if data.is_dir() else f"there is no folder {data}; "
        raise DataError(f"No data of {task.title}: {reason}none of these files is there: {looked}.")
    read = {split: _read_file(task, path, split) for split, path in files.items()}
    return _gather(task, read, str(next(iter(files.values())).parent))


def survey(data: Path | None) -> list[Listing]:
    """What a folder in GLUE's layout holds of each task; nothing is fetched, and what is missing is no error.

    Args:
        data: The folder, or None for none.

    Returns:
        One listing a task, in the order of `GLUE`.
    """
    return [_listing(task, {} if data is None else _find(task, data)) for task in GLUE.values()]


def _listing(task: Task, files: Mapping[str, Path]) -> Listing:
    sizes = {}
    for split, path in files.items():
        try:
            sizes[split] = count_rows(path, header=_header(task, split) is None)
        except OSError:
            continue  # a file that cannot be read is an error when it is loaded, not when it is listed
    found = next((path.parent for path in files.values()), None)
    return Listing(task.name, task.title, task.primary, found, sizes)


def _labelled(split: str) -> bool:
    return not split.startswith("test")


def _header(task: Task, split: str) -> tuple[str, ...] | None:
    """Names of all columns where the split's file has no header line, otherwise None."""
    return LAYOUTS[task.name].header if _labelled(split) else None


def _folders(task: Task, data: Path) -> list[Path]:
    """The folders in `data` that bear one of the task's names, GLUE's own spelling first."""
    keys = {plain(name) for name in (task.name, task.title, *LAYOUTS[task.name].folders)}
    found = [child for child in _children(data) if plain(child.name) in keys and child.is_dir()]
    return sorted(found, key=lambda folder: (folder.name != task.title, folder.name))


def _find(task: Task, data: Path) -> dict[str, Path]:
    """The task's files by split, from the first of its folders that has any."""
    for folder in _folders(task, data):
        files = {split: path for split, names in LAYOUTS[task.name].files if (path := _file(folder, names))}
        if files:
            return files
    return {}


def _file(folder: Path, names: Sequence[str]) -> Path | None:
    """The file that has the first of `names` for which there is one, whatever its case."""
    present = {path.name.lower(): path for path in _children(folder) if path.is_file()}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def _children(folder: Path) -> list[Path]:
    """What is in a folder; nothing, where there is none or it may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _candidates(task: Task, data: Path) -> list[Path]:
    """The paths at which the task's files are looked for."""
    layout = LAYOUTS[task.name]
    folders = _folders(task, data) or [data / name for name in (task.title, *layout.folders)]
    return [folder / name for folder in folders for _, names in layout.files for name in names]


@dataclass(frozen=True)
class _Rows:
    """Rows as text, before they are checked: `place` and a number of `numbers` say where one stands."""

    place: str
    numbers: Iterable[int]
    texts: Sequence[tuple[str, ...]]
    labels: Sequence[str] | None
    codes: Mapping[str, int]


def _read_file(task: Task, path: Path, split: str) -> tuple[Split, int]:
    """One split from a file, and how many of its rows were dropped."""
    layout, labelled = LAYOUTS[task.name], _labelled(split)
    columns = (*layout.texts, layout.label) if labelled else layout.texts
    table = read_table(path, columns, header=_header(task, split), ragged=layout.flawed and labelled)
    rows = _Rows(
        place=f"{path}, line",
        numbers=table.lines,
        texts=[row[: len(layout.texts)] for row in table.rows],
        labels=[row[-1] for row in table.rows] if labelled else None,
        codes={label if layout.named else str(number): number for number, label in enumerate(task.labels)},
    )
    found, dropped = _check(task, rows)
    return found, dropped + table.short


def _check(task: Task, rows: _Rows) -> tuple[Split, int]:
    """The split that `rows` hold, and how many of them were dropped.

    Raises:
        DataError: If a text is empty or a label is not one of the task's.
    """
    layout, labelled = LAYOUTS[task.name], rows.labels is not None
    texts, labels, dropped = [], [], 0
    for number, words, label in zip(rows.numbers, rows.texts, rows.labels or [""] * len(rows.texts), strict=True):
        if not all(words) and not layout.flawed:
            raise DataError(f"{rows.place} {number}: a text is empty.")
        if labelled and (not all(words) or label == layout.unsettled):
            dropped += 1
            continue
        texts.append(words)
        if labelled:
            labels.append(_label(task, label, rows.codes, f"{rows.place} {number}"))
    kind = np.int64 if task.kind == "classification" else np.float64
    columns = {name: tuple([words[i] for words in texts]) for i, name in enumerate(task.inputs)}
    return Split(columns, np.array(labels, dtype=kind) if labelled else None), dropped


def _label(task: Task, text: str, codes: Mapping[str, int], place: str) -> float:
    """The class number or score that `text` stands for.

    Raises:
        DataError: If it stands for none.
    """
    if task.kind == "classification":
        if text not in codes:
            raise DataError(f"{place}: the label {text!r} is not one of: {', '.join(codes)}.")
        return codes[text]
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= HIGHEST_SCORE:
        raise DataError(f"{place}: the score {text!r} is not a number from 0 to {HIGHEST_SCORE:g}.")
    return score


def _gather(task: Task, read: Mapping[str, tuple[Split, int]], source: str) -> TaskData:
    return TaskData(
        task=task,
        splits={split: found for split, (found, _) in read.items()},
        source=source,
        dropped={split: dropped for split, (_, dropped) in read.items() if dropped},
    )


def _load_from_hub(task: Task) -> TaskData:
    """All splits of a task, from the hub or from its local cache.

    Raises:
        DataError: If `datasets` is not installed, or if the data cannot be fetched.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Reading GLUE from the hub needs the package 'datasets': install normtune[hub], or name a folder in "
            "GLUE's official layout."
        ) from error
    source = f"{HUB_DATASET}, {task.name}"
    try:
        fetched = datasets.load_dataset(HUB_DATASET, task.name)
    # What goes wrong between here and the hub has no common base class: OSError, httpx, datasets' own, ValueError.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{source} cannot be read from the hub ({type(error).__name__}: {reason}); name a folder in GLUE's "
            "official layout instead."
        ) from error
    read = {
        split: _read_hub(task, fetched[hub_split], split, f"{source}, {hub_split}")
        for split, hub_split in LAYOUTS[task.name].hub_splits
    }
    return _gather(task, read, source)


def _read_hub(task: Task, rows: Mapping[str, Iterable[object]], split: str, place: str) -> tuple[Split, int]:
    """One split from the hub's columns, and how many of its rows were dropped."""
    layout = LAYOUTS[task.name]
    columns = [rows[name] for name in (layout.hub_texts or layout.texts)]
    texts = [tuple(str(text).strip() for text in words) for words in zip(*columns, strict=True)]
    # Scores are float32 there and have three decimals in the files: so both give the same numbers.
    form = "" if task.kind == "classification" else ".3f"
    labels = [format(label, form) for label in rows["label"]] if _labelled(split) else None
    codes = {str(number): number for number in range(len(task.labels))}
    return _check(task, _Rows(f"{place}, row", range(len(texts)), texts, labels, codes))
