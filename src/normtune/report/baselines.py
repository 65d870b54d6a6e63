"""What one answer for every example scores on GLUE's dev sets: the floor that a score must be read against."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from normtune.data.suites import Column
from normtune.report.cells import PRINTED, Cells


@dataclass(frozen=True)
class Dev:
    """A dev set as GLUE publishes it.

    Attributes:
        examples: How many examples it has.
        answer: How many have the answer that scores most when it is given to all.
    """

    examples: int
    answer: int

    def score(self, metric: str) -> float:
        """What that answer scores: as accuracy, F1 or a correlation."""
        if metric == "accuracy":
            return self.answer / self.examples
        return 2 * self.answer / (self.answer + self.examples) if metric == "f1" else 0.0

    def error(self, metric: str) -> float:
        """The standard error of that score over dev sets of this size."""
        share = self.answer / self.examples
        own = math.sqrt(share * (1 - share) / self.examples)
        if metric == "f1":  # 2 p / (1 + p) for a share p of yes
            return own * 2 / (1 + share) ** 2
        return own if metric == "accuracy" else 1 / math.sqrt(self.examples)


#: By column. F1's answer is always yes; a correlation with a constant is taken as 0, as the scores here do.
DEV = {
    "QNLI": Dev(5463, 2761),
    "SST-2": Dev(872, 444),
    "MNLI-m": Dev(9815, 3479),
    "MNLI-mm": Dev(9832, 3463),
    "CoLA": Dev(1043, 721),
    "MRPC": Dev(408, 279),
    "STS-B": Dev(1500, 0),
    "RTE": Dev(277, 146),
    "QQP": Dev(40430, 14885),
}


def floor(column: Column, cells: Cells) -> float | None:
    """The score of one answer for all on the dev set of a column; None where it is not GLUE's whole one."""
    sizes = {(run.data.dev, run.data.dev_of) for run in cells.results.done if run.config.task == column.task}
    dev = DEV.get(column.title)
    # The mismatched dev set has no size in the records; it is GLUE's where the matched one is.
    known = DEV["MNLI-m"] if column.split != "dev" else dev
    if dev is None or known is None or sizes != {(known.examples, known.examples)}:
        return None
    return dev.score(cells.metric(column))


def near_floor(column: Column, cells: Cells, methods: Iterable[str]) -> list[str]:
    """The methods that do not stand clear of one answer for all: by two standard errors of that score, or of theirs."""
    low = floor(column, cells)
    if low is None or not DEV[column.title].answer:
        return []
    error = DEV[column.title].error(cells.metric(column))
    found = [cells.cell(method, column) for method in methods]
    return [
        cell.method
        for cell in found
        if cell.complete and (cell.mean or 0.0) - low < 2 * max(error, (cell.spread or 0.0) / len(cell.values) ** 0.5)
    ]


def other_dev(column: Column, cells: Cells) -> int | None:
    """The size of a dev split that is not GLUE's though its column is, or None."""
    sizes = {run.data.dev_of for run in cells.results.done if run.config.task == column.task}
    known = DEV.get(column.title) if column in PRINTED and column.split == "dev" else None
    return None if known is None or sizes <= {known.examples} else max(sizes)
