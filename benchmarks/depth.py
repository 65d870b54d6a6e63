"""What leaving out low layers costs and saves: time, score and Fisher share of LayerNorm from each layer on.

With the prefix kept, the lowest layer that trains decides what a step costs, whether only each layer's output norm
trains above it or its attention's too. Run ``NORMTUNE_CLOCK=cpu OMP_NUM_THREADS=1 python benchmarks/depth.py`` with
``NORMTUNE_DATA`` naming a GLUE folder: about ten minutes a task. Tasks that are measured already are left as they are
(``--again`` measures anew). It writes ``results/benchmarks/depth.json`` and the docs' figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import ours
import torch
from harness import glue, read, write
from matplotlib.axes import Axes
from speed import BATCH, DEV, RATE, Setting

from normtune.config import Protocol

ASSETS = Path(__file__).parent.parent / "docs" / "assets"
FISHER = Path(__file__).parent.parent / "results" / "fisher"
TASKS = ("sst2", "stsb")
LAYERS, SEEDS, EPOCHS, EXAMPLES = range(6), (0, 1, 2), 3, 500
#: What trains from a layer's output norm on: the figure's colour, its name there, and the expression.
WAYS = {
    "output": ("#3b7dd8", "output norms", "layernorm@{0}-"),
    "both": ("#c2571a", "both norms", "layernorm@{0}- + attention.output.LayerNorm@{1}-"),
}
INK = "#8a8a8a"


def main() -> None:
    """Measure the tasks that are missing, write and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = read("depth")
    for task in options.tasks.split(","):
        if options.again or task not in found:
            found[task] = measure(task)
            protocol = {"epochs": EPOCHS, "examples": EXAMPLES, "batch": BATCH, "rate": RATE}
            print(write("depth", found, {}, seeds=SEEDS, protocol=protocol))
    draw(found)


def measure(task: str) -> dict[str, Any]:
    """By layer: the best dev score of each seed, and seconds a step of the same; the layers take turns."""
    setting = Setting.of(glue(task), EXAMPLES, DEV)
    layers: dict[str, Any] = {
        str(layer): {
            "products": relative_time(layer),
            "fisher": share,
            **{way: {"score": [], "step": []} for way in ways(layer)},
        }
        for layer, share in zip(LAYERS, information(task), strict=True)
    }
    for seed in SEEDS:
        for layer in LAYERS:
            for way in ways(layer):
                score, step = train(setting, WAYS[way][2].format(layer, layer + 1), seed)
                layers[str(layer)][way]["score"].append(score)
                layers[str(layer)][way]["step"].append(step)
        print(task, "seed", seed, flush=True)
    return {"metric": setting.task.primary, "examples": len(setting.train), "dev": len(setting.dev), "layers": layers}


def relative_time(layer: int) -> float:
    """A step's time where only LayerNorm from `layer` on trains, over the whole LayerNorm's, by counting products.

    With a frozen prefix, a step runs the layers above `layer` forward and backward, and of `layer` itself only its
    norm. To train the whole LayerNorm without one, it runs every layer forward, and all but the first backward.
    """
    return 2 * (len(LAYERS) - 1 - layer) / (2 * len(LAYERS) - 1)


def ways(layer: int) -> tuple[str, ...]:
    """The keys of `WAYS` that differ from this layer on: above the last one's output norm there is no attention."""
    return tuple(WAYS) if layer < LAYERS[-1] else ("output",)


def train(setting: Setting, selects: str, seed: int) -> tuple[float, float]:
    """The best dev score of one training of what `selects` says, and the median over epochs of its seconds a step."""
    clock, epochs = ours.Clock(), EPOCHS
    way = ours.Case("", Protocol(name="b", dropout=False), selects=selects)
    trained = ours.train(
        setting.base(seed),
        setting.task,
        way,
        setting.train,
        setting.dev,
        epochs=epochs,
        rate=RATE,
        seed=seed,
        clock=clock,
    )
    # The time between two steps of one epoch is a step's; between two epochs there is an evaluation.
    each = np.diff(np.array(clock.steps).reshape(epochs, -1), axis=1).mean(axis=1)
    return trained.scores[setting.task.primary], round(float(np.median(each)), 5)


def information(task: str) -> list[float]:
    """The share of the output LayerNorms' Fisher information that lies in each layer and above it."""
    (file,) = FISHER.glob(f"{task}-*.json")
    rows = json.loads(file.read_text())["information"]
    each = [
        sum(row["total"] for row in rows if row["component"] == "output.LayerNorm" and row["layer"] == layer)
        for layer in LAYERS
    ]
    return [round(sum(each[layer:]) / sum(each), 4) for layer in LAYERS]


def parts(found: dict[str, Any], way: str) -> dict[int, float]:
    """By layer the median over seeds of a step's time over that of all layers' output norms with the same seed."""
    whole = found["layers"]["0"]["output"]["step"]
    return {
        int(layer): statistics.median(step / every for step, every in zip(row[way]["step"], whole, strict=True))
        for layer, row in found["layers"].items()
        if way in row
    }


def draw(found: dict[str, Any]) -> None:
    """Score against time, a panel for each task; each point names the lowest layer that trains."""
    mpl.rcParams.update({
        "font.size": 9,
        "svg.hashsalt": "normtune",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    })
    figure, axes = plt.subplots(1, len(found), figsize=(2.9 * len(found), 2.9), layout="constrained", squeeze=False)
    for panel, (task, measured) in zip(axes[0], found.items(), strict=True):
        _panel(panel, measured)
        panel.set_title(task, fontsize=9)
    axes[0][0].set_ylabel("best dev score x 100")
    axes[0][0].legend(frameon=False, loc="lower right", fontsize=8, labelcolor=INK)
    figure.supxlabel("time of a step, output norms of all layers = 1", fontsize=9, color=INK)
    target = ASSETS / "depth.svg"
    figure.savefig(target, metadata={"Date": None}, transparent=True)
    print(target)


def _panel(panel: Axes, measured: dict[str, Any]) -> None:
    for way, (colour, name, _) in WAYS.items():
        times = parts(measured, way)
        scores = [[100 * score for score in measured["layers"][str(layer)][way]["score"]] for layer in times]
        means, spreads = [statistics.mean(each) for each in scores], [statistics.stdev(each) for each in scores]
        look: dict[str, Any] = {"fmt": "o-", "markersize": 3.5, "linewidth": 1.2, "capsize": 2}
        panel.errorbar([*times.values()], means, spreads, color=colour, label=name, **look)
        below = -11 if way == "output" else 5
        for (layer, time), mean in zip(times.items(), means, strict=True):
            panel.annotate(f"{layer}-", (time, mean), (3, below), textcoords="offset points", fontsize=8, color=colour)
    panel.set_xlim(0, 1.1)
    panel.grid(color=INK, alpha=0.25)


if __name__ == "__main__":
    main()
