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


def inline(svg: bytes, *, key: str, label: str, marks: Mapping[str, Sequence[Mark]], dark: Mapping[str, str]) -> str:
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
    colours = _COLOURS | {light: f"light-dark({light}, {other})" for light, other in dark.items()}
    text = _HASH.sub(rf"\1{key}-", _LEFT_OUT.sub("", svg.decode()))
    text = re.sub("|".join(colours), lambda match: colours[match[0]], text)
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for part in [*root.iter("g"), *root.iter("image")]:  # nothing refers to these names
        _say(part, marks.get(part.attrib.pop("id", "").removeprefix(f"{key}-"), ()))
    width, height = (float(size) * _PAGE / (72 * WIDTH) for size in root.attrib["viewBox"].split()[2:])
    size = {"viewBox": root.attrib["viewBox"], "width": f"{width:.0f}", "height": f"{height:.0f}"}
    root.attrib = {**size, "role": "img", "aria-label": label}
    return ET.tostring(root, encoding="unicode")


def _say(group: ET.Element, marks: Sequence[Mark]) -> None:
    """Give the shapes of a group their texts and links."""
    shapes = [shape for shape in group if shape.tag != "defs"] if marks else []
    for shape, (tip, link) in zip(shapes, marks, strict=True):
        shape.set("data-tip", tip)
        if link:
            place = [*group].index(shape)
            group[place] = ET.Element("a", href=f"#{link}")
            group[place].append(shape)
