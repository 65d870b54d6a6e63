"""Heat maps: the plain values, and their drawing with matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.errors import ConfigError
from normtune.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Kinds of file that a figure can be written as, with what keeps the time of day out of them.
FORMATS: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}

_STYLE: Any = {"font.size": 8, "axes.titlesize": 9, "figure.titlesize": 10, "svg.hashsalt": "normtune"}
_CELL = (0.29, 0.24)  # inches, for maps of up to _MANY rows or columns; more of them share the same room
_MANY = 14
_ACROSS = 4  # characters of a column's name that fit over its cell


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
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    row_name: str = "layer"
    column_name: str = "component"

    def __post_init__(self) -> None:
        if [len(row) for row in self.values] != [len(self.columns)] * len(self.rows):
            raise ValueError(f"The values do not fit {len(self.rows)} rows and {len(self.columns)} columns.")

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value; zeros where there is none."""
        known = [value for row in self.values for value in row if value is not None and math.isfinite(value)]
        return (min(known), max(known)) if known else (0.0, 0.0)

    @cached_property
    def exponent(self) -> int:
        """The power of ten to show the values in, so that they read well: 0 where they do as they are."""
        return exponent(max(map(abs, self.limits)))


def exponent(largest: float) -> int:
    """The power of ten that brings `largest` between 1 and 10, or 0 where it reads well as it is."""
    return 0 if largest == 0 or 1 <= largest < 1000 else math.floor(math.log10(largest))


def check(path: Path) -> None:
    """Make sure that a figure can be drawn and written to `path`, before any work is done for it.

    Raises:
        ConfigError: If matplotlib is missing, or the file's suffix is of no known kind.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"A figure is written as {', '.join(FORMATS)}; the name {path.name!r} ends otherwise.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("Drawing a figure needs matplotlib: pip install 'normtune[docs]'.") from error


def draw(panels: Sequence[HeatMap], path: Path, *, title: str = "", across: int | None = None) -> None:
    """Draw heat maps side by side and write them to one file.

    Args:
        panels: The maps, from left to right and from top to bottom; each has its own range of colours.
        path: The file: SVG, PNG or PDF, by its suffix.
        title: What stands over all of them.
        across: How many stand in a row; by default they fill a block that is about as wide as high.
    """
    check(path)
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        target = io.BytesIO()
        kind = path.suffix.lower()
        figure(panels, title=title, across=across).savefig(
            target, format=kind[1:], dpi=200, metadata=dict(FORMATS[kind]), bbox_inches="tight", pad_inches=0.05
        )
    write_atomically(path, target.getvalue())


def figure(panels: Sequence[HeatMap], *, title: str = "", across: int | None = None) -> Figure:
    """The figure that `draw` writes.

    Args:
        panels: The maps.
        title: What stands over all of them.
        across: How many stand in a row.

    Returns:
        The figure, which belongs to no window.

    Raises:
        ValueError: If there are no maps, or a map is empty.
    """
    from matplotlib.figure import Figure

    if not panels or not all(panel.rows and panel.columns for panel in panels):
        raise ValueError("A figure needs maps with rows and columns.")
    wide = across or math.ceil(math.sqrt(len(panels)))
    high = math.ceil(len(panels) / wide)
    first = panels[0]
    size = [_CELL[0] * _room(len(first.columns)) + 0.75, _CELL[1] * _room(len(first.rows)) + 0.45]
    labels = 0.062 * max(map(len, first.columns))
    drawn = Figure(figsize=(size[0] * wide + 0.3, size[1] * high + labels + 0.3), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    axes = [*drawn.subplots(high, wide, squeeze=False).flat]
    same_rows = all(panel.rows == first.rows for panel in panels)
    same_columns = all(panel.columns == first.columns for panel in panels)
    apart = any(panel.unit != first.unit for panel in panels)
    for number, (place, panel) in enumerate(zip(axes, panels, strict=False)):
        left, bottom = number % wide == 0, number + wide >= len(panels)
        _panel(place, panel, rows=left or not same_rows, columns=bottom or not same_columns)
        if apart:
            place.set_title(f"{panel.title}\n{panel.unit}", parse_math=False)
    for place in axes[len(panels) :]:
        place.remove()
    heading = "\n".join(filter(None, [title, "" if apart else first.unit]))
    if heading:
        drawn.suptitle(heading, parse_math=False)
    return drawn


def _room(cells: int) -> int:
    return min(max(cells, 4), _MANY)


def _panel(axes: Axes, panel: HeatMap, *, rows: bool, columns: bool) -> None:
    """One map; `rows` and `columns` say whether its cells are named here."""
    import numpy as np

    factor = 10.0**panel.exponent
    values = np.array([[math.nan if value is None else value / factor for value in row] for row in panel.values])
    low, high = (limit / factor for limit in panel.limits)
    axes.set_facecolor("0.88")  # what has no value
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set_title(panel.title, parse_math=False)
    axes.set_xticks(range(len(panel.columns)), panel.columns if columns else [""] * len(panel.columns))
    longest = max(map(len, panel.columns))
    if longest > _ACROSS:
        turn = (
            {"rotation": 45, "ha": "right"}
            if longest < 2 * _ACROSS
            else {"rotation": 90, "ha": "right", "va": "center"}
        )
        for label in axes.get_xticklabels():
            label.set(rotation_mode="anchor", **turn)
    step = math.ceil(len(panel.rows) / 30)
    axes.set_yticks(range(0, len(panel.rows), step), panel.rows[::step] if rows else [""] * len(panel.rows[::step]))
    if columns:
        axes.set_xlabel(panel.column_name)
    if rows:
        axes.set_ylabel(panel.row_name)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    axes.set_xticks([x - 0.5 for x in range(1, len(panel.columns))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(panel.rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    bar = axes.figure.colorbar(image, ax=axes, aspect=18, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, pad=2)
    if panel.exponent:
        bar.ax.set_title(rf"$\times 10^{{{panel.exponent}}}$", fontsize=7, pad=4, loc="left")
