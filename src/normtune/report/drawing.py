"""What all figures share: their look, and one way to write them to files and into the page."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.errors import ConfigError
from normtune.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: File formats of figures, with the metadata that keeps dates out of the files.
FORMATS: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}

#: Width in inches of the widest figure. It fills the page, and its letters are then as large as a table's.
WIDTH = 10.0
MOST = 4  # panels in a row
INK, SOFT, HAIR, HOLE, SHEET = "#1d2126", "#59616b", "#eceef0", "#e4e6e9", "#ffffff"

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "font.size": 8,
    "figure.titlesize": 9.5,
    "grid.color": HAIR,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "normtune",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.color": SOFT,
    "ytick.major.size": 0,
}

_PAGE = 1088  # width of the page in pixels, which the widest figure fills
_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", HAIR: "var(--hair)", HOLE: "var(--hole)", SHEET: "var(--page)"}
_LEFT_OUT = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>| font-family:[^;\"]*;", re.S
)
_HASH = re.compile(r'( id="|url\(#|href="#)')


def check(path: Path) -> None:
    """Make sure that a figure can be drawn and written to `path`, before any work is done for it.

    Raises:
        ConfigError: If matplotlib is missing, or the file's suffix is not one of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"A figure is written as {', '.join(FORMATS)}; the name {path.name!r} ends otherwise.")
    need_matplotlib()


def need_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        ConfigError: If matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("Drawing needs matplotlib: pip install 'normtune[report]'.")


def across(panels: int) -> int:
    """Panels per row of a figure as wide as the page, chosen so that its rows are about equally long."""
    return math.ceil(panels / math.ceil(panels / MOST))


def grid(count: int, wide: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window, and its panels, `wide` in a row; `size` is in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    axes = [*figure.subplots(math.ceil(count / wide), wide, squeeze=False).flat]
    for place in axes[count:]:
        place.remove()
    return figure, axes[:count]


def laid_out(figure: Figure) -> Figure:
    """The figure with its layout computed once, so that no file format computes it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def rendered(figure: Figure, suffix: str) -> bytes:
    """The content of a file with this suffix; the same figure gives the same bytes."""
    import matplotlib as mpl

    target = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=suffix[1:], dpi=200, metadata=dict(FORMATS[suffix]))
    return target.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file that `check` allows."""
    write_atomically(path, rendered(figure, path.suffix.lower()))


def inline(svg: bytes, *, key: str, label: str, marks: Mapping[str, Sequence[str]]) -> str:
    """A figure as an ``svg`` element for the page: in the page's colours and font, with a tooltip on each mark.

    Args:
        svg: The file as matplotlib writes it.
        key: The figure's name, which prefixes the ids within it to make them unique on the page.
        label: The text for screen readers.
        marks: By the name of a group, the tooltips of its marks, in the order in which they are drawn.

    Returns:
        The element.
    """
    text = _HASH.sub(rf"\1{key}-", _LEFT_OUT.sub("", svg.decode()))
    text = re.sub("|".join(_COLOURS), lambda match: _COLOURS[match[0]], text)
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for part in [*root.iter("g"), *root.iter("image")]:  # nothing refers to these ids
        if tips := marks.get(part.attrib.pop("id", "").removeprefix(f"{key}-")):
            for shape, tip in zip((shape for shape in part if shape.tag != "defs"), tips, strict=True):
                shape.set("data-tip", tip)
    width, height = (float(size) * _PAGE / (72 * WIDTH) for size in root.attrib["viewBox"].split()[2:])
    size = {"viewBox": root.attrib["viewBox"], "width": f"{width:.0f}", "height": f"{height:.0f}"}
    root.attrib = {**size, "role": "img", "aria-label": label}
    return ET.tostring(root, encoding="unicode")
