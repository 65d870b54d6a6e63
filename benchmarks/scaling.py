"""How the cost of training LayerNorm grows: with length, batch, layers trained and examples, as curves.

Run ``python benchmarks/scaling.py``: about three minutes on two quiet cores. It writes
``results/benchmarks/scaling.json`` and draws ``docs/assets/scaling.svg``; ``--part`` measures some of the curves, each
of which is written as soon as it is there, and ``--draw`` only draws. All steps are of MiniLM: forward, backward,
AdamW; on random tokens without padding, as ``normtune train`` computes them by default. Where not varied, a batch has
32 texts of 64 tokens, all layers train, and dropout is on. The curves of length and batch have the bare matrix products
beside them. Examples are trained on for one epoch by the whole loop, batching included, with lengths drawn evenly from
8 to 64.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import ours
import torch
from harness import alternate, read, write
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from products import Products, Shape

from normtune.data.encode import Encoded
from normtune.data.glue_tasks import GLUE
from normtune.fast.ways import choose
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import load_base

BATCH, TOKENS = 32, 64
LENGTHS, BATCHES, EXAMPLES = (16, 32, 64, 128), (4, 8, 16, 32, 64), (64, 128, 256)
ASSETS = Path(__file__).parent.parent / "docs" / "assets"
Case = Callable[[], object]
#: The picture's name for what is varied; a curve that was not measured has no panel.
TITLES = {
    "length": "tokens a text",
    "batch": "texts a batch",
    "depth": "layers trained, from the top",
    "examples": "examples an epoch",
}
#: Of medium lightness, readable on white and on black.
INK, OURS, LIMIT = "#82878f", "#12a08c", "#c28e0e"


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default=",".join(PARTS), help="some of them, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    curves = read("scaling")
    how = {"threads": options.threads, "rounds": options.rounds, "clock": os.environ.get("NORMTUNE_CLOCK", "wall")}
    for part in () if options.draw else options.part.split(","):
        curves[part] = {**how, **PARTS[part](options.rounds)}
        print(write("scaling", curves, exponents(curves), batch=BATCH, tokens=TOKENS), part, flush=True)
    draw(curves)


@dataclass(frozen=True)
class Model:
    """A MiniLM in which the LayerNorm of some layers trains."""

    step: Callable[[int, int], None]
    layers: int


def model(lowest: int) -> Model:
    """MiniLM, in which LayerNorm trains from the layer `lowest` on."""
    base = load_base("minilm")
    layers = int(base.model.config.num_hidden_layers)
    tuning = Trainable(base, select(base.layout, f"layernorm@{lowest}-" if lowest else "layernorm"))
    optimizer = torch.optim.AdamW(tuning.param_groups(0.01), lr=1e-4, fused=True)
    base.model.train()
    ways = choose(base, dropout=True)

    def step(batch: int, tokens: int) -> None:
        ids = torch.randint(1000, 20000, (batch, tokens))
        with ways.context():
            outputs = base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            torch.nn.functional.cross_entropy(outputs, torch.arange(batch) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Model(step, layers)


def length(rounds: int) -> dict[str, Any]:
    """Seconds of a step in every round by tokens a text, and of its products."""
    return _beside_products([(n, BATCH, n) for n in LENGTHS], rounds)


def batch(rounds: int) -> dict[str, Any]:
    """The same by texts a batch."""
    return _beside_products([(n, n, TOKENS) for n in BATCHES], rounds)


def _beside_products(sizes: Sequence[tuple[int, int, int]], rounds: int) -> dict[str, Any]:
    """The whole step and its bare products, which take turns, for each size: what is varied, texts, tokens."""
    whole, bare = model(0), Products(Shape.of(load_base("minilm").model.config))
    cases = {f"{name}-{n}": _of(step, *size) for n, *size in sizes for name, step in _both(whole, bare)}
    seconds = _curve(cases, rounds)
    return {name: {str(n): seconds[f"{name}-{n}"] for n, *_ in sizes} for name, _ in _both(whole, bare)}


def _both(whole: Model, bare: Products) -> tuple[tuple[str, Callable[[int, int], None]], ...]:
    return ("ours", whole.step), ("products", bare.step)


def depth(rounds: int) -> dict[str, Any]:
    """Seconds of a step in every round by how many layers train, from the top."""
    layers = model(0).layers
    cases = {str(n): _of(model(layers - n).step, BATCH, TOKENS) for n in range(1, layers + 1)}
    return {"ours": _curve(cases, rounds)}


def examples(rounds: int) -> dict[str, Any]:
    """Seconds of an epoch in every round by examples."""
    return {"ours": _curve({str(n): epoch(n) for n in EXAMPLES}, rounds, warmup=0)}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "length": length,
    "batch": batch,
    "depth": depth,
    "examples": examples,
}


def _of(step: Callable[[int, int], None], batch: int, tokens: int) -> Case:
    return lambda: step(batch, tokens)


def _curve(cases: dict[str, Case], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    return {name: [round(s, 5) for s in values] for name, values in alternate(cases, rounds, warmup).items()}


def epoch(examples: int) -> Case:
    """An epoch over as many examples, by the whole loop."""
    base, task = load_base("minilm"), GLUE["sst2"]
    generator = np.random.default_rng(0)
    texts = [torch.from_numpy(generator.integers(1000, 20000, n)) for n in generator.integers(8, 65, examples)]
    fields = {"input_ids": tuple(texts), "attention_mask": tuple(torch.ones_like(text) for text in texts)}
    labels = torch.from_numpy(generator.integers(0, 2, examples))
    train = Encoded(fields, labels, {"input_ids": 0, "attention_mask": 0})
    one = Encoded({name: values[:1] for name, values in fields.items()}, labels[:1], train.pad)
    return lambda: ours.train(base, task, "default", train, one, epochs=1, rate=1e-3, seed=0)


def medians(curve: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """What was varied, and the median seconds."""
    return np.array([float(n) for n in curve]), np.array([float(np.median(values)) for values in curve.values()])


def exponents(curves: dict[str, Any]) -> dict[str, float]:
    """The exponents by which the times grow, over the upper half; of depth, the top layer's share of a step."""
    found = {}
    for name in ("length", "batch", "examples"):
        for way in {"ours", "products"} & {*curves.get(name, {})}:
            values, seconds = medians(curves[name][way])
            half = len(values) // 2
            power = float(np.polyfit(np.log(values[half:]), np.log(seconds[half:]), 1)[0])
            found[f"{name}_{way}_exponent"] = power
    if "depth" in curves:
        _, seconds = medians(curves["depth"]["ours"])
        found["top_layer_of_all_layers"] = float(seconds[0] / seconds[-1])
    return dict(sorted(found.items()))


def ways(curve: dict[str, Any]) -> list[tuple[str, dict[str, list[float]]]]:
    """The curves of a part, without its settings."""
    return [(name, values) for name, values in curve.items() if isinstance(values, dict)]


def draw(curves: dict[str, Any]) -> None:
    """A panel for each thing that is varied, on logarithmic axes but for depth."""
    mpl.rcParams.update({
        "font.size": 9,
        "svg.hashsalt": "normtune",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    })
    shown = {name: title for name, title in TITLES.items() if name in curves}
    figure, axes = plt.subplots(1, len(shown), figsize=(2.5 * len(shown), 2.7), layout="constrained", squeeze=False)
    for panel, (name, title) in zip(axes[0], shown.items(), strict=True):
        for way, values in ways(curves[name]):
            colour, style = (LIMIT, "s--") if way == "products" else (OURS, "o-")
            panel.plot(*medians(values), style, color=colour, markersize=3.5, linewidth=1.3)
        axis(panel, name, [int(n) for n in ways(curves[name])[0][1]])
        panel.set_xlabel(title)
    axes[0][0].set_ylabel("seconds")
    handles = [
        Line2D([], [], color=OURS, marker="o", markersize=3.5, label="training LayerNorm"),
        Line2D([], [], color=LIMIT, marker="s", ls="--", markersize=3.5, label="its bare matrix products"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    target = ASSETS / "scaling.svg"
    figure.savefig(target, metadata={"Date": None}, transparent=True)
    print(target)


def axis(panel: Axes, name: str, values: list[int]) -> None:
    """Ticks at what was measured; times from zero where the axis is linear."""
    if name == "depth":
        panel.set_ylim(bottom=0)
    else:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xticks(values, [str(value) for value in values])
    panel.minorticks_off()
    panel.grid(color=INK, alpha=0.25)


if __name__ == "__main__":
    main()
