"""Scores of several methods on the same tasks and seeds, from a user's table or from records."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from normtune.data.table import Rows
from normtune.errors import ConfigError, DataError, known
from normtune.records.aggregate import chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normtune.records.run import Record

# The suffix that tells the rows of one model apart: MNLI-m and MNLI-mm, or a run's dev and test scores.
_PART = re.compile(r"(?P<stem>.+?)[\s_.:/(\[-]+(m|mm|matched|mismatched|dev|test)[)\]]?", re.IGNORECASE)


@dataclass(frozen=True)
class ScoreTable:
    """Scores as fractions, by task, seed and method.

    Attributes:
        methods: Names of the methods.
        tasks: Names of the rows: tasks, or several metrics of one.
        values: For each task an array [seeds, methods].
        seeds: For each task the names of its seeds.
        percent: Whether they were given as percents.
        notes: What a reader should know about where they came from.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    values: tuple[NDArray[np.float64], ...]
    seeds: tuple[tuple[str, ...], ...]
    percent: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    def of(self, method: str) -> NDArray[np.float64]:
        """A method's scores, one a task: means over seeds."""
        place = self.methods.index(known("method", method, self.methods))
        return np.array([values[:, place].mean() for values in self.values])

    def differences(self, first: str, second: str) -> list[NDArray[np.float64]]:
        """For each task the differences of its seeds, the first method minus the second.

        They are in the order of the seeds' names; if tasks have different seeds, so that what seeds share is unknown, a
        task has only their mean.
        """
        a, b = self.methods.index(first), self.methods.index(second)
        each = [values[:, a] - values[:, b] for values in self.values]
        if len({*map(frozenset, self.seeds)}) > 1:
            return [own.mean(keepdims=True) for own in each]
        return [own[np.argsort(seeds)] for own, seeds in zip(each, self.seeds, strict=True)]


def same_task(tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Rows that are one task by their names, such as ``MNLI-m`` and ``MNLI-mm``, grouped by that task."""
    groups: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        stem = task
        while part := _PART.fullmatch(stem):
            stem = part["stem"]
        groups[stem].append(task)
    return {stem: tuple(rows) for stem, rows in groups.items() if len(rows) > 1}


def grouped(scores: ScoreTable, groups: Mapping[str, Sequence[str]] | None = None) -> ScoreTable:
    """One value a task: the mean over the rows of each group, seed by seed.

    Args:
        scores: The scores.
        groups: For each task its rows; None takes those of `same_task`.

    Returns:
        The scores, each group in the place of its first row.

    Raises:
        UnknownNameError: If a row is not there.
        ConfigError: If a row is in two groups, or the rows of one have different seeds.
    """
    of: dict[str, str] = {}
    for name, rows in (same_task(scores.tasks) if groups is None else groups).items():
        for row in rows:
            if known("task", row, scores.tasks) in of:
                raise ConfigError(f"{row} is in two groups, {of[row]} and {name}.")
            of[row] = name
    members: dict[str, list[int]] = defaultdict(list)
    for place, task in enumerate(scores.tasks):
        members[of.get(task, task)].append(place)
    values, seeds = [], [scores.seeds[places[0]] for places in members.values()]
    for (name, places), order in zip(members.items(), seeds, strict=True):
        if any({*scores.seeds[place]} != {*order} for place in places):
            raise ConfigError(f"The rows of {name} have different seeds, so they cannot be averaged seed by seed.")
        every = [scores.values[place][[scores.seeds[place].index(seed) for seed in order]] for place in places]
        values.append(np.mean(every, axis=0))
    return replace(scores, tasks=tuple(members), values=tuple(values), seeds=tuple(seeds))


def from_rows(rows: Rows, *, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> ScoreTable:
    """Scores from a table: a row a task, or a task and seed; a column a method.

    The column ``task``, or the first column if there is none, names the tasks; a column ``seed`` is optional. Scores
    are taken as percents if any is beyond 1 in size.

    Args:
        rows: The table.
        methods: Only these columns, in this order.
        tasks: Only these tasks, in this order.

    Returns:
        The scores.

    Raises:
        DataError: If there are no scores, one is missing or no number, or a row stands twice.
    """
    present = tuple(rows.columns)
    special = {name.casefold(): name for name in reversed(present)}
    label, seed = special.get("task", present[0]), special.get("seed")
    if label == seed:
        raise DataError(f"{rows.source} has no column that names the tasks before {seed!r}; call it 'task'.")
    columns = [name for name in present if name not in {label, seed}]
    if not columns:
        raise DataError(f"{rows.source} has no column of scores beside {label!r}: a row is a task, a column a method.")
    wanted = tuple(known("method", name, columns) for name in dict.fromkeys(methods or columns))
    if not all(wanted):
        raise DataError(f"{rows.source}: a column has no name in the header.")
    places: dict[str, dict[str, int]] = defaultdict(dict)
    named, seeds = rows.column(label), rows.column(seed) if seed else [""] * len(rows)
    for place, (task, number) in enumerate(zip(map(str.strip, named), map(str.strip, seeds), strict=True)):
        if not task:
            raise DataError(f"{rows.place(place)}: the row names no task in the column {label!r}.")
        if seed and not number:
            raise DataError(f"{rows.place(place)}: the row of {task} has no seed.")
        if number in places[task]:
            twice = f"with seed {number} stands twice" if seed else "stands twice"
            hint = "" if seed else "; several runs of a task need a column 'seed'"
            raise DataError(f"{rows.place(place)}: {task} {twice}{hint}.")
        places[task][number] = place
    names = tuple(known("task", name, places) for name in dict.fromkeys(tasks or places))
    texts = {name: rows.column(name) for name in wanted}
    values = [
        np.array([[_number(rows.place(at), name, texts[name][at]) for name in wanted] for at in places[task].values()])
        for task in names
    ]
    percent = _is_percent(rows.source, dict(zip(names, values, strict=True)))
    shown = tuple(task / 100 if percent else task for task in values)
    return ScoreTable(wanted, names, shown, tuple(tuple(places[name]) for name in names), percent, rows.notes)


def _number(place: str, column: str, text: str) -> float:
    if not text.strip():
        raise DataError(f"{place}: the score of {column} is missing.")
    try:
        value = float(text)
    except ValueError as error:
        hint = "choose columns with --methods"
        raise DataError(f"{place}: {text!r} in the column {column!r} is no number; {hint}.") from error
    if not math.isfinite(value):
        raise DataError(f"{place}: the score of {column} is {text}, which is no finite number.")
    return value


def _is_percent(source: str, values: Mapping[str, NDArray[np.float64]]) -> bool:
    sizes = {task: float(np.abs(own).max()) for task, own in values.items()}
    most = max(sizes.values())
    if most > 100:
        raise DataError(
            f"{source} holds a score of {most:g} in size; scores are fractions (up to 1) or percents (up to 100)."
        )
    small = [task for task, size in sizes.items() if 0 < size <= 1]
    if most > 1 and small:
        raise DataError(
            f"{source}: the scores of {', '.join(small)} are within 1 in size, others are up to {most:g}; write all"
            " as fractions."
        )
    return most > 1


def from_records(
    records: Iterable[Record], *, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> ScoreTable:
    """Scores from records, at the rate that `normtune.records.aggregate.chosen` picks for each method and task.

    Each task has the seeds that all methods have on it, so that every pair is compared on the same runs. MNLI gives two
    rows, one for each of its dev sets.

    Args:
        records: Finished runs of one base model and protocol.
        methods: Only these, in this order.
        tasks: Only these, in this order.

    Returns:
        The scores.

    Raises:
        DataError: If a method has no run on a task, no seed in common with the others, or no score.
    """
    finished = [record for record in records if record.status == "done" and record.score is not None]
    trained, done = ([*dict.fromkeys(getattr(run.config, name) for run in finished)] for name in ("method", "task"))
    methods = tuple(known("method", name, trained) for name in methods or trained)
    tasks = tuple(known("task", name, done) for name in tasks or done)
    runs = chosen(run for run in finished if run.config.method in methods and run.config.task in tasks)
    missing = [f"{method} on {task}" for task in tasks for method in methods if (method, task) not in runs]
    if missing:
        hint = "leave out what is missing with --tasks or --methods"
        raise DataError(f"There is no run of {', '.join(missing)}; {hint}.")
    names, values, seeds, notes = [], [], [], []
    for task in tasks:
        cells = [runs[method, task] for method in methods]
        every = {seed for cell in cells for seed in cell}
        shared = sorted(every.intersection(*cells))
        if not shared:
            raise DataError(f"The methods {', '.join(methods)} have no seed in common on {task}.")
        if len(shared) < len(every):
            notes.append(f"On {task} {len(shared)} of {len(every)} seeds are used: those that every method has.")
        both = all("dev_mismatched" in cell[seed].scores for cell in cells for seed in shared)
        for end, split in (("-m", "dev"), ("-mm", "dev_mismatched")) if both else (("", "dev"),):
            names.append(task + end)
            seeds.append(tuple(map(str, shared)))
            values.append(np.array([[_score(cell[seed], split) for cell in cells] for seed in shared]))
    return ScoreTable(methods, tuple(names), tuple(values), tuple(seeds), notes=tuple(notes))


def _score(record: Record, split: str) -> float:
    score = record.score if split == "dev" else record.scores[split].get(record.primary)
    if score is None or not math.isfinite(score):
        raise DataError(f"The record {record.id} has no {record.primary} on {split}.")
    return score
