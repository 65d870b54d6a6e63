"""Scores of several methods on the same tasks and seeds: what methods are compared by."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normtune.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What tells the rows of one model apart: MNLI-m and MNLI-mm, or the dev and the test score of one run.
_PART = re.compile(r"(?P<stem>.+?)[\s_.:/(\[-]+(m|mm|matched|mismatched|dev|test)[)\]]?", re.IGNORECASE)


@dataclass(frozen=True)
class Scores:
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
        column = self._column(method)
        return np.array([values[:, column].mean() for values in self.values])

    def differences(self, first: str, second: str) -> list[NDArray[np.float64]]:
        """For each task the differences of its seeds, the first method minus the second."""
        a, b = self._column(first), self._column(second)
        return [values[:, a] - values[:, b] for values in self.values]

    def _column(self, method: str) -> int:
        """The method's place.

        Raises:
            UnknownNameError: If there is no such method.
        """
        if method not in self.methods:
            raise UnknownNameError("method", method, self.methods)
        return self.methods.index(method)


def same_task(tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Rows that are one task by their names: ``MNLI-m`` and ``MNLI-mm``, ``RTE dev`` and ``RTE test``.

    Args:
        tasks: Names of the rows.

    Returns:
        For each such task its rows.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        stem = task
        while part := _PART.fullmatch(stem):
            stem = part["stem"]
        groups[stem].append(task)
    return {stem: tuple(rows) for stem, rows in groups.items() if len(rows) > 1}


def grouped(scores: Scores, groups: Mapping[str, Sequence[str]]) -> Scores:
    """One value a task: the mean over the rows of each group, seed by seed.

    Args:
        scores: The scores.
        groups: For each task its rows.

    Returns:
        The scores, a group standing where its first row stood.

    Raises:
        UnknownNameError: If a row is not there.
        ConfigError: If a row is in two groups, or the rows of one have different seeds.
    """
    of: dict[str, str] = {}
    for name, rows in groups.items():
        for row in rows:
            if row not in scores.tasks:
                raise UnknownNameError("task", row, scores.tasks)
            if row in of:
                raise ConfigError(f"{row} is in two groups, {of[row]} and {name}.")
            of[row] = name
    members: dict[str, list[int]] = defaultdict(list)
    for place, task in enumerate(scores.tasks):
        members[of.get(task, task)].append(place)
    for name, places in members.items():
        if len({frozenset(scores.seeds[place]) for place in places}) > 1:
            raise ConfigError(f"The rows of {name} have different seeds, so they cannot be averaged seed by seed.")
    return Scores(
        methods=scores.methods,
        tasks=tuple(members),
        values=tuple(_mean(scores, places) for places in members.values()),
        seeds=tuple(scores.seeds[places[0]] for places in members.values()),
        percent=scores.percent,
        notes=scores.notes,
    )


def _mean(scores: Scores, places: Sequence[int]) -> NDArray[np.float64]:
    order = scores.seeds[places[0]]
    rows = [scores.values[place][[scores.seeds[place].index(seed) for seed in order]] for place in places]
    mean: NDArray[np.float64] = np.mean(rows, axis=0)
    return mean
