"""Named points: a score against its cost, a panel a task; the values, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normtune.report.curves import Style
from normtune.report.drawing import INK, SHEET, SOFT, STYLE, WIDTH, grid, laid_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_HEIGHT = 2.9  # inches of a panel
_POINTS = 7.5  # size of a name's letters
#: Directions of a name from its point, in degrees, the best first, and distances in pixels.
_TURNS = (0, 180, 90, 270, 20, 340, 160, 200, 45, 315, 135, 225, 70, 290, 110, 250)
_REACH = (9, 12, 16, 22, 30, 40, 52, 66, 82, 100, 120, 145)
_LONG = 12  # from this distance on a line leads from the point to its name


@dataclass(frozen=True)
class Dot:
    """A named point.

    Attributes:
        name: Its name.
        style: How it is drawn.
        score: Its height.
        half: Half the length of its error bar.
        complete: Whether it is drawn filled.
        tip: The end of its tooltip.
        strong: Whether its name is bold.
    """

    name: str
    style: Style
    score: float
    half: float
    complete: bool
    tip: str
    strong: bool = False


@dataclass(frozen=True)
class Scatter:
    """One panel.

    Attributes:
        title: What is shown.
        unit: What the x axis shows.
        dots: The points, each with its x value.
        line: What is drawn as a horizontal line, if anything.
        log: Whether the x axis is logarithmic.
    """

    title: str
    unit: str
    dots: tuple[tuple[Dot, float], ...]
    line: Dot | None = None
    log: bool = False

    @property
    def marks(self) -> list[list[str]]:
        """The tooltip of each point."""
        return [[f"{dot.name}: {dot.score:.2f}\n{x:,.0f} {self.unit}\n{dot.tip}"] for dot, x in self.dots]

    @property
    def flat(self) -> list[tuple[object, ...]]:
        """The points as rows, below a header."""
        header = ("panel", "against", "method", "place", "score", "half interval", "complete")
        rows = [(self.title, self.unit, d.name, x, d.score, d.half, d.complete) for d, x in self.dots]
        return [header, *rows]


def figure(panels: Sequence[Scatter], wide: int = 2) -> Figure:
    """The panels, `wide` in a row, with one legend; the mark of a point is a group called ``mark-PANEL-POINT``."""
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    with mpl.rc_context(STYLE):
        drawn, axes = grid(len(panels), wide, (WIDTH, _HEIGHT * math.ceil(len(panels) / wide) + 0.35))
        for number, (place, panel) in enumerate(zip(axes, panels, strict=True)):
            _panel(place, panel, number)
        styles = dict.fromkeys(dot.style for panel in panels for dot, _ in panel.dots)
        handles = [Line2D([], [], color=own.colour, marker=own.marker, ls="", ms=5, label=own.name) for own in styles]
        drawn.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        drawn.supylabel("score × 100", fontsize=8, color=SOFT)
        laid_out(drawn)
        for place, panel in zip(axes, panels, strict=True):
            name(place, panel.dots)
        return drawn


def _panel(axes: Axes, panel: Scatter, number: int) -> None:
    from matplotlib.ticker import EngFormatter

    for place, (dot, x) in enumerate(panel.dots):
        colour = dot.style.colour
        if dot.half:
            axes.errorbar(x, dot.score, dot.half, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.55)
        mark = axes.scatter(
            [x], [dot.score], s=60 if dot.strong else 26, marker=dot.style.marker, zorder=3,
            c=[colour if dot.complete else SHEET], edgecolors=colour, linewidths=1,
        )  # fmt: skip
        mark.set_gid(f"mark-{number}-{place}")
    if panel.log:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k, 1M
    xs = [x for _, x in panel.dots]
    low, high = min(xs), max(xs)
    axes.set_xlim((low / 10, high * 4) if panel.log else (0, 1.15 * high))
    _heights(axes, panel)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.unit)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _heights(axes: Axes, panel: Scatter) -> None:
    """Give the points room above and below, and draw the line; where it lies far below them, say so at the bottom."""
    lows, highs = zip(*((dot.score - dot.half, dot.score + dot.half) for dot, _ in panel.dots), strict=True)
    low, high = min(lows), min(max(highs), 100.0)  # no metric exceeds 100, however long a bar is
    room = max(high - low, 1.0)
    line = panel.line
    if line is not None and line.score > low - room:
        low, high = min(low, line.score), max(high, line.score)
        axes.axhline(line.score, color=SOFT, lw=0.9, ls=(0, (4, 3)))
        where, text = line.score, line.name
    elif line is not None:
        where, text = low - 0.12 * room, f"{line.name}: {line.score:.1f}, below"
    axes.set_ylim(low - 0.14 * room, high + 0.14 * room)
    if line is not None:
        axes.annotate(
            text, (0, where), (3, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=_POINTS - 0.5, color=SOFT, va="bottom",
        )  # fmt: skip


def name(axes: Axes, dots: Sequence[tuple[Dot, float]]) -> None:
    """Write each point's name beside it, where it covers no point, no bar and no other name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure = axes.get_figure()
    assert figure is not None
    canvas: Any = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    renderer = canvas.get_renderer()
    centres = [tuple(map(float, axes.transData.transform((x, dot.score)))) for dot, x in dots]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centres]
    for dot, x in dots:
        if dot.half:
            (left, low), (_, high) = axes.transData.transform([(x, dot.score - dot.half), (x, dot.score + dot.half)])
            taken.append(Bbox.from_bounds(left - 1, low, 2, high - low))
    inside = axes.get_window_extent(renderer)
    label: Any
    for label in axes.texts:  # the line's, moved to the right end if it covers a point
        if any(_overlap(box, label.get_window_extent(renderer)) for box in taken):
            label.xy, label.xyann = (1, label.xy[1]), (-3, 2)
            label.set_ha("right")
        taken.append(label.get_window_extent(renderer).padded(1))
    line: Any
    for line in axes.lines:
        if len({*line.get_ydata()}) == 1:  # a horizontal line
            height = float(axes.transData.transform((1, line.get_ydata()[0]))[1])
            taken.append(Bbox.from_bounds(inside.x0, height - 1, inside.width, 2))
    pixels = 72 / figure.dpi
    crowd = [sum(math.dist(one, other) < 60 for other in centres) for one in centres]
    for number in sorted(range(len(centres)), key=lambda number: (not dots[number][0].strong, -crowd[number])):
        dot, x = dots[number]
        text: Any = axes.annotate(
            dot.name, (x, dot.score), (0, 0), textcoords="offset points", fontsize=_POINTS, color=INK,
            ha="center", va="center", weight="bold" if dot.strong else "normal", zorder=4,
            arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5, "shrinkA": 0, "shrinkB": 3, "zorder": 2},
        )  # fmt: skip
        own = Text.get_window_extent(text, renderer).padded(1.5)
        others = [centre for place, centre in enumerate(centres) if place != number]
        box, far = _free(centres[number], own.width, own.height, taken, inside, others)
        text.set_position(tuple((box.get_points().mean(0) - centres[number]) * pixels))
        text.arrow_patch.set_visible(far >= _LONG)
        taken.append(box)


def _free(
    centre: Sequence[float],
    width: float,
    height: float,
    taken: Sequence[Bbox],
    inside: Bbox,
    others: Sequence[Sequence[float]],
) -> tuple[Bbox, float]:
    """The nearest place for a name of this size that covers least, and its distance from the point.

    Of free places, one that is nearest to its own point comes first, so that it does not seem to name one of `others`.
    """
    from matplotlib.transforms import Bbox

    def covered(place: tuple[Bbox, float]) -> int:
        box, _ = place
        return round(sum(_overlap(box, other) for other in taken) + width * height - _overlap(box, inside))

    def clear(place: tuple[Bbox, float]) -> bool:
        box, _ = place
        return all(_away(box, other) >= _away(box, centre) for other in others)

    places = []
    for far in _REACH:
        for turn in map(math.radians, _TURNS):
            x = centre[0] + math.cos(turn) * (far + width / 2) - width / 2
            y = centre[1] + math.sin(turn) * (far + height / 2) - height / 2
            places.append((Bbox.from_bounds(x, y, width, height), far))
    free = [place for place in places if not covered(place)] or [min(places, key=covered)]
    return next(filter(clear, free), free[0])


def _away(box: Bbox, point: Sequence[float]) -> float:
    """How far a point lies from a box."""
    return math.hypot(max(box.x0 - point[0], 0, point[0] - box.x1), max(box.y0 - point[1], 0, point[1] - box.y1))


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    up = min(one.y1, other.y1) - max(one.y0, other.y0)
    return across * up if across > 0 and up > 0 else 0.0
