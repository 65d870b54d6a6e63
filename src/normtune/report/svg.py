"""Curves as inline SVG: drawn with the page's own colours, each mark with a text for the pointer over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from normtune.report.curves import Curves, Look, Point

_PANEL = (256, 208)  # of curves
_FRAME = (36, 30, 248, 170)  # left, top, right, bottom of their axes


def curves(panel: Curves, looks: Sequence[Look]) -> str:
    """A panel of curves.

    Args:
        panel: The panel.
        looks: All looks of the figure; the style sheet has a colour for each by its place.

    Returns:
        An ``svg`` element.
    """
    left, top, right, bottom = _FRAME
    parts = [opening(*_PANEL, f"{panel.title}: {panel.y_name} against the {panel.x_name}", "curves")]
    parts.append(text(left, 17, panel.title, "panel-title", "start"))
    ticks = panel.y_ticks or (0.0, 1.0)

    def across(x: float) -> float:
        return left + 8 + (right - left - 16) * x

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        if panel.y_ticks:
            parts.append(text(left - 5, up(tick) + 3.5, f"{tick:g}", "tick", "end"))
    for x in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(text(across(x), bottom + 14, f"{x:g}", "tick", "middle"))
    parts.append(text((left + right) / 2, bottom + 30, panel.x_name, "axis", "middle"))
    for each in panel.series:
        places = [(across(p.x), up(p.y), p) for p in each.points]
        number = looks.index(each.look)
        if each.look.line:
            parts += _line(places, number, (bottom - top) / (ticks[-1] - ticks[0]))
        parts += [
            _point(x, y, point, each.look, number, up, _says(panel, point)) for x, y, point in places if point.marked
        ]
    if panel.note:
        parts.append(text(right - 4, bottom - 6, panel.note, "remark", "end"))
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


def opening(width: float, height: float, label: str, kind: str) -> str:
    """The start of a drawing, which is named for those who do not see it."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        f' role="img" aria-label="{escape(label)}">'
    )


def text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
