"""Heat maps as inline SVG: small multiples as wide as the page, whose rows are named once, at the left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from normtune.report.figures import Heat
from normtune.report.svg import opening, text

# Nine of viridis' colours, even in brightness, so that it reads without colour too.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER = 5.6  # width of a letter at the size of the labels
_WIDTH = 1088
_GAP = 22  # between two maps
_TOP, _BELOW = 28, 56  # above a map: its title; below: names of the columns, the range of colours
_ACROSS = 4


def heat_maps(heats: Sequence[Heat], key: str) -> str:
    """Heat maps of the same rows side by side.

    Args:
        heats: The maps; where their ranges of colours are the same, it is shown once.
        key: A name of its own on the page.

    Returns:
        An ``svg`` element.
    """
    first = heats[0].map
    across = math.ceil(len(heats) / math.ceil(len(heats) / _ACROSS))
    left = max(map(len, first.rows)) * _LETTER + 26
    wide = (_WIDTH - left - _GAP * (across - 1)) / across
    high = len(first.rows) * max(11, min(24, 300 // len(first.rows)))
    shared = len({(heat.limits, heat.ends) for heat in heats}) == 1
    names = ", ".join(heat.map.title for heat in heats)
    size = _WIDTH, math.ceil(len(heats) / across) * (_TOP + high + _BELOW)
    parts = [opening(*size, f"{first.unit} by {first.row_name} and {first.column_name}: {names}", "heats")]
    for place, heat in enumerate(heats):
        x, y = left + (wide + _GAP) * (place % across), (_TOP + high + _BELOW) * (place // across) + _TOP
        if place % across == 0:
            parts += _rows(heat, x, y, high)
        parts += _map(heat, x, y, wide, high)
        if not shared or place == 0:
            parts += _bar(heat, f"{key}-{place}", x, y + high + 38, _WIDTH - left if shared else wide)
    return "".join([*parts, "</svg>"])


def _rows(heat: Heat, x: float, y: float, high: float) -> Iterator[str]:
    """Names of the rows, to the left of `x`."""
    each, step = high / len(heat.map.rows), math.ceil(len(heat.map.rows) / 26)
    for place, name in enumerate(heat.map.rows):
        if place % step == 0:
            yield text(x - 7, y + each * (place + 0.5) + 3.5, name, "tick", "end")
    yield (
        f'<text class="axis" text-anchor="middle" transform="translate(9 {y + high / 2:.1f}) rotate(-90)">'
        f"{escape(heat.map.row_name)}</text>"
    )


def _map(heat: Heat, x: float, y: float, wide: float, high: float) -> Iterator[str]:
    """One map with its title, and the names of its columns as often as they fit."""
    columns = heat.map.columns
    each = wide / len(columns)
    yield text(x, y - 11, heat.map.title, "panel-title", "start")
    yield from _cells(heat, x, y, each, high / len(heat.map.rows))
    step = math.ceil(max(map(len, columns)) * _LETTER / (each - 1))
    for place, name in enumerate(columns):
        if place % step == 0:
            yield text(x + each * (place + 0.5), y + high + 14, name, "tick", "middle")
    yield text(x + wide / 2, y + high + 28, heat.map.column_name, "axis", "middle")


def _cells(heat: Heat, left: float, top: float, width: float, height: float) -> Iterator[str]:
    low, high = heat.limits
    for row, (values, tips) in enumerate(zip(heat.map.values, heat.tips, strict=True)):
        for column, (value, tip) in enumerate(zip(values, tips, strict=True)):
            place = None if value is None else (value - low) / (high - low) if high > low else 0.5
            fill = 'class="hole"' if place is None else f'fill="{colour(place)}"'
            yield (
                f'<rect x="{left + width * column:.2f}" y="{top + height * row:g}" width="{width - 1:.2f}"'
                f' height="{height - 1:g}" {fill} data-tip="{escape(tip)}"/>'
            )


def _bar(heat: Heat, key: str, x: float, y: float, wide: float) -> Iterator[str]:
    """The range of colours from its smallest value to its largest, and what lies between."""
    low, high = map(short, heat.ends or heat.limits)
    start, end = x + len(low) * _LETTER + 6, x + wide - len(high) * _LETTER - 6
    stops = "".join(
        f'<stop offset="{100 * place / (len(VIRIDIS) - 1):g}%" stop-color="{shade}"/>'
        for place, shade in enumerate(VIRIDIS)
    )
    yield text(x, y + 8, low, "tick", "start")
    yield (
        f'<linearGradient id="bar-{key}">{stops}</linearGradient>'
        f'<rect x="{start:.1f}" y="{y:g}" width="{end - start:.1f}" height="8" fill="url(#bar-{key})"/>'
    )
    yield text(x + wide, y + 8, high, "tick", "end")


def short(value: float) -> str:
    """A number of two digits, as print has it, with a power of ten where it is small or large."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(power)).translate(_RAISED)}"


def colour(place: float) -> str:
    """The colour at `place` between 0 and 1; those between two known ones lie on a line."""
    step = min(int(place * (len(VIRIDIS) - 1)), len(VIRIDIS) - 2)
    part = place * (len(VIRIDIS) - 1) - step
    one, other = bytes.fromhex(VIRIDIS[step][1:]), bytes.fromhex(VIRIDIS[step + 1][1:])
    return "#" + bytes(round(a + part * (b - a)) for a, b in zip(one, other, strict=True)).hex()
