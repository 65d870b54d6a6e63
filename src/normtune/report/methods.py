"""Every method beside every other: a table of scores and costs, and a picture of scores against costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from rich.filesize import decimal

from normtune.data.suites import Column
from normtune.records.aggregate import Cell
from normtune.records.run import Counts, Record
from normtune.report.cells import Cells, named
from normtune.report.curves import Look
from normtune.report.figures import Drawing
from normtune.report.scatter import Dot, Scatter
from normtune.report.table import GAP, Entry, Table, group, remark, says

#: How a method is drawn, by what it trains and what that costs at inference (`Record.cost`).
OWN = Look("entries of the model", "#2a87c8", "o")
MERGED = Look("added, merged after training", "#dd6a1f", "s")
TOKENS = Look("added, extra tokens at inference", "#1d9a74", "D")
LAYERS = Look("added, extra layers at inference", "#b565a8", "^")
_BY_COST = {"none": MERGED, "extra tokens": TOKENS}
HEAD = "head"


def look(run: Record) -> Look:
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
    """A row a method: its score on every task, and all that it costs."""
    titles = [column.title for column in cells.ran]
    cost = ("entries", "delta", "seconds", "peak memory", "at inference")
    rows = {method: _runs(cells, method) for method in cells.whole}
    looks = {method: look(runs[0]) for method, runs in rows.items()}
    groups = tuple(
        group([_row(cells, method, rows[method]) for method in _ordered(rows) if looks[method] == kind], kind.name)
        for kind in (OWN, MERGED, TOKENS, LAYERS)
        if kind in looks.values()
    )
    gaps = [
        f"{named(cell.method)} on {cell.title} ({cell.count} seeds)"
        for cell in (cells.cell(method, column) for method in cells.whole for column in cells.ran)
        if not cell.complete
    ]
    return Table(
        "methods",
        "Methods: scores and costs.",
        ("method", *titles, *cost),
        groups,
        "Dev score × 100, mean over seeds ± half the width of its 95 % interval (Student’s t; none with one seed)."
        " Entries are those trained beside the head; delta is what they take in a file; seconds are a training’s, the"
        " mean over tasks and seeds; peak memory is the process’s largest; the cost at inference is what remains once"
        " all that can be merged is merged.",
        remark("Missing", gaps),
    )


def _runs(cells: Cells, method: str) -> list[Record]:
    return [run for task in cells.tasks for run in cells.chosen.get((method, task), {}).values()]


def _ordered(rows: dict[str, list[Record]]) -> list[str]:
    return sorted(rows, key=lambda method: rows[method][0].counts.selected)


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
    if cell.mean is None:
        return GAP
    half = interval(cell)
    return Entry(
        f"{100 * cell.mean:.1f}",
        spread="" if half is None else f"{100 * half:.1f}",
        badge="" if cell.complete else cell.count,
        kind="" if cell.complete else "partial",
        tip=says(cell),
    )


def methods_figure(cells: Cells) -> Drawing:
    """The score on each task against the entries trained, and against the time of a training."""
    panels = [panel for column in cells.ran for panel in (entries_panel(cells, column), time_panel(cells, column))]
    return Drawing(
        "costs",
        "Methods: score against entries trained, and against time.",
        "Entries are those trained beside the head, on a logarithmic axis; time is the mean of a training. Bars are the"
        " 95 % interval of the mean over seeds, where there are several; hollow points lack seeds. The dashed line is"
        " the head alone.",
        tuple(panel for panel in panels if panel.dots),
    )


def entries_panel(cells: Cells, column: Column) -> Scatter:
    """The score against the entries trained beside the head; the head alone, which has none, is a line."""
    dots = _dots(cells, column)
    shown = tuple((dot, float(runs[0].counts.selected)) for dot, runs in dots if dot.name != named(HEAD))
    return Scatter(_title(cells, column), "entries trained beside the head", shown, _line(dots), log=True)


def time_panel(cells: Cells, column: Column) -> Scatter:
    """The score against the seconds of a training."""
    dots = _dots(cells, column)
    shown = tuple((dot, mean(run.seconds for run in runs)) for dot, runs in dots if dot.name != named(HEAD))
    return Scatter("", "seconds of a training", shown, _line(dots))


def _title(cells: Cells, column: Column) -> str:
    return f"{column.title} ({cells.metric(column)})"


def _line(dots: Sequence[tuple[Dot, Sequence[Record]]]) -> Dot | None:
    return next((dot for dot, _ in dots if dot.name == named(HEAD)), None)


def _dots(cells: Cells, column: Column) -> list[tuple[Dot, tuple[Record, ...]]]:
    """A dot for each method with runs on a task, and these."""
    found = []
    for method in cells.whole:
        cell = cells.cell(method, column)
        if cell.mean is not None:
            dot = Dot(
                named(method), look(cell.runs[0]), 100 * cell.mean, 100 * (interval(cell) or 0.0), cell.complete,
                says(cell), strong=method == "layernorm",
            )  # fmt: skip
            found.append((dot, cell.runs))
    return found
