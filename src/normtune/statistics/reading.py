"""Scores read from anybody's table, or from records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from normtune.data.rows import Rows
from normtune.errors import DataError, UnknownNameError
from normtune.records.aggregate import chosen
from normtune.statistics.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normtune.records.run import Record

TASK, SEED = "task", "seed"
SCALES = ("auto", "fraction", "percent")


def from_rows(
    rows: Rows, *, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None, scale: str = "auto"
) -> Scores:
    """Scores from a table: a row a task, or a task and seed; a column a method.

    The column ``task`` names the tasks, or the first column where there is none; a column ``seed`` is optional.

    Args:
        rows: The table.
        methods: Only these columns, in this order.
        tasks: Only these tasks, in this order.
        scale: ``fraction``, ``percent``, or ``auto``: percents where any score is beyond 1 in size.

    Returns:
        The scores.

    Raises:
        DataError: If there are no scores, one is missing or no number, or a row stands twice.
        UnknownNameError: If a wanted method or task is not there.
    """
    label = next((name for name in rows.columns if name.casefold() == TASK), rows.columns[0])
    seed = next((name for name in rows.columns if name.casefold() == SEED), None)
    columns = [name for name in rows.columns if name not in {label, seed}]
    if not columns:
        hint = "a row is a task, a column a method, separated by commas in CSV"
        raise DataError(f"{rows.source} has no column of scores beside {label!r}: {hint}.")
    for name in methods or ():
        if name not in columns:
            raise UnknownNameError("method", name, columns)
    wanted = [*dict.fromkeys(methods or columns)]
    if not all(wanted):
        raise DataError(f"{rows.source}: a column has no name in the header.")
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for place, row in enumerate(rows.rows):
        task = row.get(label, "").strip()
        if not task:
            raise DataError(f"{rows.place(place)}: the row names no task in the column {label!r}.")
        if tasks is not None and task not in tasks:
            continue
        number = "" if seed is None else row.get(seed, "").strip()
        if seed is not None and not number:
            raise DataError(f"{rows.place(place)}: the row of {task} has no seed.")
        if number in found[task]:
            twice = f"{task} stands twice" if seed is None else f"{task} with seed {number} stands twice"
            hint = "; several runs of a task need a column 'seed'" if seed is None else ""
            raise DataError(f"{rows.place(place)}: {twice}{hint}.")
        found[task][number] = [_number(rows, place, name) for name in wanted]
    names = tuple(found) if tasks is None else tuple(dict.fromkeys(tasks))
    for name in names:
        if name not in found:
            raise UnknownNameError("task", name, {row.get(label, "").strip() for row in rows.rows})
    values = tuple(np.array([*found[name].values()]) for name in names)
    percent = _percent(rows.source, names, values, scale)
    return Scores(
        methods=tuple(wanted),
        tasks=names,
        values=tuple(task / 100 for task in values) if percent else values,
        seeds=tuple(tuple(found[name]) for name in names),
        percent=percent,
    )


def _number(rows: Rows, place: int, column: str) -> float:
    """A score.

    Raises:
        DataError: If it is missing or no finite number.
    """
    text = rows.rows[place].get(column, "").strip()
    if not text:
        raise DataError(f"{rows.place(place)}: the score of {column} is missing.")
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(
            f"{rows.place(place)}: {text!r} in the column {column!r} is no number; choose columns with --methods."
        ) from error
    if not math.isfinite(value):
        raise DataError(f"{rows.place(place)}: the score of {column} is {text}, which is no finite number.")
    return value


def _percent(source: str, tasks: Sequence[str], values: Sequence[NDArray[np.float64]], scale: str) -> bool:
    """Whether scores are percents.

    Raises:
        DataError: If they are neither fractions nor percents, or seem to be some of each.
        UnknownNameError: If `scale` is not one of `SCALES`.
    """
    if scale not in SCALES:
        raise UnknownNameError("scale", scale, SCALES)
    sizes = [float(np.abs(task).max()) for task in values]
    most = max(sizes, default=0.0)
    if most > (1 if scale == "fraction" else 100):
        raise DataError(
            f"{source} holds a score of {most:g} in size; scores are fractions (up to 1) or percents (up to 100)."
        )
    if scale != "auto":
        return scale == "percent"
    small = [task for task, size in zip(tasks, sizes, strict=True) if 0 < size <= 1]
    if most > 1 and small:
        raise DataError(
            f"{source}: the scores of {', '.join(small)} are within 1 in size, others are up to {most:g}; write all"
            " as fractions or all as percents, or say --scale percent if they are."
        )
    return most > 1


def from_records(
    records: Iterable[Record], *, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> Scores:
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
        DataError: If a method has no run on a task, or no seed in common with the others.
        UnknownNameError: If a wanted method or task has no run at all.
    """
    runs = chosen(records)
    methods = tuple(methods or dict.fromkeys(method for method, _ in runs))
    tasks = tuple(tasks or dict.fromkeys(task for _, task in runs))
    for kind, place, wanted in (("method", 0, methods), ("task", 1, tasks)):
        known = {cell[place] for cell in runs}
        for name in wanted:
            if name not in known:
                raise UnknownNameError(kind, name, known)
    missing = [f"{method} on {task}" for task in tasks for method in methods if (method, task) not in runs]
    if missing:
        hint = "leave out what is missing with --tasks or --methods"
        raise DataError(f"There is no run of {', '.join(missing)}; {hint}.")
    names: list[str] = []
    values: list[NDArray[np.float64]] = []
    seeds: list[tuple[str, ...]] = []
    notes = []
    for task in tasks:
        cells = [runs[method, task] for method in methods]
        every = {seed for cell in cells for seed in cell}
        shared = sorted(seed for seed in every if all(seed in cell for cell in cells))
        if not shared:
            raise DataError(f"The methods {', '.join(methods)} have no seed in common on {task}.")
        if len(shared) < len(every):
            notes.append(f"On {task} {len(shared)} of {len(every)} seeds are used: those that every method has.")
        for name, split in _splits(task, [cell[seed] for cell in cells for seed in shared]):
            names.append(name)
            seeds.append(tuple(map(str, shared)))
            values.append(np.array([[_score(cell[seed], split) for cell in cells] for seed in shared]))
    return Scores(methods, tuple(names), tuple(values), tuple(seeds), notes=tuple(notes))


def _splits(task: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    """The rows that a task gives: (name, split)."""
    if all("dev_mismatched" in record.scores for record in records):
        return [(f"{task}-m", "dev"), (f"{task}-mm", "dev_mismatched")]
    return [(task, "dev")]


def _score(record: Record, split: str) -> float:
    """A run's primary metric on a split.

    Raises:
        DataError: If the record does not have it.
    """
    score = record.score if split == "dev" else record.scores[split].get(record.primary)
    if score is None or not math.isfinite(score):
        raise DataError(f"The record {record.id} has no {record.primary} on {split}.")
    return score
