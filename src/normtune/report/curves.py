"""Curves: a score against the trained fraction of LayerNorm, a panel a task; the values, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of every figure in a file.
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "figure.titlesize": 10,
    "svg.hashsalt": "normtune",
    "pdf.fonttype": 42,
}
_WIDTH, _HEIGHT = 2.35, 2.0  # inches of a panel


@dataclass(frozen=True)
class Look:
    """How a series is drawn; colours keep apart for colour-blind eyes (Okabe and Ito), markers without any colour.

    Attributes:
        name: What it is called in the legend.
        colour: Its colour on white.
        dark: Its colour on black.
        marker: ``circle``, ``square``, ``diamond`` or ``triangle``.
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

    @cached_property
    def y_ticks(self) -> tuple[float, ...]:
        """Round values that hold every point and its spread between the first and the last."""
        lows = [point.y - (point.spread or 0.0) for each in self.series for point in each.points]
        highs = [point.y + (point.spread or 0.0) for each in self.series for point in each.points]
        return ticks(min(lows), max(highs)) if lows else ()


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """At most `most` round values, the first at most `low` and the last at least `high`."""
    span = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    last = max(last, first + 1)
    return tuple(round(place * step, 10) for place in range(first, last + 1))


def figure(panels: Sequence[Curves], *, across: int = 4) -> Figure:
    """The panels side by side, with one legend.

    Args:
        panels: The panels.
        across: How many stand in a row.

    Returns:
        The figure, which belongs to no window.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    wide = min(across, len(panels))
    high = math.ceil(len(panels) / wide)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(_WIDTH * wide, _HEIGHT * high + 0.35), layout="constrained")
        axes = [*drawn.subplots(high, wide, squeeze=False).flat]
        for place, panel in zip(axes, panels, strict=False):
            _panel(place, panel)
        for place in axes[len(panels) :]:
            place.remove()
        looks = list(dict.fromkeys(each.look for panel in panels for each in panel.series))
        drawn.supxlabel(panels[0].x_name, fontsize=8)
        drawn.supylabel(panels[0].y_name, fontsize=8)
        drawn.legend(
            handles=[_handle(look) for look in looks],
            loc="outside upper center",
            ncols=min(len(looks), 2 * wide + 1),
            frameon=False,
        )
    return drawn


_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "cross": "X"}


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=look.colour, marker=_MARKERS[look.marker], ls="-" if look.line else "", ms=4, label=look.name
    )


def _panel(axes: Axes, panel: Curves) -> None:
    for each in panel.series:
        colour, points = each.look.colour, each.points
        xs, ys = [point.x for point in points], [point.y for point in points]
        if each.look.line:
            axes.plot(xs, ys, color=colour, lw=1.2)
            if any(point.spread for point in points):
                low = [point.y - (point.spread or 0) for point in points]
                high = [point.y + (point.spread or 0) for point in points]
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0)
        for point in filter(lambda point: point.marked, points):
            bar = None if each.look.line else point.spread
            face = colour if point.complete else "white"
            axes.errorbar(
                point.x,
                point.y,
                bar,
                fmt=_MARKERS[each.look.marker],
                ms=4,
                color=colour,
                mfc=face,
                capsize=2,
                lw=1,
                clip_on=False,
            )
    axes.set_title(panel.title, parse_math=False)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    if panel.y_ticks:
        axes.set_yticks(panel.y_ticks)
        axes.set_ylim(panel.y_ticks[0], panel.y_ticks[-1])
        axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.note:
        axes.text(0.98, 0.03, panel.note, transform=axes.transAxes, ha="right", va="bottom", fontsize=6.5, color="0.4")
