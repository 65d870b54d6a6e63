"""Figures as inline SVG: drawn with the page's own colours, each mark with a text for the pointer over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from normtune.report.curves import Curves, Look, Point
from normtune.report.figures import Heat

# Nine of viridis' colours, even in brightness, so that it reads without colour too.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER = 5.6  # width of a letter at the size of the labels
_PANEL = (256, 208)  # of curves
_FRAME = (36, 30, 248, 170)  # left, top, right, bottom of their axes


def heat_map(heat: Heat, key: str) -> str:
    """A heat map.

    Args:
        heat: The map.
        key: A name of its own on the page.

    Returns:
        An ``svg`` element.
    """
    shown = heat.map
    cell_w = max(24, min(44, 360 // len(shown.columns)))
    cell_h = max(11, min(22, 300 // len(shown.rows)))
    turned = max(map(len, shown.columns)) * _LETTER > cell_w - 2
    left, top = 34, 30
    right, bottom = left + cell_w * len(shown.columns), top + cell_h * len(shown.rows)
    longest = max(map(len, shown.columns)) * _LETTER
    under = longest * 0.72 + 14 if turned else 18
    # A turned label hangs out to the left of its cell.
    shift = max(0.0, longest * 0.72 - left - cell_w / 2 + 4) if turned else 0.0
    room = 32 + 6.4 * max(map(len, _ends(heat)))
    width, height = right + shift + room, bottom + under + 18
    parts = [_open(width, height, f"{shown.title}: {shown.unit} by {shown.row_name} and {shown.column_name}", "heat")]
    parts.append(f'<g transform="translate({shift:.1f} 0)">')
    parts.append(_text(left, 17, shown.title, "panel-title", "start"))
    parts += _cells(heat, left, top, cell_w, cell_h)
    step = math.ceil(len(shown.rows) / 26)
    for place, name in enumerate(shown.rows):
        if place % step == 0:
            parts.append(_text(left - 6, top + cell_h * (place + 0.5) + 3.5, name, "tick", "end"))
    for place, name in enumerate(shown.columns):
        x = left + cell_w * (place + 0.5)
        if turned:
            y = bottom + 11
            parts.append(
                f'<text class="tick" text-anchor="end" transform="translate({x + 3:.1f} {y}) rotate(-45)">'
                f"{escape(name)}</text>"
            )
        else:
            parts.append(_text(x, bottom + 14, name, "tick", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(11 {middle:.1f}) rotate(-90)">'
        f"{escape(shown.row_name)}</text>"
    )
    parts += _bar(heat, key, right + 14, top, bottom)
    return "".join([*parts, "</g></svg>"])


def _cells(heat: Heat, left: float, top: float, width: float, height: float) -> Iterator[str]:
    low, high = heat.limits
    for row, (values, tips) in enumerate(zip(heat.map.values, heat.tips, strict=True)):
        for column, (value, tip) in enumerate(zip(values, tips, strict=True)):
            place = None if value is None else (value - low) / (high - low) if high > low else 0.5
            fill = 'class="hole"' if place is None else f'fill="{colour(place)}"'
            yield (
                f'<rect x="{left + width * column:g}" y="{top + height * row:g}" width="{width - 1:g}"'
                f' height="{height - 1:g}" {fill} data-tip="{escape(tip)}"/>'
            )


def _bar(heat: Heat, key: str, x: float, top: float, bottom: float) -> Iterator[str]:
    """The range of colours, with its ends and what lies between."""
    stops = "".join(
        f'<stop offset="{100 * place / (len(VIRIDIS) - 1):g}%" stop-color="{shade}"/>'
        for place, shade in enumerate(reversed(VIRIDIS))
    )
    yield (
        f'<linearGradient id="bar-{key}" x1="0" y1="0" x2="0" y2="1">{stops}</linearGradient>'
        f'<rect x="{x:g}" y="{top:g}" width="9" height="{bottom - top - 1:g}" fill="url(#bar-{key})"/>'
    )
    low, high = _ends(heat)
    yield _text(x + 13, top + 8, high, "tick", "start")
    yield _text(x + 13, bottom - 2, low, "tick", "start")


def _ends(heat: Heat) -> tuple[str, str]:
    """What the ends of the range of colours are."""
    low, high = heat.ends or heat.limits
    return short(low), short(high)


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


def curves(panel: Curves, looks: Sequence[Look]) -> str:
    """A panel of curves.

    Args:
        panel: The panel.
        looks: All looks of the figure; the style sheet has a colour for each by its place.

    Returns:
        An ``svg`` element.
    """
    left, top, right, bottom = _FRAME
    parts = [_open(*_PANEL, f"{panel.title}: {panel.y_name} against the {panel.x_name}", "curves")]
    parts.append(_text(left, 17, panel.title, "panel-title", "start"))
    ticks = panel.y_ticks or (0.0, 1.0)

    def across(x: float) -> float:
        return left + 8 + (right - left - 16) * x

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        if panel.y_ticks:
            parts.append(_text(left - 5, up(tick) + 3.5, f"{tick:g}", "tick", "end"))
    for x in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(_text(across(x), bottom + 14, f"{x:g}", "tick", "middle"))
    parts.append(_text((left + right) / 2, bottom + 30, panel.x_name, "axis", "middle"))
    for each in panel.series:
        places = [(across(p.x), up(p.y), p) for p in each.points]
        number = looks.index(each.look)
        if each.look.line:
            parts += _line(places, number, (bottom - top) / (ticks[-1] - ticks[0]))
        parts += [
            _point(x, y, point, each.look, number, up, _says(panel, point)) for x, y, point in places if point.marked
        ]
    if panel.note:
        parts.append(_text(right - 4, bottom - 6, panel.note, "remark", "end"))
    return "".join([*parts, "</svg>"])


def _line(places: Sequence[tuple[float, float, Point]], number: int, unit: float) -> Iterator[str]:
    if len(places) < 2:
        return
    if any(point.spread for _, _, point in places):
        above = [f"{x:.1f},{y - unit * (point.spread or 0):.1f}" for x, y, point in places]
        below = [f"{x:.1f},{y + unit * (point.spread or 0):.1f}" for x, y, point in reversed(places)]
        yield f'<polygon class="band s{number}" points="{" ".join([*above, *below])}"/>'
    yield f'<polyline class="line s{number}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)}"/>'


def _point(x: float, y: float, point: Point, look: Look, number: int, up: Callable[[float], float], tip: str) -> str:
    hollow = "" if point.complete else " hollow"
    bar = ""
    if not look.line and point.spread:
        bar = (
            f'<line class="line s{number}" x1="{x:.1f}" x2="{x:.1f}" y1="{up(point.y - point.spread):.1f}"'
            f' y2="{up(point.y + point.spread):.1f}"/>'
        )
    return (
        f'<a href="#{point.link}" class="point" data-tip="{escape(tip)}">{bar}'
        f'<circle class="catch" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
        f'<path class="mark s{number}{hollow}" transform="translate({x:.1f} {y:.1f})" d="{MARKS[look.marker]}"/></a>'
    )


def _says(panel: Curves, point: Point) -> str:
    """Every series at the point's place, since they often lie on each other, then the point's own runs."""
    rows = [f"f = {point.x:g}"]
    for each in panel.series:
        for other in each.points:
            if other.x == point.x and other.marked:
                spread = "" if other.spread is None else f" ± {other.spread:.2f}"
                rows.append(f"{each.look.name if 0 < other.x < 1 else 'score'}: {other.y:.2f}{spread}")
    return "\n".join([*rows, point.tip])


#: Outlines of the markers, about nine wide.
MARKS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "square": "M-3.6,-3.6h7.2v7.2h-7.2z",
    "diamond": "M0,-4.8L4.8,0L0,4.8L-4.8,0z",
    "triangle": "M0,-4.8L4.6,3.6H-4.6z",
    "cross": "M-4,-2L-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0z",
}


def key_of(look: Look, number: int) -> str:
    """The mark of a legend's entry."""
    line = f'<line class="line s{number}" x1="1" x2="25" y1="8" y2="8"/>' if look.line else ""
    return (
        f'<svg class="key" width="26" height="16" viewBox="0 0 26 16" aria-hidden="true">{line}'
        f'<path class="mark s{number}" transform="translate(13 8)" d="{MARKS[look.marker]}"/></svg>'
    )


def _open(width: float, height: float, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        f' role="img" aria-label="{escape(label)}">'
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
