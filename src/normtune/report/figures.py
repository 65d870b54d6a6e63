"""The paper's figures 1 to 5 from records, as plain values."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from normtune.data.suites import Column
from normtune.records.fisher import FisherRecord
from normtune.records.results import Results
from normtune.records.run import Record
from normtune.report.curves import Curves, Look, Point, Series
from normtune.report.heatmap import HeatMap
from normtune.report.scores import PAPER, Cell, Scores, order, title

LAYERNORM = "output.LayerNorm"
#: The paper draws its figures 2 and 5 over these.
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

INDIVIDUAL = Look("individual", "#0072b2", "#56b4e9", "circle")
GLOBAL = Look("global", "#d55e00", "#ff9b52", "square")
LEFT_OUT = Look("leave-one-out (CV)", "#007a5a", "#2fc79a", "diamond")
ENDS = Look("head alone (f = 0), whole LayerNorm (f = 1)", "#4a5058", "#c9cfd6", "circle", line=False)
RANDOM = Look("random entries of LayerNorm", "#a8559b", "#de8fd0", "triangle", line=False)
LEAST = Look("least Fisher information", "#8a6d00", "#f0d442", "cross", line=False)
_NAMED = {INDIVIDUAL: "fisher-individual", GLOBAL: "fisher-global", LEFT_OUT: "fisher-leave-one-out",
          RANDOM: "random", LEAST: "least-fisher-individual"}  # fmt: skip


@dataclass(frozen=True)
class Heat:
    """A heat map with what a pointer over each cell shows.

    Attributes:
        map: The map.
        tips: A text a cell.
        limits: Its range of colours, where it shares one with others.
        link: Where the records behind it are listed.
        ends: What the ends of the range of colours stand for, where they are logarithms.
    """

    map: HeatMap
    tips: tuple[tuple[str, ...], ...]
    limits: tuple[float, float]
    link: str = ""
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        key: Its name in files and links.
        title: Its number and what it shows.
        caption: What must be known to read it.
        panels: Heat maps, or curves.
        notes: What is missing, or strikes.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Heat, ...] | tuple[Curves, ...]
    notes: tuple[str, ...] = ()


def figure1(scores: Scores) -> Drawing:
    """Heat maps of the change in full fine-tuning, one a task."""
    tasks = [task for task in order(scores.tasks) if ("full", task) in scores.chosen]
    panels = [_change(task, [*scores.chosen["full", task].values()], scores.seeds) for task in tasks]
    absent = [column.title for column in PAPER if column.task not in tasks and column.split == "dev"]
    shown = tuple(panel for panel in panels if panel is not None)
    return Drawing(
        "figure1",
        "Figure 1. Change of each component in full fine-tuning.",
        "Mean |fine-tuned − pre-trained| (equation 1) by component and layer, weight and bias together; the mean over"
        " seeds, at the best epoch. Each task has its own range of colours, so compare within a task.",
        shown,
        _absent("No full fine-tuning", absent),
    )


def component_changes(run: Record) -> dict[str, float]:
    """Equation 1 for each component of the layers, over all of its entries."""
    return _changes(run, lambda _: "")[""]


def _changes(run: Record, spot: Callable[[int], str]) -> dict[str, dict[str, float]]:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in run.changes:
        if each.layer is not None:
            own = sums[spot(each.layer), each.component]
            own[0] += each.l1
            own[1] += each.entries
    result: dict[str, dict[str, float]] = defaultdict(dict)
    for (place, name), (moved, entries) in sums.items():
        result[place][name] = moved / entries
    return result


def _change(task: str, runs: Sequence[Record], wanted: Sequence[int]) -> Heat | None:
    grids = [_changes(run, str) for run in runs]
    if not grids or not grids[0]:
        return None
    layers = sorted({layer for grid in grids for layer in grid}, key=int)
    names = list(dict.fromkeys(name for grid in grids for row in grid.values() for name in row))
    values: list[tuple[float | None, ...]] = []
    tips: list[tuple[str, ...]] = []
    for name in names:
        cells = [[grid[layer][name] for grid in grids if name in grid.get(layer, {})] for layer in layers]
        values.append(tuple(mean(cell) if len(cell) == len(grids) else None for cell in cells))
        tips.append(tuple(
            f"{name}, layer {layer}\n{mean(cell):.3g}{f' ± {stdev(cell):.2g}' if len(cell) > 1 else ''}"
            f" over {len(cell)} seed{'s' * (len(cell) != 1)}" if cell else f"{name}, layer {layer}: none"
            for layer, cell in zip(layers, cells, strict=True)
        ))  # fmt: skip
    count = f"{len(runs)} of {len(wanted)} seeds" if len(runs) < len(wanted) else f"{len(runs)} seeds"
    shown = HeatMap(
        f"{title(task)} ({count})", tuple(names), tuple(layers), tuple(values), "mean |change|",
        row_name="component", column_name="layer",
    )  # fmt: skip
    return Heat(shown, tuple(tips), shown.limits, f"runs-full-on-{task}")


def layer_sums(fisher: FisherRecord, head: int | None = None) -> dict[tuple[int, str], float]:
    """Sums of the Fisher information of each layer's LayerNorm by layer and sub-component."""
    return {
        (row.layer, row.sub): row.total if head is None else row.by_seed[head]
        for row in fisher.information
        if row.component == LAYERNORM and row.layer is not None
    }


def figure3(results: Results) -> Drawing:
    """Sums of the Fisher information of LayerNorm, by layer and task; weight and bias apart."""
    columns = [(task, sums) for task, sums in _sums(results) if sums]
    every = [value for _, sums in columns for value in sums.values() if value > 0]
    # Sums of tasks are far apart, as far as a regression's from a classification's: without a logarithm one column only
    # would have colours.
    logarithm = bool(every) and max(every) / min(every) > 100
    return Drawing(
        "figure3",
        "Figure 3. Fisher information of LayerNorm.",
        "Sum over the entries of a layer’s output.LayerNorm, before training; weight and bias apart, with one range of"
        f" colours for both{', which is logarithmic: tasks differ by orders of magnitude' if logarithm else ''}."
        " Left the weight, right the bias; the last layer is on top.",
        _fisher_maps(columns, "sum of Fisher information", logarithm),
        _unmeasured(results),
    )


def figure4(results: Results) -> Drawing:
    """The same with each task divided by its own sum, and their sum: the global information."""
    columns = []
    for task, sums in _sums(results):
        whole = sum(sums.values())
        if whole:
            columns.append((task, {spot: value / whole for spot, value in sums.items()}))
    if columns:
        spots = columns[0][1]
        columns.append(("mean", {spot: mean(sums[spot] for _, sums in columns) for spot in spots}))
    return Drawing(
        "figure4",
        "Figure 4. Fisher information of LayerNorm, each task divided by its own sum.",
        "Left the weight, right the bias, with one range of colours for both. The column “mean” is the global"
        " information: the sum over tasks, divided by their number so that it shares the range of colours.",
        _fisher_maps(columns, "share of the task’s information", False),
        _unmeasured(results),
    )


def _sums(results: Results) -> list[tuple[str, dict[tuple[int, str], float]]]:
    by_task = {each.config.task: layer_sums(each) for each in results.fisher}
    return [(task, by_task[task]) for task in order(by_task)]


def _fisher_maps(
    columns: Sequence[tuple[str, dict[tuple[int, str], float]]], unit: str, logarithm: bool
) -> tuple[Heat, ...]:
    if not columns:
        return ()
    layers = sorted({layer for _, sums in columns for layer, _ in sums}, reverse=True)
    scale: Callable[[float], float] = math.log10 if logarithm else float
    every = [value for _, sums in columns for value in sums.values() if value > 0 or not logarithm]
    ends = min(every), max(every)
    heats = []
    for sub in ("weight", "bias"):
        cells = [[sums.get((layer, sub)) for _, sums in columns] for layer in layers]
        values = [tuple(scale(v) if v or (v is not None and not logarithm) else None for v in row) for row in cells]
        tips = [
            tuple(
                f"{_named(task)}, layer {layer}, {sub}\n{'none' if value is None else f'{value:.3g}'}"
                for (task, _), value in zip(columns, row, strict=True)
            )
            for layer, row in zip(layers, cells, strict=True)
        ]
        names = tuple(_named(task) for task, _ in columns)
        shown = HeatMap(
            sub, tuple(map(str, layers)), names, tuple(values), f"log10 of the {unit}" if logarithm else unit,
            column_name="task",
        )  # fmt: skip
        heats.append(Heat(shown, tuple(tips), (scale(min(every)), scale(max(every))), "fisher", ends))
    return tuple(heats)


def _named(task: str) -> str:
    return task if task == "mean" else title(task)


def figure2(scores: Scores) -> Drawing:
    """Dev score against the fraction of LayerNorm by individual masks, beside random and least-Fisher ones."""
    return Drawing(
        "figure2",
        "Figure 2. Dev score against the trained fraction of LayerNorm.",
        "Masks of the entries with the most Fisher information on the task itself; f = 0 is the head alone, f = 1 the"
        " whole LayerNorm. The band is one standard deviation over seeds; hollow points lack seeds.",
        tuple(_curves(scores, column, (INDIVIDUAL, RANDOM, LEAST)) for column in _curve_columns(scores)),
        _masks(scores, (INDIVIDUAL, RANDOM, LEAST)),
    )


def figure5(scores: Scores) -> Drawing:
    """Dev score against the fraction of LayerNorm by individual, global and leave-one-out masks."""
    return Drawing(
        "figure5",
        "Figure 5. Individual, global and leave-one-out masks.",
        "Whose Fisher information chose the entries: the task’s own, every task’s, or every other task’s (the paper’s"
        " CV). The ends are shared: f = 0 is the head alone, f = 1 the whole LayerNorm.",
        tuple(_curves(scores, column, (INDIVIDUAL, GLOBAL, LEFT_OUT)) for column in _curve_columns(scores)),
        _masks(scores, (INDIVIDUAL, GLOBAL, LEFT_OUT)),
    )


def fractions(scores: Scores, name: str) -> dict[float, str]:
    """The fractions at which masks called `name` were trained, with the method's whole name."""
    found = {}
    for method in scores.methods:
        match = re.fullmatch(rf"{re.escape(name)}@([0-9.]+)", method)
        if match and 0 < float(match[1]) < 1:
            found[float(match[1])] = method
    return dict(sorted(found.items()))


def _curve_columns(scores: Scores) -> list[Column]:
    kinds = {"head", "layernorm"}
    return [
        column
        for column in scores.ran
        if any((method, column.task) in scores.chosen for method in scores.methods if method in kinds or "@" in method)
    ]


def _curves(scores: Scores, column: Column, looks: Sequence[Look]) -> Curves:
    both = {0.0: scores.cell("head", column), 1.0: scores.cell("layernorm", column)}
    ends = [_point(x, cell) for x, cell in both.items() if cell.mean is not None]
    series = []
    lacking = 0
    for look in looks:
        at = fractions(scores, _NAMED[look])
        cells = {x: scores.cell(method, column) for x, method in at.items()}
        points = [_point(x, cell) for x, cell in cells.items() if cell.mean is not None]
        if look.line and points:
            points = [*(replace(end, marked=False) for end in ends if end.x == 0), *points,
                      *(replace(end, marked=False) for end in ends if end.x == 1)]  # fmt: skip
        series.append(Series(look, tuple(points)))
        lacking += sum(len({*cell.wanted} - cell.values.keys()) for cell in cells.values())
    note = f"{lacking} mask run{'s' * (lacking > 1)} missing" if lacking else ""
    return Curves(column.title, (*series, Series(ENDS, tuple(ends))), note=note)


def _point(x: float, cell: Cell) -> Point:
    assert cell.mean is not None
    spread = None if cell.spread is None else 100 * cell.spread
    return Point(x, 100 * cell.mean, spread, cell.complete, cell.says, cell.anchor)


def _masks(scores: Scores, looks: Iterable[Look]) -> tuple[str, ...]:
    absent = [look.name for look in looks if not fractions(scores, _NAMED[look])]
    found = sorted({x for look in looks for x in fractions(scores, _NAMED[look])})
    notes = []
    if absent:
        notes.append(f"No masks trained yet: {', '.join(absent)}.")
    if found:
        notes.append(f"Trained here at f = {', '.join(f'{x:g}' for x in found)}; others of the paper’s are missing."
                     if {*FRACTIONS} - {*found} else "")  # fmt: skip
    return tuple(filter(None, notes))


def _unmeasured(results: Results) -> tuple[str, ...]:
    have = {each.config.task for each in results.fisher}
    return _absent("Not measured", [column.title for column in PAPER if column.task not in have])


def _absent(what: str, names: Sequence[str]) -> tuple[str, ...]:
    names = [name.replace("MNLI-m", "MNLI") for name in names if name != "MNLI-mm"]
    return (f"{what}: {', '.join(names)}.",) if names else ()
