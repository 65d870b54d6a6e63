"""Curves: a score against the trained fraction of LayerNorm, a panel a task; the values, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normtune.records.aggregate import Cell
from normtune.report.drawing import MOST, SHEET, SOFT, STYLE, WIDTH, across, grid, laid_out
from normtune.report.table import says

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.1  # inches of a panel


@dataclass(frozen=True)
class Style:
    """How a series is drawn: in a colour visible on white and on black, with a marker to tell it without colours.

    Attributes:
        name: What it is called in the legend.
        colour: Its colour.
        marker: Its marker, as matplotlib calls it.
        line: Whether its points are joined, with a band of one standard deviation around them.
    """

    name: str
    colour: str
    marker: str
    line: bool = True


#: A series: a cell for each fraction of LayerNorm; a cell may have no runs.
Series = Mapping[float, Cell]


def points(series: Series) -> dict[float, tuple[float, float]]:
    """The mean and the standard deviation over seeds, in percent, by fraction, ascending."""
    known = {x: cell for x, cell in sorted(series.items()) if cell.mean is not None}
    return {x: (100 * (cell.mean or 0.0), 100 * (cell.spread or 0.0)) for x, cell in known.items()}


@dataclass(frozen=True)
class Curves:
    """One panel.

    Attributes:
        title: What is shown.
        series: The series by style; one without points is in the legend only. The last one is the head alone and the
            whole LayerNorm, to which the lines extend.
        note: What is missing, if anything.
    """

    title: str
    series: Mapping[Style, Series]
    note: str = ""

    @property
    def marks(self) -> list[list[str]]:
        """The tooltips of each series' points, with all series at that fraction, as points often overlap."""
        drawn = {style: points(series) for style, series in self.series.items()}

        def said(x: float, cell: Cell) -> str:
            here = {style.name: own[x] for style, own in drawn.items() if x in own}
            values = [
                f"{name}: {mean:.2f}" + f" ± {spread:.2f}" * bool(spread) for name, (mean, spread) in here.items()
            ]
            return "\n".join([f"f = {x:g}", *values, says(cell)])

        return [[said(x, own[x]) for x in drawn[style]] for style, own in self.series.items()]

    @property
    def flat(self) -> list[tuple[object, ...]]:
        """The points as rows, below a header."""
        header = ("panel", "masks", "fraction", "score", "sd", "complete")
        rows = [
            (self.title, style.name, x, *point, series[x].complete)
            for style, series in self.series.items()
            for x, point in points(series).items()
        ]
        return [header, *rows]


def figure(panels: Sequence[Curves]) -> Figure:
    """The panels with one legend; the markers of a series are a group called ``mark-PANEL-SERIES``."""
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    wide = across(len(panels))
    size = WIDTH * min(1, wide / (MOST - 1)), _HEIGHT * math.ceil(len(panels) / wide) + 0.35
    with mpl.rc_context(STYLE):
        drawn, axes = grid(len(panels), wide, size)
        for number, (place, panel) in enumerate(zip(axes, panels, strict=True)):
            _panel(place, panel, number)
        styles = dict.fromkeys(style for panel in panels for style in panel.series)
        drawn.supxlabel("fraction f of LayerNorm", fontsize=8, color=SOFT)
        drawn.supylabel("score × 100", fontsize=8, color=SOFT)
        handles = [
            Line2D([], [], color=own.colour, marker=own.marker, ls="-" if own.line else "", ms=5, label=own.name)
            for own in styles
        ]
        drawn.legend(handles=handles, loc="outside upper left", ncols=2 * wide)
        return laid_out(drawn)


def _panel(axes: Axes, panel: Curves, number: int) -> None:
    ends = points([*panel.series.values()][-1])
    for place, (style, series) in enumerate(panel.series.items()):
        if own := points(series):
            # A series is a line with a band, extended to the ends, or error bars; its points are drawn on top.
            line = dict(sorted({**own, **ends}.items())) if style.line else own
            xs, (means, spreads) = [*line], zip(*line.values(), strict=True)
            if style.line:
                axes.plot(xs, means, color=style.colour, lw=1.3)
                low, high = ([mean + sign * spread for mean, spread in line.values()] for sign in (-1, 1))
                axes.fill_between(xs, low, high, color=style.colour, alpha=0.15, lw=0)
            else:
                axes.errorbar(xs, means, spreads, fmt="none", ecolor=style.colour, elinewidth=1)
            dots = axes.scatter(
                [*own], [mean for mean, _ in own.values()], s=22, marker=style.marker,
                c=[style.colour if series[x].complete else SHEET for x in own], edgecolors=style.colour, linewidths=1,
                zorder=3, clip_on=False,
            )  # fmt: skip
            dots.set_gid(f"mark-{number}-{place}")
    axes.set_title(panel.title)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks(ticks := [0, 0.2, 0.4, 0.6, 0.8, 1], map("{:g}".format, ticks))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if panel.note:
        axes.text(0.98, 0.03, panel.note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=SOFT)
