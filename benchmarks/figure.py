"""Draw the README's picture from the records: score against entries trained, a panel a task.

``python benchmarks/figure.py reduced --results results/reduced`` reads the runs of that protocol and writes
``docs/assets/reduced.svg``, light or dark as its reader's system is. Methods that lack seeds on a task, and
expressions, are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from normtune.records.results import read
from normtune.report.cells import Cells
from normtune.report.drawing import HAIR, INK, SHEET, SOFT, rendered
from normtune.report.methods import panels
from normtune.report.scatter import figure

ROOT = Path(__file__).parent.parent
DARK = {INK: "#e6e8ea", SOFT: "#a9b1ba", HAIR: "#282e34", SHEET: "#0d1117"}


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="a folder with runs/")
    parser.add_argument("--tasks", default="", help="only these, separated by commas")
    given = parser.parse_args()
    cells = Cells(read(given.results, protocol=given.protocol))
    wanted = given.tasks.split(",") if given.tasks else cells.tasks
    every = [panels(cells, column)[0] for column in cells.ran if column.task in wanted]
    named = [
        replace(panel, dots=tuple((dot, at) for dot, at in panel.dots if dot.complete and "+" not in dot.name))
        for panel in every
    ]
    shown = [panel for panel in named if panel.dots]
    crowded = max(len(panel.dots) for panel in shown) > 8
    target = ROOT / "docs" / "assets" / f"{given.protocol}.svg"
    wide = 2 if crowded or len(shown) == 4 else 3
    target.write_text(either(rendered(figure(shown, wide), ".svg").decode()), encoding="utf-8")
    print(target)


def either(svg: str) -> str:
    """The drawing with colours for light and for dark systems."""
    names = {light: f"--c{number}" for number, light in enumerate(DARK)}
    for light, name in names.items():
        svg = svg.replace(light, f"var({name}, {light})")
    dark = "; ".join(f"{names[light]}: {own}" for light, own in DARK.items())
    return svg.replace(
        "<defs>", f"<style>@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style><defs>", 1
    )


if __name__ == "__main__":
    main()
