"""Draw the README's picture from the records: score against entries trained, a panel a task.

Run ``python benchmarks/figure.py``; it reads ``results/runs`` and writes ``docs/assets/small.svg``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from normtune.data.glue_tasks import GLUE
from normtune.records.aggregate import Cell, tabulate
from normtune.records.results import Store

ROOT = Path(__file__).parent.parent
TASKS = ("stsb", "sst2", "cola", "mrpc", "rte")
COLOURS = {"head": "#8a8f98", "random": "#c28e0e", "layernorm": "#0f8f7d", "bitfit": "#5b6fd6", "full": "#c2452d"}


def main() -> None:
    """Draw and write."""
    mpl.rcParams.update({
        "font.size": 9,
        "svg.hashsalt": "normtune",
        "axes.spines.top": False,
        "axes.spines.right": False,
    })
    records = [r for r in Store(ROOT / "results" / "runs") if r.config.protocol.name == "small"]
    cells = tabulate(records)
    shown = [task for task in TASKS if any((method, task) in cells for method in COLOURS)]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.6), layout="constrained", squeeze=False)
    for panel, task in zip(axes[0], shown, strict=True):
        draw(panel, cells, task)
    axes[0][0].set_ylabel("dev score x 100")
    figure.supxlabel("entries trained, head included", fontsize=9)
    handles = [Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(COLOURS), frameon=False)
    target = ROOT / "docs" / "assets" / "small.svg"
    figure.savefig(target, metadata={"Date": None})
    print(target)


def draw(panel: Axes, cells: dict[tuple[str, str], Cell], task: str) -> None:
    """One task: a point a method with the standard deviation over seeds, hollow where seeds are missing."""
    for method, colour in COLOURS.items():
        cell = cells.get((method, task))
        if cell is None or cell.mean is None:
            continue
        panel.errorbar(
            cell.runs[0].counts.trained,
            100 * cell.mean,
            100 * (cell.spread or 0),
            fmt="o",
            color=colour,
            capsize=3,
            mfc=colour if cell.complete else "white",
        )
    panel.set_xscale("log")
    panel.set_xlim(1e2, 1e8)
    panel.set_title(f"{GLUE[task].title} ({GLUE[task].primary})", fontsize=9)
    panel.grid(axis="y", alpha=0.25)


if __name__ == "__main__":
    main()
