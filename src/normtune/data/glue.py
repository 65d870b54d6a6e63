"""GLUE, read from a folder in its official layout or from the hub (``nyu-mll/glue``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from normtune.data.content import decode, filled_lines, read_bytes
from normtune.data.glue_tasks import ALIASES, COLUMNS, GLUE
from normtune.data.task import Split, Task, TaskData, plain, resolve
from normtune.errors import DataError

HUB_DATASET = "nyu-mll/glue"
HIGHEST_SCORE = 5.0

#: The folder with a task's files, or None, and the number of rows of each split, before any are dropped.
Found = tuple[Path | None, Mapping[str, int]]
#: A split, and how many of its rows were dropped.
_Read = tuple[Split, int]


def load_glue(name: str, data: Path | None) -> TaskData:
    """Reads a GLUE task.

    Texts are stripped. Test splits carry no labels. QQP's rows with missing columns or an empty question, and MNLI's
    rows without a settled label, are left out of train and dev and counted in `TaskData.dropped`; every row of a test
    split is kept, as a submission must answer every row. Anything else wrong with a file raises a `DataError` that
    names the file and the line.

    Args:
        name: The hub's name or GLUE's own, in any spelling (`normtune.data.task.resolve`).
        data: A folder in GLUE's official layout (``RTE/train.tsv``; the folder's case and hyphens do not matter), or
            None to read ``nyu-mll/glue`` from the hub.

    Returns:
        The task with the splits that were found.
    """
    task = GLUE[resolve(name, GLUE, "GLUE task", ALIASES)]
    source, read = _from_hub(task) if data is None else _from_folder(task, data)
    return TaskData(
        task=task,
        splits={split: found for split, (found, _) in read.items()},
        source=source,
        dropped={split: dropped for split, (_, dropped) in read.items() if dropped},
    )


def survey(data: Path | None) -> dict[str, Found]:
    """Find each task's folder and row counts in GLUE's layout; nothing is fetched, and missing files are no error."""
    found: dict[str, Found] = {}
    for task in GLUE.values():
        files, sizes = {} if data is None else _find(task, data), {}
        for split, path in files.items():
            with suppress(OSError), path.open("rb") as file:  # loading raises the error, listing does not
                sizes[split] = max(sum(1 for line in file if line.strip()) - (_header(task, split) is None), 0)
        found[task.name] = next((path.parent for path in files.values()), None), sizes
    return found


def _labelled(split: str) -> bool:
    return not split.startswith("test")


def _header(task: Task, split: str) -> tuple[str, ...] | None:
    """Names of all columns where the split's file has no header line, otherwise None."""
    return COLUMNS[task.name].header if _labelled(split) else None


def _folders(task: Task, data: Path) -> list[Path]:
    """The folders in `data` that bear one of the task's names, GLUE's own spelling first."""
    keys = {plain(name) for name in (task.name, task.title, *COLUMNS[task.name].folders)}
    found = [child for child in data.glob("*") if plain(child.name) in keys and child.is_dir()]
    return sorted(found, key=lambda folder: (folder.name != task.title, folder.name))


def _find(task: Task, data: Path) -> dict[str, Path]:
    """The task's files by split, whatever their names' case, from the first of its folders that has any."""
    for folder in _folders(task, data):
        present = {path.name.lower(): path for path in sorted(folder.glob("*")) if path.is_file()}
        files = {
            split: next(present[name.lower()] for name in names if name.lower() in present)
            for split, names in COLUMNS[task.name].files.items()
            if any(name.lower() in present for name in names)
        }
        if files:
            return files
    return {}


def _from_folder(task: Task, data: Path) -> tuple[str, dict[str, _Read]]:
    """The folder of a task, and its splits."""
    files = _find(task, data)
    where = COLUMNS[task.name]
    if not files:
        folders = _folders(task, data) or [data / name for name in (task.title, *where.folders)]
        looked = [str(folder / name) for folder in folders for names in where.files.values() for name in names]
        reason = "" if data.is_dir() else f"there is no folder {data}; "
        raise DataError(f"No data of {task.title}: {reason}none of these files is there: {', '.join(looked)}.")
    codes = {label if where.named else str(number): number for number, label in enumerate(task.labels)}
    read = {}
    for split, path in files.items():
        labelled = _labelled(split)
        columns = (*where.texts, where.label) if labelled else where.texts
        rows, short = read_table(path, columns, header=_header(task, split), ragged=where.flawed and labelled)
        found, dropped = _examples(task, f"{path}, line", rows, codes if labelled else None)
        read[split] = (found, dropped + short)
    return str(next(iter(files.values())).parent), read


def read_table(
    path: Path, columns: Sequence[str], *, header: Sequence[str] | None = None, ragged: bool = False
) -> tuple[list[tuple[int, tuple[str, ...]]], int]:
    """Reads some columns of a tab-separated file as GLUE publishes them: in UTF-8 and without quoting.

    Args:
        path: The file.
        columns: Names of the wanted columns.
        header: Names of all columns, for a file that has no header line.
        ragged: Leave out and count rows with too few columns, and ignore values beyond the last column; otherwise
            both are errors.

    Returns:
        The rows, each with its 1-based line and the stripped values of the wanted columns, in the order of `columns`,
        and how many rows were left out. Blank lines are no rows.

    Raises:
        DataError: If the file cannot be read, lacks a wanted column, or has a row that is not as wide as the header.
    """
    text, _ = decode(str(path), read_bytes(path), guess=False)
    records = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in filled_lines(text)]
    if not records:
        raise DataError(f"{path} is empty.")
    names = records.pop(0)[1] if header is None else [*header]
    for column in columns:
        if column not in names:
            raise DataError(f"{path}, line 1: the header has no column {column!r}; it has: {', '.join(names)}.")
    wanted = [names.index(column) for column in columns]
    rows, short = [], 0
    for number, values in records:
        if len(values) < len(names) and ragged:
            short += 1
            continue
        # Tabs at the end of a row do no harm.
        if len(values) < len(names) or (any(values[len(names) :]) and not ragged):
            hint = " (is there a tab in a text?)" if len(values) > len(names) else ""
            raise DataError(f"{path}, line {number}: the row has {len(values)} of {len(names)} columns{hint}.")
        rows.append((number, tuple([values[position] for position in wanted])))
    return rows, short


def _examples(
    task: Task, place: str, rows: Iterable[tuple[int, tuple[str, ...]]], codes: Mapping[str, int] | None
) -> _Read:
    """Make a split of `rows`, and count those dropped.

    A row is its number, which follows `place` in messages, and its texts and label. `codes` maps labels to class
    numbers; it is None for a split without labels.

    Raises:
        DataError: If a text is empty or a label is not one of the task's.
    """
    where = COLUMNS[task.name]
    texts, labels, dropped = [], [], 0
    for number, values in rows:
        words = values[: len(task.inputs)]
        if not all(words) and not where.flawed:
            raise DataError(f"{place} {number}: a text is empty.")
        if codes is not None:
            if not all(words) or values[-1] == where.unsettled:
                dropped += 1
                continue
            labels.append(_label(task, values[-1], codes, f"{place} {number}"))
        texts.append(words)
    columns = {name: tuple([words[i] for words in texts]) for i, name in enumerate(task.inputs)}
    return Split(columns, None if codes is None else np.array(labels, dtype=task.asks.dtype)), dropped


def _label(task: Task, text: str, codes: Mapping[str, int], place: str) -> float:
    """The class number or score that `text` stands for."""
    if task.labels:
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


def _from_hub(task: Task) -> tuple[str, dict[str, _Read]]:
    """A task's place on the hub, and its splits, fetched or from the local cache."""
    source = f"{HUB_DATASET}, {task.name}"
    folder = "name a folder in GLUE's official layout"
    try:
        import datasets

        fetched = datasets.load_dataset(HUB_DATASET, task.name)
    except ImportError as error:
        raise DataError(f"Reading GLUE from the hub needs 'datasets': install normtune[hub], or {folder}.") from error
    # The errors of fetching have no common base class: OSError, httpx's, datasets' own, ValueError.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        problem = f"cannot be read from the hub ({type(error).__name__}: {reason})"
        raise DataError(f"{source} {problem}; {folder} instead.") from error
    where = COLUMNS[task.name]
    codes = {str(number): number for number in range(len(task.labels))}
    # The hub has float32 scores, the files three decimals: rounding gives the same numbers from both.
    form = "" if task.labels else ".3f"
    read = {}
    for split in where.files:
        name = Path(where.files[split][0]).stem.replace("dev", "validation")
        columns = [[str(text).strip() for text in fetched[name][key]] for key in where.hub_texts or where.texts]
        if _labelled(split):
            columns.append([format(label, form) for label in fetched[name]["label"]])
        rows = enumerate(zip(*columns, strict=True))
        read[split] = _examples(task, f"{source}, {name}, row", rows, codes if _labelled(split) else None)
    return source, read
