"""Scores of runs by method and task: which runs make a cell, their mean and their spread over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from normtune.errors import ConfigError
from normtune.records.run import Record


@dataclass(frozen=True)
class Cell:
    """The runs of a method in one cell of a table of scores, all at one rate.

    Attributes:
        method: The method.
        title: Name of the column: a task, or one of its dev sets.
        values: The scores by seed, ascending.
        wanted: The seeds that there should be.
        runs: The runs behind the values.
    """

    method: str
    title: str
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
    def count(self) -> str:
        """How many of the wanted seeds there are."""
        return f"{len({*self.wanted} & self.values.keys())} of {len(self.wanted)}"

    @property
    def rate(self) -> float:
        """The learning rate of its runs."""
        return self.runs[0].config.rate


def chosen(records: Iterable[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    """The runs that represent each method and task: those at one rate, by seed.

    The rate is the one with the most seeds, then the best score of its lowest seed on the data that the epoch was
    picked on, then the lowest rate. Of runs that differ in threads, device or versions only, the first counts.

    Args:
        records: Runs of one base model and protocol.

    Returns:
        The finished runs by method and task, in order of first appearance, then by seed, ascending.

    Raises:
        ConfigError: If two runs of one method, task, rate and seed differ in more, such as in the mask behind a name.
    """
    groups: dict[tuple[str, str], dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.status == "done" and record.score is not None:
            config = record.config
            first = groups[config.method, config.task][config.rate].setdefault(config.seed, record)
            if first.id != record.id and (first.trains != record.trains or _ran(first) == _ran(record)):
                raise ConfigError(
                    f"Two runs of {config.method} on {config.task} have one rate and one seed, but differ in what"
                    " trains or in a setting; keep their records in folders apart."
                )
    best = {cell: max(rates.values(), key=_rank) for cell, rates in groups.items()}
    return {cell: dict(sorted(group.items())) for cell, group in best.items()}


def _ran(record: Record) -> tuple[object, ...]:
    """What may differ between two runs that count as one."""
    config, machine = record.config, record.machine
    return config.model, config.revision, machine.get("device"), machine.get("threads")


def _rank(group: dict[int, Record]) -> tuple[int, float, float]:
    first = group[min(group)]
    return len(group), first.picked, -first.config.rate


def tabulate(records: Iterable[Record]) -> dict[tuple[str, str], Cell]:
    """The cell of each method and task with finished runs; each should have every seed that any of them has.

    Args:
        records: Runs of one base model and protocol.

    Returns:
        The cells by method and task, in order of first appearance.
    """
    groups = chosen(records)
    wanted = tuple(sorted({seed for group in groups.values() for seed in group}))
    return {
        (method, task): Cell(
            method, task, {seed: run.score or 0.0 for seed, run in group.items()}, wanted, tuple(group.values())
        )
        for (method, task), group in groups.items()
    }


def by_rate(records: Iterable[Record], tasks: Sequence[str], methods: Sequence[str]) -> dict[str, dict[float, float]]:
    """The score at every rate tried, for the seed that a cell's rate was searched on; grids are chosen from it.

    Returns:
        For each ``METHOD on TASK``, in the order wanted, the score by rate, ascending.
    """
    every, result = list(records), {}
    for method in methods:
        for task in tasks:
            tried = defaultdict[int, dict[float, float]](dict)
            for record in every:
                if (record.config.method, record.config.task) == (method, task) and record.score is not None:
                    tried[record.config.seed].setdefault(record.config.rate, record.score)
            searched = max(sorted(tried.items()), key=lambda own: len(own[1]), default=(0, {}))[1]
            result[f"{method} on {task}"] = dict(sorted(searched.items()))
    return result
