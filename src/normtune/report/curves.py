"""Curves: a score against the trained fraction of LayerNorm, a panel a task; the values, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normtune.report.drawing import MOST, SHEET, SOFT, STYLE, WIDTH, Mark, across, laid_out

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
class Point:
    """One point.

    Attributes:
        x: Where it is.
        y: Its value.
        spread: Its standard deviation over seeds, or None with one seed.
        complete: Whether no seed is missing.
        tip: What a pointer over it shows.
        link: Where its runs are listed.
        marked: Whether it has a marker of its own, rather than being drawn by another series.
    """

    x: float
    y: float
    spread: float | None = None
    complete: bool = True
    tip: str = ""
    link: str = ""
    marked: bool = True


@dataclass(frozen=True)
class Series:
    """Points of one kind, from the left."""

    look: Look
    points: tuple[Point, ...]

    @property
    def marked(self) -> tuple[Point, ...]:
        """The points with a marker."""
        return tuple(point for point in self.points if point.marked)


@dataclass(frozen=True)
class Curves:
    """One panel.

    Attributes:
        title: What is shown.
        series: The series; those without points are in the legend only.
        x_name: What is to the right.
        y_name: What is up.
        note: What is missing, if anything.
    """

    title: str
    series: tuple[Series, ...]
    x_name: str = "fraction f of LayerNorm"
    y_name: str = "score × 100"
    note: str = ""

    @property
    def marks(self) -> list[list[Mark]]:
        """For each series, what its points say: every series at that place, as they often lie on each other."""
        return [[Mark(self._says(point), point.link) for point in each.marked] for each in self.series]

    def _says(self, point: Point) -> str:
        rows = [f"f = {point.x:g}"]
        for each in self.series:
            for other in each.marked:
                if other.x == point.x:
                    spread = "" if other.spread is None else f" ± {other.spread:.2f}"
                    rows.append(f"{each.look.name if 0 < other.x < 1 else 'score'}: {other.y:.2f}{spread}")
        return "\n".join([*rows, point.tip])


def figure(panels: Sequence[Curves]) -> Figure:
    """The panels side by side, with one legend.

    Args:
        panels: The panels.

    Returns:
        The figure, which belongs to no window. The markers of a series are a group called ``mark-PANEL-SERIES``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    wide = across(len(panels))
    high = math.ceil(len(panels) / wide)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(WIDTH * min(1, wide / (MOST - 1)), _HEIGHT * high + 0.35), layout="constrained")
        drawn.get_layout_engine().set(h_pad=0.06)  # type: ignore[union-attr, call-arg]
        axes = [*drawn.subplots(high, wide, squeeze=False).flat]
        for number, (place, panel) in enumerate(zip(axes, panels, strict=False)):
            _panel(place, panel, number)
        for place in axes[len(panels) :]:
            place.remove()
        looks = list(dict.fromkeys(each.look for panel in panels for each in panel.series))
        drawn.supxlabel(panels[0].x_name, fontsize=8, color=SOFT)
        drawn.supylabel(panels[0].y_name, fontsize=8, color=SOFT)
        drawn.legend(handles=[_handle(look) for look in looks], loc="outside upper left", ncols=2 * wide)
        return laid_out(drawn)


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, ls="-" if look.line else "", ms=5, label=look.name)


def _panel(axes: Axes, panel: Curves, number: int) -> None:
    for place, each in enumerate(panel.series):
        if each.points:
            _series(axes, each, f"mark-{number}-{place}")
    axes.set_title(panel.title)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if panel.note:
        axes.text(0.98, 0.03, panel.note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=SOFT)


def _series(axes: Axes, series: Series, name: str) -> None:
    colour, points = series.look.colour, series.points
    if series.look.line:
        xs, ys = [point.x for point in points], [point.y for point in points]
        axes.plot(xs, ys, color=colour, lw=1.3)
        low, high = ([point.y + sign * (point.spread or 0) for point in points] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0)
    marked = series.marked
    xs, ys = [point.x for point in marked], [point.y for point in marked]
    if not series.look.line:
        axes.errorbar(xs, ys, [point.spread or 0 for point in marked], fmt="none", ecolor=colour, elinewidth=1)
    faces = [colour if point.complete else SHEET for point in marked]
    dots = axes.scatter(
        xs, ys, s=22, marker=series.look.marker, c=faces, edgecolors=colour, linewidths=1, zorder=3, clip_on=False
    )
    dots.set_gid(name)
