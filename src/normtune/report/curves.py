"""Curves: a score against the trained fraction of LayerNorm, a panel a task; the values, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from normtune.records.aggregate import Cell
from normtune.report.drawing import MOST, SHEET, SOFT, STYLE, WIDTH, Mark, across, grid, laid_out
from normtune.report.table import says, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.1  # inches of a panel


@dataclass(frozen=True)
class Look:
    """How a series is drawn; colours keep apart for colour-blind eyes (Okabe and Ito), markers without any colour.

    Attributes:
        name: What it is called in the legend.
        colour: Its colour on white.
        dark: Its colour on black.
        marker: Its marker, as matplotlib calls it.
        line: Whether its points are joined, with a band of one standard deviation around them.
    """

    name: str
    colour: str
    dark: str
    marker: str
    line: bool = True


@dataclass(frozen=True)
class Series:
    """Cells of one kind.

    Attributes:
        look: How they are drawn.
        cells: By the fraction of LayerNorm; those without runs are left out.
    """

    look: Look
    cells: Mapping[float, Cell]

    @cached_property
    def points(self) -> dict[float, tuple[float, float]]:
        """By the fraction, from the left, the mean and its standard deviation over seeds, as percents."""
        known = {x: cell for x, cell in sorted(self.cells.items()) if cell.mean is not None}
        return {x: (100 * (cell.mean or 0.0), 100 * (cell.spread or 0.0)) for x, cell in known.items()}


@dataclass(frozen=True)
class Curves:
    """One panel.

    Attributes:
        title: What is shown.
        series: The series; those without points are in the legend only. The last one is the head alone and the whole
            LayerNorm, which the lines join.
        note: What is missing, if anything.
    """

    title: str
    series: tuple[Series, ...]
    note: str = ""

    @property
    def marks(self) -> list[list[Mark]]:
        """For each series, what its points say: every series at that place, as they often lie on each other."""
        return [[(self._says(x, each), score(each.cells[x]).link) for x in each.points] for each in self.series]

    def _says(self, x: float, series: Series) -> str:
        here = {each.look.name: each.points[x] for each in self.series if x in each.points}
        values = [f"{name}: {mean:.2f}" + f" ± {spread:.2f}" * bool(spread) for name, (mean, spread) in here.items()]
        return "\n".join([f"f = {x:g}", *values, says(series.cells[x])])


def figure(panels: Sequence[Curves]) -> Figure:
    """The panels with one legend; the markers of a series are a group called ``mark-PANEL-SERIES``."""
    import matplotlib as mpl

    wide = across(len(panels))
    size = WIDTH * min(1, wide / (MOST - 1)), _HEIGHT * math.ceil(len(panels) / wide) + 0.35
    with mpl.rc_context(STYLE):
        drawn, axes = grid(len(panels), wide, size)
        for number, (place, panel) in enumerate(zip(axes, panels, strict=True)):
            _panel(place, panel, number)
        looks = dict.fromkeys(each.look for panel in panels for each in panel.series)
        drawn.supxlabel("fraction f of LayerNorm", fontsize=8, color=SOFT)
        drawn.supylabel("score × 100", fontsize=8, color=SOFT)
        drawn.legend(handles=[*map(_handle, looks)], loc="outside upper left", ncols=2 * wide)
        return laid_out(drawn)


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, ls="-" if look.line else "", ms=5, label=look.name)


def _panel(axes: Axes, panel: Curves, number: int) -> None:
    for place, each in enumerate(panel.series):
        if each.points:
            _series(axes, each, panel.series[-1].points if each.look.line else {}, f"mark-{number}-{place}")
    axes.set_title(panel.title)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks(ticks := [0, 0.2, 0.4, 0.6, 0.8, 1], map("{:g}".format, ticks))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if panel.note:
        axes.text(0.98, 0.03, panel.note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=SOFT)


def _series(axes: Axes, series: Series, ends: Mapping[float, tuple[float, float]], name: str) -> None:
    """Draw the points, and a line and a band through them and the ends, or a bar a point."""
    colour = series.look.colour
    line = dict(sorted({**series.points, **ends}.items())) if series.look.line else series.points
    xs, (means, spreads) = [*line], zip(*line.values(), strict=True)
    if series.look.line:
        axes.plot(xs, means, color=colour, lw=1.3)
        low, high = ([mean + sign * spread for mean, spread in line.values()] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0)
    else:
        axes.errorbar(xs, means, spreads, fmt="none", ecolor=colour, elinewidth=1)
    dots = axes.scatter(
        [*series.points], [mean for mean, _ in series.points.values()], s=22, marker=series.look.marker,
        c=[colour if series.cells[x].complete else SHEET for x in series.points], edgecolors=colour, linewidths=1,
        zorder=3, clip_on=False,
    )  # fmt: skip
    dots.set_gid(name)
