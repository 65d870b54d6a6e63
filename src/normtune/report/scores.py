"""Scores of runs as cells: a method on a column of the paper's tables, a value a seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from normtune.data.glue_tasks import GLUE
from normtune.data.suites import SUITES, Column
from normtune.records.results import Results
from normtune.records.run import Record

#: The paper's nine, in its order.
PAPER = SUITES["glue"].columns


@dataclass(frozen=True)
class Cell:
    """The runs of a method on a column, at the rate that `normtune table` shows.

    Attributes:
        method: The method.
        column: The column.
        values: The score of each seed that there is, ascending.
        wanted: The seeds that there should be.
        runs: The runs behind the values.
    """

    method: str
    column: Column
    values: dict[int, float]
    wanted: tuple[int, ...]
    runs: tuple[Record, ...]

    @cached_property
    def mean(self) -> float | None:
        """Mean over the seeds that there are; `complete` says whether these are all."""
        return mean(self.values.values()) if self.values else None

    @cached_property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds, or None with fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def complete(self) -> bool:
        """Whether no seed is missing."""
        return bool(self.values) and {*self.wanted} <= self.values.keys()

    @property
    def rate(self) -> float | None:
        """The learning rate of its runs."""
        return self.runs[0].config.rate if self.runs else None

    @property
    def count(self) -> str:
        """How many seeds there are, of how many."""
        return f"{len({*self.wanted} & self.values.keys())} of {len(self.wanted)}"

    @property
    def anchor(self) -> str:
        """Where the page lists its runs."""
        return anchor(self.method, self.column.task)

    @property
    def says(self) -> str:
        """Everything about it in a line or two."""
        if not self.values:
            return f"{self.method} on {self.column.title}: no run"
        each = ", ".join(f"seed {seed}: {100 * value:.2f}" for seed, value in self.values.items())
        return f"{self.method} on {self.column.title}, rate {self.rate:g}, {self.count} seeds\n{each}"


class Scores:
    """Every cell of the finished runs.

    Args:
        results: The records.
    """

    def __init__(self, results: Results) -> None:
        groups: dict[tuple[str, str], dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
        for run in results.done:
            # Of runs that differ in threads or device only, the first stands for its seed.
            rates = groups[run.config.method, run.config.task]
            rates[run.config.rate].setdefault(run.config.seed, run)
        self.chosen = {cell: _chosen(rates.values()) for cell, rates in groups.items()}
        found = {run.config.seed for group in self.chosen.values() for run in group.values()}
        self.seeds = tuple(sorted(results.planned or found))
        self.methods = tuple(dict.fromkeys(method for method, _ in self.chosen))
        self.tasks = tuple(dict.fromkeys(task for _, task in self.chosen))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The paper's columns where any of its tasks was run, and those of tasks that it has not."""
        known = {column.task for column in PAPER}
        others = tuple(Column(title(task), task) for task in self.tasks if task not in known)
        return ((*PAPER, *others) if known & {*self.tasks} or not others else others) or PAPER

    @property
    def ran(self) -> tuple[Column, ...]:
        """The columns with any run."""
        return tuple(column for column in self.columns if column.task in self.tasks)

    def cell(self, method: str, column: Column) -> Cell:
        """The cell of a method on a column, which may have no runs."""
        group = self.chosen.get((method, column.task), {})
        values = {}
        for seed, run in sorted(group.items()):
            value = run.score if column.split == "dev" else run.scores.get(column.split, {}).get(run.primary)
            if value is not None:
                values[seed] = value
        return Cell(method, column, values, self.seeds, tuple(group[seed] for seed in values))


def _chosen(rates: Iterable[dict[int, Record]]) -> dict[int, Record]:
    """The runs at the rate with the most seeds; among equals, at that with the best first seed."""
    return max(rates, key=lambda group: (len(group), group[min(group)].score or 0.0))


def title(task: str) -> str:
    """The task's name in print."""
    return GLUE[task].title if task in GLUE else task


def order(tasks: Iterable[str]) -> list[str]:
    """Tasks in the paper's order, others after them."""
    known = list(dict.fromkeys(column.task for column in PAPER))
    return sorted(tasks, key=lambda task: (known.index(task) if task in known else len(known), task))


def anchor(method: str, task: str) -> str:
    """The place of a method's runs on a task in the page's list of records."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in f"{method} on {task}")
    return f"runs-{plain}"
