"""What one answer for every example scores on GLUE's dev sets: the floor that a score must be read against."""

from __future__ import annotations

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


def floor(column: Column, cells: Cells) -> float | None:
    """The score of one answer for all in a column; None where its dev set is not GLUE's whole one.

    F1's answer is yes; a correlation with a constant is taken as 0.
    """
    sizes = {(run.data.dev, run.data.dev_of) for run in cells.results.done if run.config.task == column.task}
    # The mismatched dev set has no size in the records; it is GLUE's where the matched one is.
    known = DEV.get("MNLI-m" if column.split != "dev" else column.title, (0, 0))[0]
    if column.title not in DEV or sizes != {(known, known)}:
        return None
    share = DEV[column.title][1] / DEV[column.title][0]
    return {"accuracy": share, "f1": 2 * share / (1 + share)}.get(cells.metric(column), 0.0)
