"""Ablations: the loss in score against the entries switched off, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, ClassVar

from normtune.records.ablation import AblationRecord
from normtune.report.curves import Style
from normtune.report.drawing import SOFT, STYLE, WIDTH, grid, laid_out
from normtune.report.scatter import Dot, name
from normtune.report.table import GAP, Entry, Table, group, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How points are drawn: dimensions, by what they were ranked over, and whole parts (None).
_STYLES = {
    "model": Style("dimensions with the largest weights, the same in every layer", "#1f77b4", "o"),
    "layer": Style("dimensions with the largest weights of each layer", "#d95f02", "s"),
    None: Style("whole parts", SOFT, "D", line=False),
}


@dataclass(frozen=True)
class Ablation:
    """One panel: a line for each ranking of dimensions and a mark for each part, with the range of the random draws."""

    record: AblationRecord
    marks: ClassVar[list[list[str]]] = []

    @property
    def flat(self) -> list[tuple[object, ...]]:
        """The points as rows, below a header; losses are in the metric's own units."""
        record, model = self.record, model_name(self.record.config.model)
        header = ("model", "task", "metric", "off", "per", "entries", "loss", "draw")
        rows = [
            (model, record.config.task, record.primary, point.name, point.per or "", point.entries, lost, draw)
            for point in record.points
            for draw, lost in enumerate(map(record.loss, (point.scores, *point.random)))
        ]
        return [header, *rows]


def figure(panels: Sequence[Ablation]) -> Figure:
    """The panels, two in a row, with one legend."""
    import matplotlib as mpl
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    wide, points = min(2, len(panels)), [point for panel in panels for point in panel.record.points]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=style.colour, marker=style.marker, ms=5, lw=1.3 * style.line, label=style.name)
        for per, style in _STYLES.items()
        if per in {point.per for point in points}
    ]
    if any(point.random for point in points):
        label = "as many at random: all draws, and their mean (dashed)"
        handles.append(Patch(color=SOFT, alpha=0.3, lw=0, label=label))
    with mpl.rc_context(STYLE):
        drawn, axes = grid(len(panels), wide, (WIDTH * 0.56 * wide, 3.4 * math.ceil(len(panels) / wide)))
        named = [_panel(place, panel.record) for place, panel in zip(axes, panels, strict=True)]
        drawn.legend(handles=handles, loc="outside upper left", ncols=2)
        laid_out(drawn)
        for place, dots in zip(axes, named, strict=True):
            name(place, dots)
        return drawn


def _panel(axes: Axes, record: AblationRecord) -> list[tuple[Dot, float]]:
    """Draw a panel; returns its parts, whose names are still to be written."""
    from matplotlib.ticker import LogLocator

    parts = []
    for per, style in _STYLES.items():
        points = sorted((point for point in record.points if point.per == per), key=lambda point: point.entries)
        sizes = [point.entries for point in points]
        lost = [record.shown * record.loss(point.scores) for point in points]
        drawn = [[record.shown * record.loss(scores) for scores in point.random] or [math.nan] for point in points]
        low, high = [min(own) for own in drawn], [max(own) for own in drawn]
        if per is None:
            axes.scatter(sizes, lost, color=style.colour, marker=style.marker, s=25, zorder=3)
            axes.vlines(sizes, low, high, color=SOFT, lw=3, alpha=0.4)
            named = zip(points, lost, sizes, strict=True)
            parts = [(Dot(point.name, style, at, 0.0, True, ""), float(size)) for point, at, size in named]
        elif points:
            axes.plot(sizes, lost, color=style.colour, marker=style.marker, ms=5, lw=1.3, zorder=3)
            axes.fill_between(sizes, low, high, color=style.colour, alpha=0.2, lw=0)
            axes.plot(sizes, [mean(own) for own in drawn], color=style.colour, lw=1, ls="--")
    axes.set(xscale="log", xlabel="entries switched off", ylabel=f"loss of {_metric(record)}")
    sizes = [point.entries for point in record.points]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 100 * min(sizes) else (1,)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_title(f"{model_name(record.config.model)}, {record.config.task} dev")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    return parts


def table(records: Sequence[AblationRecord]) -> Table:
    """Each model's score without some of its parts, the loss, and the loss without random ones instead."""
    groups = []
    for record in records:
        assert record.dense is not None
        whole = f"{record.shown * record.dense[record.primary]:.2f} as it is"
        rows = []
        for point in record.points:
            lost = [record.shown * record.loss(scores) for scores in point.random]
            spread = _two(stdev(lost)) if len(lost) > 1 else ""
            random = (Entry(_two(mean(lost)), spread), _two(max(lost))) if lost else (GAP, GAP)
            own = record.shown * point.scores[record.primary], record.shown * record.loss(point.scores)
            rows.append((point.name, f"{point.entries:,}", *map(_two, own), *random))
        name = f"{model_name(record.config.model)}, {record.config.task} dev, {_metric(record)}: {whole}"
        draws = f"random ones: {record.config.draws} draws of as many dimensions or entries"
        groups.append(group(rows, f"{name}; {draws}"))
    return Table(
        "ablations",
        "Loss in score when parts are switched off.",
        ("switched off", "entries", "score", "loss", "random loss", "largest of these"),
        tuple(groups),
        "Dimensions of a norm are switched off by a weight and bias of zero, those with the largest weights first; in a"
        " whole part every entry becomes zero, except a norm’s weight, which becomes one. Random losses are mean ±"
        " standard deviation over the draws.",
    )


def _two(value: float) -> str:
    """A number with two decimals, never -0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def _metric(record: AblationRecord) -> str:
    return record.primary if record.shown == 1 else f"{record.primary} × {record.shown}"
