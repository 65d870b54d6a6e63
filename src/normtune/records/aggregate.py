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
        trained: Entries trained, head included, by method, as a range over tasks in words.
        share: Selected entries over all pre-trained ones, by method.
        seeds: The largest number of seeds of any cell.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: dict[tuple[str, str], Score]
    trained: dict[str, int]
    share: dict[str, float]
    seeds: int


def tabulate(records: Iterable[Record], *, seeds: int | None = None) -> Table:
    """Tabulate runs at each cell's best rate.

    The rate of a cell is the one with the most seeds; among those with equally many the one with the best first seed,
    which is how a search picks it.

    Args:
        records: Finished runs of one base model and protocol.
        seeds: Use this many seeds at most.

    Returns:
        The table; a cell without runs is missing, and each cell knows its number of seeds.
    """
    groups: dict[tuple[str, str], dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in _one_a_seed(records):
        groups[record.config.method, record.config.task][record.config.rate].append(record)
    scores = {cell: _score(_chosen(rates), seeds) for cell, rates in groups.items()}
    every = [record for rates in groups.values() for group in rates.values() for record in group]
    return Table(
        methods=tuple(dict.fromkeys(method for method, _ in groups)),
        tasks=tuple(dict.fromkeys(task for _, task in groups)),
        scores=scores,
        trained={r.config.method: r.counts.selected for r in every},
        share={r.config.method: r.counts.share for r in every},
        seeds=max((score.seeds for score in scores.values()), default=0),
    )


def _one_a_seed(records: Iterable[Record]) -> Iterable[Record]:
    """Finished runs; of those that differ in threads, device or versions only, the first stands for its seed."""
    found: dict[tuple[object, ...], Record] = {}
    for record in records:
        if record.status == "done":
            config = record.config
            found.setdefault((config.method, config.task, config.rate, config.seed), record)
    return found.values()


def by_rate(records: Iterable[Record], tasks: Sequence[str], methods: Sequence[str]) -> dict[str, dict[float, float]]:
    """The score of each cell's first seed at every rate tried: what a grid is read from.

    Args:
        records: Finished runs.
        tasks: The tasks wanted, in order.
        methods: The methods wanted, in order.

    Returns:
        For each ``METHOD on TASK`` the score by rate, ascending.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.config.method, record.config.task].append(record)
    result = {}
    for method in methods:
        for task in tasks:
            group = groups.get((method, task), [])
            first = min((record.config.seed for record in group), default=0)
            tried = {r.config.rate: r.score for r in group if r.config.seed == first and r.score is not None}
            result[f"{method} on {task}"] = dict(sorted(tried.items()))
    return result


def _chosen(rates: dict[float, list[Record]]) -> list[Record]:
    return max(rates.values(), key=lambda group: (len(group), _first(group).score or 0.0))


def _first(group: list[Record]) -> Record:
    return min(group, key=lambda record: record.config.seed)


def _score(group: list[Record], seeds: int | None) -> Score:
    chosen = sorted(group, key=lambda record: record.config.seed)[:seeds]
    values = [record.score for record in chosen if record.score is not None]
    return Score(mean(values), stdev(values) if len(values) > 1 else None, len(values), chosen[0].config.rate)
