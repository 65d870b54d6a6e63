"""How the cost of training LayerNorm grows: with length, batch, layers trained and examples, as curves.

Run ``python benchmarks/scaling.py``: about two minutes on two cores. It writes ``results/benchmarks/scaling.json`` and
draws ``docs/assets/scaling.svg``; ``--draw`` only draws. All steps are of MiniLM: forward, backward, AdamW; on random
tokens without padding. What is not varied is a batch of 32 texts of 64 tokens, all layers, dropout on from the fast
generator. Beside each time stands that of the bare matrix products. Examples are trained on for one epoch by the whole
loop, batching and all, with lengths drawn evenly from 8 to 64.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import ours
import torch
from harness import RESULTS, alternate, write
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from products import Products, Shape

from normtune.execution.batching import Encoded
from normtune.execution.dropping import dropout_of
from normtune.execution.linear import fast_linear
from normtune.execution.sparse import Tuning
from normtune.models.base import load_base
from normtune.selection.expression import select
from normtune.tasks.glue import GLUE

BATCH, TOKENS = 32, 64
LENGTHS, BATCHES, EXAMPLES = (16, 32, 64, 128), (4, 8, 16, 32, 64), (64, 128, 256)
ASSETS = Path(__file__).parent.parent / "docs" / "assets"
Case = Callable[[], object]
TITLES = {
    "length": "tokens a text",
    "batch": "texts a batch",
    "depth": "layers trained, from the top",
    "examples": "examples an epoch",
}


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.draw:
        curves = measure(options.rounds)
        print(write("scaling", curves, exponents(curves), batch=BATCH, tokens=TOKENS, rounds=options.rounds))
    draw(json.loads((RESULTS / "scaling.json").read_text()))


@dataclass(frozen=True)
class Model:
    """A MiniLM of which the LayerNorm of some layers trains."""

    step: Callable[[int, int], None]
    layers: int


def model(lowest: int) -> Model:
    """MiniLM, of which `lowest` is the lowest layer that trains."""
    base = load_base("minilm")
    layers = int(base.model.config.num_hidden_layers)
    tuning = Tuning(base, select(base.layout, f"layernorm@{lowest}-" if lowest else "layernorm"))
    optimizer = torch.optim.AdamW(tuning.param_groups(0.01), lr=1e-4, fused=True)
    base.model.train()

    def step(batch: int, tokens: int) -> None:
        ids = torch.randint(1000, 20000, (batch, tokens))
        with dropout_of("fast"), fast_linear():
            outputs = base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            torch.nn.functional.cross_entropy(outputs, torch.arange(batch) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Model(step, layers)


def measure(rounds: int) -> dict[str, Any]:
    """Seconds in every round, by what is varied and its values."""
    whole, bare = model(0), Products(Shape.of(load_base("minilm").model.config))
    partly = [model(lowest) for lowest in range(1, whole.layers)]
    depth = {str(whole.layers - n): _of(m.step, BATCH, TOKENS) for n, m in enumerate([whole, *partly])}
    return {
        "length": _curve({str(n): _of(whole.step, BATCH, n) for n in LENGTHS}, rounds),
        "length_products": _curve({str(n): _of(bare.step, BATCH, n) for n in LENGTHS}, rounds),
        "batch": _curve({str(n): _of(whole.step, n, TOKENS) for n in BATCHES}, rounds),
        "batch_products": _curve({str(n): _of(bare.step, n, TOKENS) for n in BATCHES}, rounds),
        "depth": _curve(dict(reversed(depth.items())), rounds),
        "examples": _curve({str(n): epoch(n) for n in EXAMPLES}, 1, warmup=0),
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
    train = Encoded(fields, labels, 0, {"input_ids": 0, "attention_mask": 0})
    one = Encoded({name: values[:1] for name, values in fields.items()}, labels[:1], 0, train.pad)
    return lambda: ours.train(base, task, "ours_paper", train, one, epochs=1, rate=1e-3, seed=0)


def medians(curve: dict[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """What was varied, and the median seconds."""
    return np.array([float(n) for n in curve]), np.array([float(np.median(values)) for values in curve.values()])


def exponents(curves: dict[str, Any]) -> dict[str, float]:
    """The power of what is varied that the time grows by, over the upper half; of depth the share of a whole step."""
    found = {}
    for name in ("length", "length_products", "batch", "batch_products", "examples"):
        values, seconds = medians(curves[name])
        half = len(values) // 2
        found[f"{name}_exponent"] = float(np.polyfit(np.log(values[half:]), np.log(seconds[half:]), 1)[0])
    _, seconds = medians(curves["depth"])
    found["top_layer_of_all_layers"] = float(seconds[0] / seconds[-1])
    return found


def draw(stored: dict[str, Any]) -> None:
    """A panel for each thing that is varied, on logarithmic axes but for depth."""
    mpl.rcParams.update({
        "font.size": 9,
        "svg.hashsalt": "normtune",
        "axes.spines.top": False,
        "axes.spines.right": False,
    })
    figure, axes = plt.subplots(1, len(TITLES), figsize=(2.6 * len(TITLES), 2.6), layout="constrained")
    for panel, (name, title) in zip(axes, TITLES.items(), strict=True):
        line(panel, stored["cases"][name], "#0f8f7d", "LayerNorm")
        if f"{name}_products" in stored["cases"]:
            line(panel, stored["cases"][f"{name}_products"], "#8a8f98", "bare products")
        if name != "depth":
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter("{x:.0f}")
        else:
            panel.set_ylim(bottom=0)
        panel.set_xlabel(title)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False)
    target = ASSETS / "scaling.svg"
    figure.savefig(target, metadata={"Date": None})
    print(target)


def line(panel: Axes, curve: dict[str, Sequence[float]], colour: str, label: str) -> None:
    """Medians over rounds, as a line with points."""
    panel.plot(*medians(curve), "o-", color=colour, label=label, markersize=3.5)


if __name__ == "__main__":
    main()
