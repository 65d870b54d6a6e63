"""A figure's SVG as a part of the page: with the page's colours and font, and a text for the pointer over each mark."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from normtune.report.drawing import HAIR, HOLE, INK, SHEET, SOFT, WIDTH, Mark

_PAGE = 1088  # its width in pixels, which the widest figure takes
_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", HAIR: "var(--hair)", HOLE: "var(--hole)", SHEET: "var(--page)"}
_LEFT_OUT = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>| font-family:[^;\"]*;", re.S
)
_HASH = re.compile(r'( id="|url\(#|href="#)')


def inline(
    svg: bytes, *, key: str, label: str, marks: Mapping[str, Sequence[Mark]], dark: Mapping[str, str] | None = None
) -> str:
    """An ``svg`` element for the page.

    Args:
        svg: The file as matplotlib writes it.
        key: The figure's name, which makes the names within it its own.
        label: What is said to those who do not see it.
        marks: By the name of a group, what each of its marks says, in the order in which they are drawn.
        dark: By colour, the one that takes its place on a dark page.

    Returns:
        The element.
    """
    colours = _COLOURS | {light: f"light-dark({light}, {other})" for light, other in (dark or {}).items()}
    text = _HASH.sub(rf"\1{key}-", _LEFT_OUT.sub("", svg.decode()))
    text = re.sub("|".join(colours), lambda match: colours[match[0]], text)
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for part in [*root.iter("g"), *root.iter("image")]:  # nothing refers to these names
        name = part.attrib.pop("id", "")
        _say(part, marks.get(name.removeprefix(f"{key}-"), ()))
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    scale = _PAGE / (72 * WIDTH)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * scale:.0f}",
        "height": f"{height * scale:.0f}",
        "role": "img",
        "aria-label": label,
    }
    return ET.tostring(root, encoding="unicode")


def _say(group: ET.Element, marks: Sequence[Mark]) -> None:
    """Give the shapes of a group their texts and links."""
    shapes = [shape for shape in group if shape.tag != "defs"] if marks else []
    for shape, mark in zip(shapes, marks, strict=True):
        shape.set("data-tip", mark.tip)
        if mark.link:
            place = [*group].index(shape)
            group[place] = ET.Element("a", href=f"#{mark.link}")
            group[place].append(shape)
