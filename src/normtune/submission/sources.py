"""Which delta answers which task: those that the user names, or the best runs of a training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from normtune.data.glue import canonical_name
from normtune.data.glue_tasks import GLUE
from normtune.deltas.delta import FILE, Delta, DeltaInfo
from normtune.deltas.hub import fetch
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.records.run import Record
from normtune.records.submission import Source
from normtune.submission.files import FILES

#: The tasks that need a delta, in the server's order.
TASKS = tuple(dict.fromkeys(file.model for file in FILES if file.model is not None))
_RECORD = "record.json"


@dataclass(frozen=True)
class Choice:
    """The delta that answers a task.

    Attributes:
        task: The task's name.
        path: Where the delta lies.
        source: What the record says of it.
    """

    task: str
    path: Path
    source: Source


def named(given: Iterable[str]) -> dict[str, Choice]:
    """The deltas that a user names.

    Args:
        given: ``TASK=DELTA``, or ``DELTA`` alone, which knows its task; a delta is a folder, a file or a hub id.

    Returns:
        Choices by task.

    Raises:
        ConfigError: If two are of one task, or one is of a task that is not answered by a delta.
        UnknownNameError: If GLUE has no such task.
        DeltaError: If there is no such delta, or it is of another task than is said.
    """
    choices: dict[str, Choice] = {}
    for text in given:
        task, name = _parts(text)
        path = fetch(name)
        choice = _choice(path, task)
        if choice.task in choices:
            raise ConfigError(f"{choices[choice.task].path} and {path} are both deltas of {GLUE[choice.task].title}.")
        choices[choice.task] = choice
    return choices


def best_runs(folder: Path, method: str | None = None) -> dict[str, Choice]:
    """Of each task the run with the best score on dev, of equally good ones that with the first seed.

    Args:
        folder: What ``normtune train --out`` wrote: records with their deltas beside them, at any depth.
        method: The method whose runs are meant, where there are several.

    Returns:
        Choices by task; runs on other tasks than GLUE's are passed over.

    Raises:
        DataError: If there are no runs.
        ConfigError: If they are of several methods, or of several base models.
        DeltaError: If a delta is damaged.
    """
    found = sorted(_runs(folder), key=lambda run: str(run[0]))
    if not found:
        raise DataError(f"There are no runs on GLUE's tasks, each a {_RECORD} beside a {FILE}, in {folder}.")
    methods = sorted({record.config.method for _, record in found})
    if method is not None and method not in methods:
        raise ConfigError(f"There are no runs of {method!r} in {folder}; there are runs of: {', '.join(methods)}.")
    if method is None and len(methods) > 1:
        raise ConfigError(f"The runs in {folder} are of several methods; name one by --method: {', '.join(methods)}.")
    groups: dict[str, list[tuple[Path, Record]]] = defaultdict(list)
    for path, record in found:
        if method in (None, record.config.method):
            groups[record.config.task].append((path, record))
    _check_one_base([record for group in groups.values() for _, record in group], folder)
    return {task: _choice(max(group, key=_rank)[0], task) for task, group in groups.items()}


def _rank(run: tuple[Path, Record]) -> tuple[float, int]:
    score, seed = run[1].score, run[1].config.seed
    assert score is not None
    return score, -seed


def _check_one_base(records: Sequence[Record], folder: Path) -> None:
    """Check that dev scores can be compared.

    Raises:
        ConfigError: If the runs are of several base models.
    """
    if len({record.base_identity for record in records}) > 1:
        models = ", ".join(sorted({record.config.model for record in records}))
        raise ConfigError(f"The runs in {folder} are of several base models ({models}); name a folder of one.")


def _runs(folder: Path) -> Iterator[tuple[Path, Record]]:
    for path in folder.rglob(_RECORD):
        if (path.parent / FILE).is_file():
            record = Record.load(path)
            if record.status == "done" and record.score is not None and record.config.task in TASKS:
                yield path.parent, record


def _parts(text: str) -> tuple[str | None, str]:
    """The task, where one is named, and the delta."""
    head, separator, tail = text.partition("=")
    # A path may hold an equals sign of its own.
    if not separator or Path(text).exists():
        return None, text
    return canonical_name(head.strip()), tail.strip()


def _choice(path: Path, task: str | None) -> Choice:
    info = Delta.load(path).info
    known = task or _task_of(path, info)
    _check(path, info, known)
    beside = (path if path.is_dir() else path.parent) / _RECORD
    record = Record.load(beside) if beside.is_file() else None
    source = Source(
        path=str(path),
        content=info.content,
        note=info.note,
        method=info.method,
        base=info.base,
        base_identity=info.base_identity,
    )
    if record is not None and record.config.task == known:
        facts = {"run": record.id, "seed": record.config.seed, "metric": record.primary, "dev": record.score}
        source = source.model_copy(update=facts)
    return Choice(known, path, source)


def _task_of(path: Path, info: DeltaInfo) -> str:
    """The task that a delta says it is of.

    Raises:
        DeltaError: If GLUE has none of that name.
    """
    if info.task not in GLUE:
        raise DeltaError(f"The delta {path} is of {info.task!r}, which is no task of GLUE.")
    return info.task


def _check(path: Path, info: DeltaInfo, task: str) -> None:
    """Check that a delta answers `task`.

    Raises:
        ConfigError: If that task is not answered by a delta.
        DeltaError: If the delta is of another task, or has other labels.
    """
    asked = GLUE[task]
    if task not in TASKS:
        how = "MNLI's delta" if task == "ax" else "its majority class"
        raise ConfigError(f"{asked.title} is answered by {how}; leave out {path}.")
    if info.task not in ("", task):
        raise DeltaError(f"The delta {path} is of {info.task!r}, not of {asked.title}.")
    if (info.kind, info.labels, info.pair) != (asked.kind, asked.labels, asked.pair):
        labels = ", ".join(info.labels) or "a number"
        texts = "pairs" if info.pair else "single texts"
        raise DeltaError(f"The delta {path} reads {texts} and answers {labels}: that is not {asked.title}.")
