"""What one answer for every example scores on GLUE's dev sets: the floor that a score must be read against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from normtune.data.suites import Column
from normtune.report.cells import Cells

#: By column of GLUE the size of its dev set, and how many examples have the answer that scores most when all get it.
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


@dataclass(frozen=True)
class Floor:
    """What one answer for all scores on a dev set.

    Attributes:
        score: The score; the answer is yes for F1, and a correlation with a constant is taken as 0.
        error: Its standard error over dev sets of this size.
    """

    score: float
    error: float


def floor(column: Column, cells: Cells) -> Floor | None:
    """The floor of a column; None where its dev set is not GLUE's whole one."""
    sizes = {(run.data.dev, run.data.dev_of) for run in cells.results.done if run.config.task == column.task}
    # The mismatched dev set has no size in the records; it is GLUE's where the matched one is.
    known = DEV.get("MNLI-m" if column.split != "dev" else column.title, (0, 0))[0]
    if column.title not in DEV or sizes != {(known, known)}:
        return None
    examples, answer = DEV[column.title]
    share = answer / examples
    error, metric = math.sqrt(share * (1 - share) / examples), cells.metric(column)
    if metric == "accuracy":
        return Floor(share, error)
    # F1 is 2 p / (1 + p) for a share p of yes.
    return (
        Floor(2 * share / (1 + share), error * 2 / (1 + share) ** 2) if metric == "f1" else Floor(0.0, examples**-0.5)
    )
