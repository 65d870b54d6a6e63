"""Scores of runs as a table: one row a method, one column a task and split, mean and spread over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from normtune.records.run import Record


@dataclass(frozen=True)
class Score:
    """A cell of the table.

    Attributes:
        mean: Mean of the primary metric over seeds.
        spread: Its sample standard deviation over seeds, or None with one seed.
        seeds: Number of seeds behind it.
        rate: The learning rate behind it.
    """

    mean: float
    spread: float | None
    seeds: int
    rate: float

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {100 * self.spread:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Table:
    """Scores by method and task.

    Attributes:
        methods: Rows, in order of first appearance.
        tasks: Columns, likewise.
        scores: Cells that have runs.
        trained: Entries of the pre-trained model that train, by method.
        seeds: The largest number of seeds of any cell.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: dict[tuple[str, str], Score]
    trained: dict[str, int]
    seeds: int


def chosen(records: Iterable[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    """The runs that stand for each method and task: those at one rate, by seed.

    The rate is the one with the most seeds; among those with equally many the one with the best first seed, which is
    how a search picks it. Of runs that differ in threads, device or versions only, the first stands for its seed.

    Args:
        records: Runs of one base model and protocol.

    Returns:
        The finished runs by method and task, in order of first appearance, then by seed, ascending.
    """
    groups: dict[tuple[str, str], dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.status == "done" and record.score is not None:
            config = record.config
            groups[config.method, config.task][config.rate].setdefault(config.seed, record)
    best = {cell: max(rates.values(), key=_rank) for cell, rates in groups.items()}
    return {cell: dict(sorted(group.items())) for cell, group in best.items()}


def _rank(group: dict[int, Record]) -> tuple[int, float]:
    return len(group), group[min(group)].score or 0.0


def tabulate(records: Iterable[Record], *, seeds: int | None = None) -> Table:
    """Tabulate runs at each cell's rate (see `chosen`).

    Args:
        records: Runs of one base model and protocol.
        seeds: Use this many seeds at most.

    Returns:
        The table; a cell without runs is missing, and each cell knows its number of seeds.
    """
    groups = {cell: list(group.values())[:seeds] for cell, group in chosen(records).items()}
    scores = {cell: _score(group) for cell, group in groups.items()}
    every = [record for group in groups.values() for record in group]
    return Table(
        methods=tuple(dict.fromkeys(method for method, _ in groups)),
        tasks=tuple(dict.fromkeys(task for _, task in groups)),
        scores=scores,
        trained={r.config.method: r.counts.selected for r in every},
        seeds=max((score.seeds for score in scores.values()), default=0),
    )


def by_rate(records: Iterable[Record], tasks: Sequence[str], methods: Sequence[str]) -> dict[str, dict[float, float]]:
    """The score of each cell's first seed at every rate tried: what a grid is read from.

    Returns:
        For each ``METHOD on TASK``, in the order wanted, the score by rate, ascending.
    """
    every, result = list(records), {}
    for method in methods:
        for task in tasks:
            group = [record for record in every if (record.config.method, record.config.task) == (method, task)]
            first = min((record.config.seed for record in group), default=0)
            tried = {r.config.rate: r.score for r in group if r.config.seed == first and r.score is not None}
            result[f"{method} on {task}"] = dict(sorted(tried.items()))
    return result


def _score(group: Sequence[Record]) -> Score:
    values = [record.score for record in group if record.score is not None]
    return Score(mean(values), stdev(values) if len(values) > 1 else None, len(values), group[0].config.rate)
