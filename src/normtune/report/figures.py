"""The paper's figures 1 to 5 from records, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import TYPE_CHECKING, Any

from normtune.data.suites import Column
from normtune.importance.movement import MEASURES, Movement, movement
from normtune.records.run import Record
from normtune.report import ablation, curves, heatmap, scatter
from normtune.report.cells import Cells, Sums
from normtune.report.curves import Curves, Style, points
from normtune.report.drawing import across, inline, rendered
from normtune.report.table import remark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The fractions in the paper's figures 2 and 5.
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
ENDS = Style("head alone (f = 0), whole LayerNorm (f = 1)", "#76808b", "o", line=False)
#: How masks are drawn: the paper's, random ones, and those of the least Fisher information.
STYLES = {
    "fisher-individual": Style("individual", "#2a87c8", "o"),
    "fisher-global": Style("global", "#dd6a1f", "s"),
    "fisher-leave-one-out": Style("leave-one-out (CV)", "#1d9a74", "D"),
    "random": Style("random entries of LayerNorm", "#b565a8", "^", line=False),
    "least-fisher-individual": Style("least Fisher information", "#a5861a", "X", line=False),
}
_OTHERS = (("#766bdc", "v"), ("#cf4f6e", "P"), ("#3a95a5", "*"))
_SHARED = ("global", "leave-one-out")

Panel = heatmap.HeatMap | Curves | scatter.Scatter | ablation.Ablation
#: Functions that draw a figure, by the kind of its panels.
_FIGURES: Mapping[type[Panel], Callable[[Any], Figure]] = {
    heatmap.HeatMap: lambda panels: heatmap.figure(panels, across=across(len(panels))),
    Curves: curves.figure,
    scatter.Scatter: scatter.figure,
    ablation.Ablation: ablation.figure,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        key: Its name in files and links.
        title: Its number and what it shows.
        caption: What must be known to read it.
        panels: Heat maps, curves, scattered points, or ablations.
        notes: What is missing or unusual.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()

    @property
    def filled(self) -> bool:
        """Whether it has any panels; one without is not shown."""
        return bool(self.panels)

    @cached_property
    def figure(self) -> Figure:
        """The figure, for files of every kind and for the page."""
        return _FIGURES[type(self.panels[0])](self.panels)

    @property
    def inline(self) -> str:
        """The figure as a part of the page."""
        marks = {
            f"mark-{n}-{place}": own for n, panel in enumerate(self.panels) for place, own in enumerate(panel.marks)
        }
        return inline(rendered(self.figure, ".svg"), key=self.key, label=self.title, marks=marks)


def figure1(cells: Cells) -> Drawing:
    """Heat maps of the change in full fine-tuning, one a task."""
    runs = {task: own for task in cells.order(cells.tasks) if (own := cells.full_runs(task))}
    return Drawing(
        "figure1",
        "Figure 1. Change of each component in full fine-tuning.",
        "Mean |fine-tuned − pre-trained| (equation 1) by component and layer, weight and bias together; the mean over"
        " seeds, at the best epoch. Each task has its own range of colours, so compare within a task.",
        tuple(_change(cells, task, own) for task, own in runs.items()),
        remark("No full fine-tuning", cells.without(runs)),
    )


def _change(cells: Cells, task: str, runs: Sequence[Record]) -> heatmap.HeatMap:
    moved = movement([run.changes for run in runs])
    wanted = max(len(cells.seeds), len(runs))
    count = f"{len(runs)} of {wanted} seeds" if len(runs) < wanted else f"{wanted} seed{'s' * (wanted > 1)}"
    return change_map(f"{cells.title(task)} ({count})", moved)


def change_map(title: str, moved: Movement) -> heatmap.HeatMap:
    """How far the components of the layers moved, a row each."""
    found = {spot: cell.mean for spot, cell in moved.cells.items()}
    values = tuple(tuple(found.get((name, layer)) for layer in moved.layers) for name in moved.inside)
    layers, unit = tuple(map(str, moved.layers)), MEASURES[moved.measure]
    return heatmap.HeatMap(title, moved.inside, layers, values, unit, row_name="component", column_name="layer")


def figure3(cells: Cells) -> Drawing:
    """Sums of the Fisher information of the closing norm, by layer and task; weight and bias apart."""
    columns = _sums(cells)
    every = [value for sums in columns.values() for value in sums.values() if value > 0]
    # Sums of tasks differ by orders of magnitude, as a regression's and a classification's do: on a linear scale only
    # one column would show colours.
    log = bool(every) and max(every) / min(every) > 100
    return Drawing(
        "figure3",
        "Figure 3. Fisher information of LayerNorm.",
        f"Sum over the entries of a layer’s {cells.closing}, before training; weight and bias apart, with one range of"
        f" colours for both{', which is logarithmic: tasks differ by orders of magnitude' if log else ''}."
        " The last layer is on top.",
        *_fisher(cells, columns, "sum of Fisher information", log),
    )


def figure4(cells: Cells) -> Drawing:
    """The same with each task divided by its own sum, and the mean over tasks: the global information."""
    columns: dict[str, Sums] = {
        task: {spot: value / whole for spot, value in sums.items()}
        for task, sums in _sums(cells).items()
        if (whole := sum(sums.values()))
    }
    if columns:
        spots = next(iter(columns.values()))
        columns["mean"] = {spot: mean(sums[spot] for sums in columns.values()) for spot in spots}
    return Drawing(
        "figure4",
        "Figure 4. Fisher information of LayerNorm, each task divided by its own sum.",
        "Weight and bias apart, with one range of colours for both. The column “mean” is the global information: the"
        " sum over tasks, divided by their number so that it shares the range of colours.",
        *_fisher(cells, columns, "share of the task’s information", False),
    )


def _sums(cells: Cells) -> dict[str, Sums]:
    return {task: sums for task, each in cells.fisher.items() if (sums := cells.layer_sums(each))}


def _fisher(
    cells: Cells, columns: Mapping[str, Sums], unit: str, log: bool
) -> tuple[tuple[heatmap.HeatMap, ...], tuple[str, ...]]:
    """A map of the weights and one of the biases, where there are any, with one range of colours; and the notes."""
    layers = sorted({layer for sums in columns.values() for layer, _ in sums}, reverse=True)
    every = [value for sums in columns.values() for value in sums.values() if value > 0 or not log]
    rows, names = tuple(map(str, layers)), tuple(map(cells.title, columns))
    maps = []
    for sub in sorted({sub for sums in columns.values() for _, sub in sums}, reverse=True):
        values = tuple(tuple(sums.get((layer, sub)) for sums in columns.values()) for layer in layers)
        span = min(every), max(every)
        maps.append(heatmap.HeatMap(sub, rows, names, values, unit, column_name="task", span=span, log=log))
    missing = remark("Not measured", cells.without(cells.fisher))
    return tuple(maps), (*filter(None, [cells.no_bias]), *missing)


def figure2(cells: Cells) -> Drawing:
    """Dev score against the fraction of LayerNorm by individual masks, beside random and least-Fisher ones."""
    kinds = [kind for kind in cells.masks() if not kind.endswith(_SHARED)]
    return Drawing(
        "figure2",
        "Figure 2. Dev score against the trained fraction of LayerNorm.",
        "Masks of the entries with the most Fisher information on the task itself; f = 0 is the head alone, f = 1 the"
        " whole LayerNorm. The band is one standard deviation over seeds; hollow points lack seeds.",
        *_mask_curves(cells, _with("fisher-individual", "random", "least-fisher-individual", others=kinds)),
    )


def figure5(cells: Cells) -> Drawing:
    """Dev score against the fraction of LayerNorm by individual, global and leave-one-out masks."""
    kinds = [kind for kind in cells.masks() if kind.endswith(("-individual", *_SHARED))]
    return Drawing(
        "figure5",
        "Figure 5. Individual, global and leave-one-out masks.",
        "Masks of the entries with the most Fisher information on the task itself (individual), on all tasks (global),"
        " or on all other tasks (leave-one-out, the paper’s CV). The ends are shared: f = 0 is the head alone, f = 1"
        " the whole LayerNorm.",
        *_mask_curves(cells, _with("fisher-individual", *(f"fisher-{scope}" for scope in _SHARED), others=kinds)),
    )


def _with(*kinds: str, others: Iterable[str]) -> dict[str, Style]:
    """How masks are drawn: the paper's kinds first, then others that were trained, by their own names."""
    new = [kind for kind in dict.fromkeys(others) if kind not in STYLES]
    own = {kind: Style(kind, *_OTHERS[place % len(_OTHERS)]) for place, kind in enumerate(new)}
    return {kind: STYLES[kind] for kind in kinds} | own


def _mask_curves(cells: Cells, styles: Mapping[str, Style]) -> tuple[tuple[Curves, ...], tuple[str, ...]]:
    """A panel a task, and what is missing."""
    masks = cells.masks()
    panels = [_curves(cells, column, styles) for column in cells.ran if styles.keys() & masks.keys()]
    absent = [style.name for kind, style in styles.items() if kind not in masks]
    found = sorted({x for kind in styles for x in masks.get(kind, {})})
    notes = [f"No masks trained yet: {', '.join(absent)}."] if absent else []
    if found and {*FRACTIONS} - {*found}:
        notes.append(f"Trained here at f = {', '.join(f'{x:g}' for x in found)}; the paper’s others are missing.")
    return tuple(panel for panel in panels if any(map(points, panel.series.values()))), tuple(notes)


def _curves(cells: Cells, column: Column, styles: Mapping[str, Style]) -> Curves:
    masks = cells.masks()
    series = {
        style: {x: cells.cell(method, column) for x, method in masks.get(kind, {}).items()}
        for kind, style in styles.items()
    }
    lacking = sum(len({*cell.wanted} - cell.values.keys()) for each in series.values() for cell in each.values())
    note = f"{lacking} mask run{'s' * (lacking > 1)} missing" if lacking else ""
    ends = {0.0: cells.cell("head", column), 1.0: cells.cell("layernorm", column)}
    return Curves(column.title, {**series, ENDS: ends}, note)


def ablations(cells: Cells) -> Drawing:
    """The models' loss in score against the entries switched off."""
    return Drawing(
        "switched-off",
        "Loss against how much is switched off.",
        "Dimensions of norms, those with the largest weights first, against as many random ones: the band is the range"
        " of the draws, the dashed line their mean. Diamonds are whole parts, with the range of random entries.",
        tuple(map(ablation.Ablation, cells.results.ablations)),
    )
