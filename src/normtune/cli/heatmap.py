"""Heat maps in the terminal: coloured cells with their numbers, or shades where there is no colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from normtune.report.heatmap import HeatMap

# Nine of viridis' colours, even in brightness; those between lie on a line.
_VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
_SHADES = " ░▒▓█"
_LEAF = 11  # longest line of a column's name
_GAP = "-"


def number(value: float | None, power: int, largest: float) -> str:
    """A value in units of ten to the `power`, with three digits for the `largest`; a value too small shows as such."""
    if value is None:
        return _GAP
    scaled, top = value / 10.0**power, largest / 10.0**power
    decimals = 2 if top < 9.995 else 1 if top < 99.95 else 0
    text = f"{scaled:.{decimals}f}"
    tiny = value != 0 and float(text) == 0
    return f"<{10.0**-decimals:.{decimals}f}" if tiny else text


def unit(name: str, power: int) -> str:
    """The name of a unit with its power of ten."""
    return f"{name} x 1e{power}" if power else name


@dataclass(frozen=True)
class View:
    """A heat map for the terminal; columns that do not fit beside each other follow below.

    Attributes:
        map: The map.
        below: Rows without colour, under the map, by their names.
    """

    map: HeatMap
    below: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        yield Text(self.map.title, style="bold")
        yield self._legend(coloured)
        label = max(map(len, [*self.map.rows, *self.below, self.map.row_name])) + 1
        for block in self._blocks(options.max_width - label):
            yield Text()
            yield from self._block(block, label, coloured)

    @property
    def _largest(self) -> float:
        return max(map(abs, self.map.limits))

    def _number(self, value: float | None) -> str:
        return number(value, self.map.exponent, self._largest)

    def _legend(self, coloured: bool) -> Text:
        low, high = map(self._number, self.map.limits)
        line = Text(f"{unit(self.map.unit, self.map.exponent)}: {low} ", style="dim" if not coloured else "")
        for step in range(20):
            place = step / 19
            line.append(" " if coloured else _shade(place), style=_style(place) if coloured else "")
        return line.append(f" {high}")

    def _blocks(self, room: int) -> list[list[_Column]]:
        """Columns that fit beside each other, in as many blocks as it takes."""
        blocks: list[list[_Column]] = [[]]
        for column in self._columns():
            if blocks[-1] and sum(each.width for each in _widened([*blocks[-1], column])) > room:
                blocks.append([])
            blocks[-1].append(column)
        return [_widened(block) for block in blocks]

    def _columns(self) -> list[_Column]:
        columns = []
        for place, name in enumerate(self.map.columns):
            group, _, leaf = name.rpartition(".")
            lines = _fold(leaf)
            cells = [row[place] for row in [*self.map.values, *self.below.values()]]
            width = max(len(text) for text in [*lines, *map(self._number, cells)])
            columns.append(_Column(place, group, lines, width + 2))
        return columns

    def _block(self, block: list[_Column], label: int, coloured: bool) -> RenderResult:
        if any(column.group for column in block):
            line = Text(" " * label)
            for group, columns in groupby(block, key=lambda column: column.group):
                line.append(_span(group, sum(column.width for column in columns)), style="dim")
            yield line
        high = max(len(column.lines) for column in block)
        for level in range(high):
            line = Text((self.map.row_name if level == high - 1 else "").ljust(label), style="dim")
            for column in block:
                lines = [""] * (high - len(column.lines)) + [*column.lines]
                line.append(f"{lines[level]} ".rjust(column.width), style="not dim")
            yield line
        for name, values in zip(self.map.rows, self.map.values, strict=True):
            line = Text(f"{name} ".rjust(label))
            for column in block:
                line.append_text(self._cell(values[column.place], column.width, coloured))
            yield line
        for name, under in self.below.items():
            text = "".join(f"{self._number(under[column.place])} ".rjust(column.width) for column in block)
            yield Text(f"{name} ".rjust(label) + text, style="dim" if name == "±" else "")

    def _cell(self, value: float | None, width: int, coloured: bool) -> Text:
        if value is None:
            return Text(f"{_GAP} ".rjust(width), style="dim")
        low, high = self.map.limits
        place = (value - low) / (high - low) if high > low else 0.5
        end = " " if coloured else _shade(place)
        return Text((self._number(value) + end).rjust(width), style=_style(place) if coloured else "")


@dataclass(frozen=True)
class _Column:
    place: int
    group: str
    lines: tuple[str, ...]
    width: int


def _widened(block: list[_Column]) -> list[_Column]:
    """The same columns, wide enough for the names over their groups."""
    result = []
    for group, columns in groupby(block, key=lambda column: column.group):
        members = [*columns]
        missing = max(0, len(group) + 2 - sum(column.width for column in members))
        for number, column in enumerate(members):
            extra = missing // len(members) + (number < missing % len(members))
            result.append(_Column(column.place, column.group, column.lines, column.width + extra))
    return result


def _span(group: str, width: int) -> str:
    """A group's name in the middle of a line over its columns."""
    room = width - 2
    if not group or len(group) >= room:
        return group.center(width)
    return f" {f' {group} '.center(room, '─')} "


def _fold(name: str) -> tuple[str, ...]:
    """A name over as few lines as it takes, broken after underscores where there are some."""
    lines = [""]
    for word in name.replace("_", "_\n").split("\n"):
        if lines[-1] and len(lines[-1] + word) > _LEAF:
            lines.append("")
        lines[-1] += word
    return tuple(line[start : start + _LEAF + 4] for line in lines for start in range(0, max(len(line), 1), _LEAF + 4))


def _shade(place: float) -> str:
    return _SHADES[min(int(place * len(_SHADES)), len(_SHADES) - 1)]


def _style(place: float) -> Style:
    """The colours of a cell at `place` between 0 and 1: viridis behind, black or white before it."""
    step = min(int(place * (len(_VIRIDIS) - 1)), len(_VIRIDIS) - 2)
    part = place * (len(_VIRIDIS) - 1) - step
    ends = zip(bytes.fromhex(_VIRIDIS[step]), bytes.fromhex(_VIRIDIS[step + 1]), strict=True)
    red, green, blue = (round(one + part * (other - one)) for one, other in ends)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 120
    triplet = ColorTriplet(red, green, blue)
    front = ColorTriplet(0, 0, 0) if bright else ColorTriplet(255, 255, 255)
    return Style(color=Color.from_triplet(front), bgcolor=Color.from_triplet(triplet))
