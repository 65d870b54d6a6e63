"""Scores of runs as cells: a method and a column of its suite's tables, with a value a seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from normtune.data.suites import SUITES, Column, known_task
from normtune.records.aggregate import Cell, chosen
from normtune.records.fisher import FisherRecord
from normtune.records.results import Results
from normtune.records.run import Norms, Record
from normtune.statistics.scores import ScoreTable, from_records, grouped, same_task

#: Sums by layer and sub-component.
Sums = Mapping[tuple[int, str], float]
#: The columns of the paper's tables (GLUE's), in its order.
PRINTED = SUITES["glue"].columns
#: Printed names of the paper's methods, and of the control that it lacks; other methods keep their own names.
NAMES = {"full": "Full", "bitfit": "BitFit", "layernorm": "LayerNorm", "random": "Random", "head": "Head only"}
#: The size of each GLUE column's dev set, and how many of its examples have the best single answer for all.
DEV = {
    "QNLI": (5463, 2761),
    "SST-2": (872, 444),
    "MNLI-m": (9815, 3479),
    "MNLI-mm": (9832, 3463),
    "CoLA": (1043, 721),
    "MRPC": (408, 279),
    "STS-B": (1500, 0),
    "RTE": (277, 146),
    "QQP": (40430, 14885),
}
#: A score less than this above that of one answer for all is near its floor.
NEAR = 0.05
_MASK = re.compile(r"(.+)@(0?\.\d+|[\d.]+e-\d+)")


class Cells:
    """Every cell of a results folder, the columns, and the model's names for its norms."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.chosen = chosen(results.done)
        found = {seed for group in self.chosen.values() for seed in group}
        self.seeds = tuple(sorted({*results.planned, *found}))
        methods = {method for method, _ in self.chosen}
        self.methods = (*(name for name in NAMES if name in methods), *sorted(methods - NAMES.keys()))
        self.tasks = tuple(dict.fromkeys(task for _, task in self.chosen))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the records' suites, then those of tasks outside any suite."""
        suites = {each.config.task: each.suite for each in self.results.fisher}
        suites |= {run.config.task: run.data.suite for run in self.results.runs}
        own = dict.fromkeys(column for name in SUITES if name in suites.values() for column in SUITES[name].columns)
        known = {column.task for column in own}
        return (*own, *(Column(task, task) for task in suites if task not in known))

    @cached_property
    def ran(self) -> tuple[Column, ...]:
        """The columns with any run."""
        return tuple(column for column in self.columns if column.task in self.tasks)

    @cached_property
    def fisher(self) -> dict[str, FisherRecord]:
        """The measurements of Fisher information by task, in the order of the columns."""
        by_task = {each.config.task: each for each in self.results.fisher}
        return {task: by_task[task] for task in self.order(by_task)}

    def layer_sums(self, fisher: FisherRecord, head: int | None = None) -> Sums:
        """Sums of the Fisher information of the norm that closes each layer, for one head or as the mean over heads."""
        sums: dict[tuple[int, str], float] = defaultdict(float)
        for row in fisher.information:
            if row.component in self.norms.closing and row.layer is not None:
                sums[row.layer, row.sub] += row.total if head is None else row.by_seed[head]
        return sums

    @cached_property
    def no_bias(self) -> str:
        """A sentence saying so if the norm that closes a layer is known to have no bias (RMSNorm); else empty."""
        subs = {sub for each in self.results.fisher for _, sub in self.layer_sums(each)}
        return f"{self.closing} has no bias in this model (RMSNorm)." if subs and "bias" not in subs else ""

    @cached_property
    def norms(self) -> Norms:
        """The model's names for the norms of its layers."""
        return next((each.norms for each in self.records if each.norms != Norms()), Norms())

    @property
    def closing(self) -> str:
        """The norm that closes a layer, in words."""
        return " and ".join(self.norms.closing) or "the closing norm"

    @property
    def records(self) -> list[Record | FisherRecord]:
        """The records of runs, then of measurements."""
        return [*self.results.runs, *self.results.fisher]

    def cell(self, method: str, column: Column) -> Cell:
        """The cell of a method and a column; it may have no runs."""
        group = self.chosen.get((method, column.task), {})
        values = {}
        for seed, run in group.items():
            value = run.score if column.split == "dev" else run.scores.get(column.split, {}).get(run.primary)
            if value is not None:
                values[seed] = value
        return Cell(method, column.title, values, self.seeds, tuple(group[seed] for seed in values))

    def floor(self, column: Column, *, sampled: bool = False) -> float | None:
        """The most that one answer for all examples can score; None unless a column's dev set is GLUE's whole one.

        For F1 that answer is yes; a correlation counts as 0. `sampled` gives a sample of a dev set the whole one's
        floor.
        """
        runs = [run.data for run in self.results.done if run.config.task == column.task]
        sizes = {size for run in runs for size in (run.dev_of, run.dev_of if sampled else run.dev)}
        # The mismatched dev set has no size in the records; it is GLUE's where the matched one is.
        known = DEV.get("MNLI-m" if column.split != "dev" else column.title, (0, 0))[0]
        if column.title not in DEV or sizes != {known}:
            return None
        share = DEV[column.title][1] / DEV[column.title][0]
        return {"accuracy": share, "f1": 2 * share / (1 + share)}.get(self.metric(column), 0.0)

    def clear(self, method: str, task: str) -> bool:
        """Whether a method scores at least `NEAR` above the floor in a column of a task, or the floor is unknown."""
        columns = [column for column in self.columns if column.task == task]
        lows = {column: self.floor(column, sampled=True) for column in columns}
        return any(low is None or (self.cell(method, at).mean or 0.0) - low >= NEAR for at, low in lows.items())

    def scores(self, methods: Sequence[str], tasks: Sequence[str]) -> ScoreTable:
        """The scores of methods on tasks that have all of their seeds, one value a task: MNLI's two are averaged."""
        runs = [run for group in self.chosen.values() for run in group.values()]
        return grouped(from_records(runs, methods=methods, tasks=tasks))

    def full_runs(self, task: str) -> list[Record]:
        """The full fine-tunings of a task whose records say how far the parameters moved."""
        return [run for run in self.chosen.get(("full", task), {}).values() if run.changes]

    def metric(self, column: Column) -> str:
        """The metric of a column: that of its runs, else that of its task, else empty."""
        own = (run.primary for run in self.results.runs if run.config.task == column.task)
        task = known_task(column.task)
        return next(own, task.primary if task else "")

    def title(self, task: str) -> str:
        """The task's printed name: that of its column, or what its columns' names have in common."""
        own = [column.title for column in self.columns if column.task == task] or [task]
        return next(iter(same_task(own)), own[0])

    def order(self, tasks: Iterable[str]) -> list[str]:
        """Tasks in the order of the columns."""
        wanted = {*tasks}
        return [task for task in dict.fromkeys(column.task for column in self.columns) if task in wanted]

    def without(self, tasks: Iterable[str]) -> list[str]:
        """The printed names of the columns' tasks that are not among `tasks`."""
        have = {*tasks}
        return [self.title(task) for task in self.order(c.task for c in self.columns) if task not in have]

    def complete(self, method: str, task: str) -> bool:
        """Whether a method has all seeds in every column of a task."""
        return all(self.cell(method, column).complete for column in self.columns if column.task == task)

    @property
    def whole(self) -> tuple[str, ...]:
        """The methods that are not masks."""
        return tuple(method for method in self.methods if not _MASK.fullmatch(method))

    def masks(self) -> dict[str, dict[float, str]]:
        """The full method names of masks, by name without the fraction (``fisher-global``), then by fraction (0.1)."""
        found: dict[str, dict[float, str]] = {}
        for method in self.methods:
            match = _MASK.fullmatch(method)
            if match:
                found.setdefault(match[1], {})[float(match[2])] = method
        return {kind: dict(sorted(own.items())) for kind, own in found.items()}


def named(method: str) -> str:
    """The method's printed name."""
    return NAMES.get(method, method)
