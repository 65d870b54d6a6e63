"""What packing a batch without padding gains: training steps of MiniLM with fused layers, padded and packed.

Run ``python benchmarks/packing.py``: about two minutes on two quiet cores. The two take turns within one process; it
writes ``results/benchmarks/packing.json``. Without dropout, all layers train. ``pooled`` are batches of a training
whose texts are sorted in pools of 64 batches, as ours are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from harness import alternate, ratio, summary, write
from torch import Tensor, nn

from normtune.fast import unpadded as packing
from normtune.fast.fused import fusable, fused
from normtune.fast.layer import Layer
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import Base, load_base

ROUNDS, STEPS, BATCH = 9, 2, 32
#: Shortest and longest text of a batch; lengths between are drawn evenly.
BATCHES = {
    "short, pooled": (11, 12),
    "short, any": (6, 40),
    "middling, pooled": (52, 53),
    "middling, of a small set": (46, 53),
    "middling, any": (30, 80),
}


def main() -> None:
    """Measure, print and write."""
    base = load_base("minilm")
    base.model.eval()
    tuning = Tuning(base, select(base.layout, "layernorm"))
    layers, cases, padding = fusable(base.model), {}, {}
    for name, (low, high) in BATCHES.items():
        batch = texts(low, high)
        padding[name] = round(float(1 - batch["attention_mask"].float().mean()), 4)
        cases[f"{name}: padded"] = steps(base, layers, batch, waste=1.0)
        cases[f"{name}: packed"] = steps(base, layers, batch, waste=packing.WASTE)
    found = alternate(cases, ROUNDS)
    tuning.undo()
    ratios = {name: ratio(found[f"{name}: padded"], found[f"{name}: packed"]) for name in BATCHES}
    path = write(
        "packing", {n: summary(v) for n, v in found.items()}, ratios, padding=padding, batch=BATCH, rounds=ROUNDS
    )
    for name, value in ratios.items():
        print(f"{name}: {value:.2f} at {padding[name]:.0%} of padding")
    print(path)


def texts(low: int, high: int) -> dict[str, Tensor]:
    """A padded batch of texts of `low` to `high` tokens, of which one is the longest."""
    generator = np.random.default_rng([low, high])
    lengths = torch.from_numpy(generator.integers(low, high + 1, BATCH))
    lengths[0] = high
    own = (torch.arange(high) < lengths[:, None]).long()
    ids = torch.from_numpy(generator.integers(1000, 20000, (BATCH, high)))
    return {"input_ids": ids * own, "attention_mask": own}


def steps(
    base: Base, layers: Mapping[nn.Module, Layer], batch: dict[str, Tensor], *, waste: float
) -> Callable[[], None]:
    """Forward and backward passes over a batch, packed if padding is a larger part of it than `waste`."""

    def run() -> None:
        known, packing.WASTE = packing.WASTE, waste
        with fused(base.model, layers=layers):
            for _ in range(STEPS):
                base.model(**batch).logits.square().sum().backward()
        packing.WASTE = known

    return run


if __name__ == "__main__":
    main()
