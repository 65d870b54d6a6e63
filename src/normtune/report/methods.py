"""All methods side by side: a table of scores and costs, and a figure of scores against costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from rich.filesize import decimal

from normtune.data.suites import Column
from normtune.records.aggregate import Cell
from normtune.records.run import Counts, Record
from normtune.report.cells import Cells, named
from normtune.report.curves import Style
from normtune.report.figures import Drawing
from normtune.report.scatter import Dot, Scatter
from normtune.report.table import Entry, Table, group, says, score

#: How a method is drawn, by what it trains and what that costs at inference (`Record.cost`).
OWN = Style("entries of the model", "#2a87c8", "o")
MERGED = Style("added, merged after training", "#dd6a1f", "s")
TOKENS = Style("added, extra tokens at inference", "#1d9a74", "D")
LAYERS = Style("added, extra layers at inference", "#b565a8", "^")
_BY_COST = {"none": MERGED, "extra tokens": TOKENS}


def style(run: Record) -> Style:
    """How a run's method is drawn."""
    return _BY_COST.get(run.cost, LAYERS) if added(run.counts) else OWN


def added(counts: Counts) -> int:
    """Trained entries that are not the pre-trained model's."""
    return counts.total - counts.head - round(counts.selected / counts.share) if counts.selected else 0


def interval(cell: Cell) -> float | None:
    """Half the width of the 95 % interval of the mean over seeds, by Student's t; None with fewer than two."""
    if cell.spread is None:
        return None
    from scipy.stats import t

    count = len(cell.values)
    return float(t.ppf(0.975, count - 1)) * cell.spread / math.sqrt(count)


def methods_table(cells: Cells) -> Table:
    """A row for each method: its score on every task, and its costs."""
    titles = [column.title for column in cells.ran]
    cost = ("entries", "delta", "seconds", "peak memory", "at inference")
    rows = {
        method: [run for task in cells.tasks for run in cells.chosen.get((method, task), {}).values()]
        for method in cells.whole
    }
    ordered = sorted(rows, key=lambda method: rows[method][0].counts.selected)
    styles = {method: style(runs[0]) for method, runs in rows.items()}
    groups = tuple(
        group([_row(cells, method, rows[method]) for method in ordered if styles[method] == kind], kind.name)
        for kind in (OWN, MERGED, TOKENS, LAYERS)
        if kind in styles.values()
    )
    return Table(
        "methods",
        "Methods. Scores and costs.",
        ("method", *titles, *cost),
        groups,
        "Dev score × 100, mean over seeds ± half the width of its 95 % interval (Student’s t; none with one seed)."
        " Entries are those trained beside the head; delta is their size in a file; seconds are those of a training,"
        " the mean over tasks and seeds; peak memory is the process’s largest; the cost at inference is what remains"
        " after merging all that can be merged.",
    )


def _row(cells: Cells, method: str, runs: Sequence[Record]) -> tuple[str | Entry, ...]:
    first = runs[0]
    return (
        named(method),
        *(_score(cells.cell(method, column)) for column in cells.ran),
        f"{first.counts.selected:,}",
        decimal(max(run.delta_bytes for run in runs)),
        f"{mean(run.seconds for run in runs):,.0f}",
        decimal(max(run.peak_memory for run in runs)),
        first.cost,
    )


def _score(cell: Cell) -> Entry:
    half = interval(cell) if cell.complete else None
    return score(cell) if half is None else replace(score(cell), spread=f"{100 * half:.1f}")


def methods_figure(cells: Cells) -> Drawing:
    """The score on each task against the entries trained, and against the time of a training."""
    both = [panel for column in cells.ran for panel in panels(cells, column)]
    return Drawing(
        "costs",
        "Costs. Score against entries trained, and against time.",
        "Entries are those trained beside the head, on a logarithmic axis; time is the mean of a training. Bars are the"
        " 95 % interval of the mean over seeds, where there are several; they cover the choice of seeds, not of dev"
        " examples. Hollow points lack seeds. The dashed line is the head alone.",
        tuple(panel for panel in both if panel.dots),
    )


def panels(cells: Cells, column: Column) -> tuple[Scatter, Scatter]:
    """The score on a task against the entries trained beside the head, and against the seconds of a training.

    The head alone, which has no such entries, is a line.
    """
    entries, seconds, line = [], [], None
    for method in cells.whole:
        cell = cells.cell(method, column)
        if cell.mean is None:
            continue
        dot = Dot(
            named(method), style(cell.runs[0]), 100 * cell.mean, 100 * (interval(cell) or 0.0), cell.complete,
            says(cell), strong=method == "layernorm",
        )  # fmt: skip
        if method == "head":
            line = dot
        else:
            entries.append((dot, float(cell.runs[0].counts.selected)))
            seconds.append((dot, mean(run.seconds for run in cell.runs)))
    title = f"{column.title} ({cells.metric(column)})"
    return (
        Scatter(title, "entries trained beside the head", tuple(entries), line, log=True),
        Scatter(title, "seconds of a training", tuple(seconds), line),
    )
