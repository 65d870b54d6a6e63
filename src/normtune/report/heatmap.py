"""Heat maps: the plain values, and their drawing with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.report.drawing import HOLE, SHEET, STYLE, WIDTH, Mark, check, laid_out, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HeatMap", "check", "draw", "exponent", "figure"]

_CELL = (0.29, 0.24)  # inches, for maps of up to _MANY rows or columns; more of them share the same room
_MANY, _WORD = 14, 6  # a name of up to _WORD letters stands over its cell as it is, a longer one is turned
_LETTER = 0.072  # inches
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
        log: Whether the colours follow the logarithm.
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

    def __post_init__(self) -> None:
        if [len(row) for row in self.values] != [len(self.columns)] * len(self.rows):
            raise ValueError(f"The values do not fit {len(self.rows)} rows and {len(self.columns)} columns.")

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The range of colours: the shared one, or the smallest and the largest value; zeros where there is none."""
        known = [value for row in self.values for value in row if value is not None and math.isfinite(value)]
        return self.span or ((min(known), max(known)) if known else (0.0, 0.0))

    @cached_property
    def exponent(self) -> int:
        """The power of ten to show the values in, so that they read well: 0 where they do as they are."""
        return exponent(max(map(abs, self.limits)))

    @property
    def marks(self) -> list[list[Mark]]:
        """What each cell says, row by row."""
        cells = [
            (f"{self.row_name} {row}, {self.column_name} {column}", value)
            for row, own in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, own, strict=True)
        ]
        return [[Mark(f"{self.title}: {at}\n{'none' if v is None else f'{v:.3g}'}") for at, v in cells]]


def exponent(largest: float) -> int:
    """The power of ten that brings `largest` between 1 and 10, or 0 where it reads well as it is."""
    return 0 if largest == 0 or 1 <= largest < 1000 else math.floor(math.log10(largest))


def draw(panels: Sequence[HeatMap], path: Path, *, title: str = "", across: int | None = None) -> None:
    """Draw heat maps side by side and write them to one file.

    Args:
        panels: The maps, from left to right and from top to bottom.
        path: The file: SVG, PNG or PDF, by its suffix.
        title: What stands over all of them.
        across: How many stand in a row; by default they fill a block that is about as wide as high.
    """
    check(path)
    save(figure(panels, title=title, across=across), path)


def figure(panels: Sequence[HeatMap], *, title: str = "", across: int | None = None) -> Figure:
    """The figure that `draw` writes.

    Args:
        panels: The maps.
        title: What stands over all of them.
        across: How many stand in a row.

    Returns:
        The figure, which belongs to no window. The cells of each map are a group called ``mark-PLACE-0``.

    Raises:
        ValueError: If there are no maps, or a map is empty.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not panels or not all(panel.rows and panel.columns for panel in panels):
        raise ValueError("A figure needs maps with rows and columns.")
    wide = across or math.ceil(math.sqrt(len(panels)))
    high = math.ceil(len(panels) / wide)
    first = panels[0]
    names = max(map(len, first.columns)) * _LETTER
    cell = max(_CELL[0], names + 0.06) if names <= _WORD * _LETTER else _CELL[0]
    width = min(WIDTH, (cell * _room(len(first.columns)) + 0.75) * wide + max(map(len, first.rows)) * _LETTER + 0.3)
    height = (_CELL[1] * _room(len(first.rows)) + 0.5) * high + min(names, 2.2) + 0.3
    same_rows = all(panel.rows == first.rows for panel in panels)
    same_columns = all(panel.columns == first.columns for panel in panels)
    apart = any(panel.unit != first.unit for panel in panels)
    shared = first.span is not None and all(panel.span == first.span for panel in panels)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        drawn.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
        axes = [*drawn.subplots(high, wide, squeeze=False).flat]
        for number, (place, panel) in enumerate(zip(axes, panels, strict=False)):
            left, bottom = number % wide == 0, number + wide >= len(panels)
            place.set_gid("map")
            cells = _cells(place, panel)
            cells.set_gid(f"mark-{number}-0")
            place.set_title(f"{panel.title}\n{panel.unit}" if apart else panel.title)
            _name_rows(place, panel, left or not same_rows)
            _name_columns(place, panel, bottom or not same_columns, width / wide)
            if not shared or number == len(panels) - 1:
                _bar(drawn, cells, axes[: len(panels)] if shared else [place], panel)
        for place in axes[len(panels) :]:
            place.remove()
        heading = "\n".join(filter(None, [title, "" if apart else first.unit]))
        if heading:
            drawn.suptitle(heading, x=0.01, ha="left")
        return laid_out(drawn)


def _room(cells: int) -> int:
    return min(max(cells, 4), _MANY)


def _cells(axes: Axes, panel: HeatMap) -> Any:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    factor = 1.0 if panel.log else 10.0**panel.exponent
    values = np.array([[math.nan if value is None else value / factor for value in row] for row in panel.values])
    low, high = (limit / factor for limit in panel.limits)
    norm = LogNorm(low, high) if panel.log else Normalize(low, high)
    colours = mpl.colormaps["viridis"].with_extremes(bad=HOLE)
    shown = np.ma.masked_where(~(values > 0), values) if panel.log else np.ma.masked_invalid(values)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    cells = axes.pcolormesh(shown, cmap=colours, norm=norm, edgecolors=SHEET, linewidth=0.6)
    cells.set_clip_on(False)
    return cells


def _name_rows(axes: Axes, panel: HeatMap, shown: bool) -> None:
    places = range(0, len(panel.rows), math.ceil(len(panel.rows) / 30)) if shown else range(0)
    axes.set_yticks([place + 0.5 for place in places], [panel.rows[place] for place in places])
    if shown:
        axes.set_ylabel(panel.row_name)


def _name_columns(axes: Axes, panel: HeatMap, shown: bool, width: float) -> None:
    """Name the columns as often as the names fit, or turned where they are long."""
    count, longest = len(panel.columns), max(map(len, panel.columns))
    short = longest <= _WORD
    step = math.ceil((longest * _LETTER + 0.02) / ((width - 0.8) / count)) if short else 1
    places = range(0, count, step) if shown else range(0)
    axes.set_xticks([place + 0.5 for place in places], [panel.columns[place] for place in places])
    for label in axes.get_xticklabels() if not short else []:
        label.set(rotation=90, ha="right", va="center", rotation_mode="anchor")
    if shown:
        axes.set_xlabel(panel.column_name)


def _bar(drawn: Figure, cells: Any, axes: list[Axes], panel: HeatMap) -> None:
    bar = drawn.colorbar(cells, ax=axes, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, pad=2, which="both")
    bar.ax.minorticks_off()
    if panel.log:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"10{str(round(math.log10(value))).translate(_RAISED)}")
    elif panel.exponent:
        bar.ax.set_title(f"× 10{str(panel.exponent).translate(_RAISED)}", fontsize=7, fontweight="normal", loc="right")
