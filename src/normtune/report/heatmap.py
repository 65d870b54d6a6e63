"""Heat maps: the plain values, and their drawing with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from normtune.report.drawing import HOLE, SHEET, STYLE, WIDTH, grid, laid_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_CELL = (0.29, 0.24)  # inches, for up to _MANY rows or columns; more share the same space
_MANY, _WORD = 14, 6  # column names of up to _WORD letters are horizontal, longer ones vertical
_LETTER = 0.072  # inches


@dataclass(frozen=True)
class HeatMap:
    """Values by row and column.

    Attributes:
        title: What is shown.
        rows: Names of the rows, from the top.
        columns: Names of the columns, from the left.
        values: The values of each row; None where there is none.
        unit: What the values are.
        row_name: What a row is.
        column_name: What a column is.
        span: The range of colours that it shares with other maps; None takes that of its own values.
        log: Whether the colour scale is logarithmic.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    row_name: str = "layer"
    column_name: str = "component"
    span: tuple[float, float] | None = None
    log: bool = False

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The range of colours: the shared one, or the smallest and the largest value; zeros where there is none."""
        known = [value for row in self.values for value in row if value is not None and math.isfinite(value)]
        return self.span or ((min(known), max(known)) if known else (0.0, 0.0))

    @property
    def marks(self) -> list[list[str]]:
        """The tooltip of each cell, row by row."""
        at = f"{self.title}: {self.row_name} {{}}, {self.column_name} {{}}\n{{}}"
        cells = ((row, column, "none" if value is None else f"{value:.3g}") for _, row, column, value in self.flat[1:])
        return [[at.format(*cell) for cell in cells]]

    @property
    def flat(self) -> list[tuple[object, ...]]:
        """The values as rows, below a header."""
        rows = [
            (self.title, row, column, value)
            for row, own in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, own, strict=True)
        ]
        return [("panel", self.row_name, self.column_name, self.unit), *rows]


def figure(panels: Sequence[HeatMap], *, title: str = "", across: int | None = None) -> Figure:
    """Heat maps side by side; the cells of each are a group called ``mark-PLACE-0``.

    Args:
        panels: The maps, from left to right and from top to bottom.
        title: Title of the figure.
        across: Maps in a row; by default the figure is about as wide as high.
    """
    import matplotlib as mpl

    first, count = panels[0], len(panels)
    wide = across or math.ceil(math.sqrt(count))
    names = max(map(len, first.columns)) * _LETTER
    cell = max(_CELL[0], names + 0.06) if names <= _WORD * _LETTER else _CELL[0]
    width = min(WIDTH, (cell * _room(len(first.columns)) + 0.75) * wide + max(map(len, first.rows)) * _LETTER + 0.3)
    height = (_CELL[1] * _room(len(first.rows)) + 0.5) * math.ceil(count / wide) + min(names, 2.2) + 0.3
    same_rows = all(panel.rows == first.rows for panel in panels)
    same_columns = all(panel.columns == first.columns for panel in panels)
    shared = first.span is not None and all(panel.span == first.span for panel in panels)
    with mpl.rc_context(STYLE):
        drawn, axes = grid(count, wide, (width, height))
        for number, (place, panel) in enumerate(zip(axes, panels, strict=True)):
            place.set_gid("map")
            place.set_title(panel.title)
            cells = _cells(place, panel)
            cells.set_gid(f"mark-{number}-0")
            left, bottom = number % wide == 0 or not same_rows, number + wide >= count or not same_columns
            _name(place.yaxis, panel.row_name, panel.rows, left and math.ceil(len(panel.rows) / 30))
            longest, room = max(map(len, panel.columns)), (width / wide - 0.8) / len(panel.columns)
            step = math.ceil((longest * _LETTER + 0.02) / room) if longest <= _WORD else 1
            _name(place.xaxis, panel.column_name, panel.columns, bottom and step)
            place.tick_params(axis="x", labelrotation=0 if longest <= _WORD else 90)
            if not shared or number == count - 1:
                _bar(drawn, cells, axes if shared else [place], panel)
        drawn.suptitle("\n".join(filter(None, [title, first.unit])), x=0.01, ha="left")
        return laid_out(drawn)


def _room(cells: int) -> int:
    return min(max(cells, 4), _MANY)


def _cells(axes: Axes, panel: HeatMap) -> Any:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    values = np.array([[math.nan if value is None else value for value in row] for row in panel.values])
    norm = LogNorm(*panel.limits) if panel.log else Normalize(*panel.limits)
    shown = np.ma.masked_where(~(values > 0), values) if panel.log else np.ma.masked_invalid(values)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    colours = mpl.colormaps["viridis"].with_extremes(bad=HOLE)
    cells = axes.pcolormesh(shown, cmap=colours, norm=norm, edgecolors=SHEET, linewidth=0.6)
    cells.set_clip_on(False)
    return cells


def _name(axis: Axis, name: str, names: Sequence[str], step: int) -> None:
    """Name every `step`-th cell of an axis; none if it is 0."""
    places = range(0, len(names), step) if step else range(0)
    axis.set_ticks([place + 0.5 for place in places], [names[place] for place in places])
    axis.set_label_text(name if step else "")


def _bar(drawn: Figure, cells: Any, axes: list[Axes], panel: HeatMap) -> None:
    bar = drawn.colorbar(cells, ax=axes, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, pad=2, which="both")
    bar.ax.minorticks_off()
    if panel.log:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"1e{round(math.log10(value))}")
    else:
        bar.ax.ticklabel_format(axis="y", scilimits=(0, 2))
