"""How much the fast linear layers gain: whole training steps with them and without, and where entry-wise gradients pay.

Run ``python benchmarks/linear.py``: about two minutes on two cores. It writes ``results/benchmarks/linear.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from harness import alternate, ratio, summary, write
from mask_step import BATCH, TOKENS, loss

from normtune.fast.linear import fast_linear, prefers_onednn
from normtune.methods.entries import Entries
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base

METHODS = ("layernorm", "bitfit", "random", "full")
ROUNDS = 7


def main() -> None:
    """Measure, print and write."""
    base = load_base("minilm")
    cases: dict[str, object] = {}
    ratios: dict[str, float] = {}
    for method in METHODS:
        seconds = alternate({"torch": step(base, method, False), "fast": step(base, method, True)}, ROUNDS)
        cases[f"step_{method}"] = {name: summary(values) for name, values in seconds.items()}
        ratios[f"step_{method}_torch_vs_fast"] = ratio(seconds["torch"], seconds["fast"])
    for share in (1 / 4096, 1 / 512, 1 / 256, 1 / 64):
        seconds = alternate(gradients(share), ROUNDS)
        cases[f"gradient_of_1_in_{round(1 / share)}"] = {name: summary(values) for name, values in seconds.items()}
        ratios[f"gradient_of_1_in_{round(1 / share)}_dense_vs_entries"] = ratio(seconds["dense"], seconds["entries"])
    path = write("linear", cases, ratios, onednn=prefers_onednn(), batch=BATCH, tokens=TOKENS, rounds=ROUNDS)
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    print(path)


def step(base: Base, method: str, fast: bool) -> Callable[[], None]:
    """One forward and backward pass of MiniLM under `method`."""
    forward = loss(base)

    def run() -> None:
        tuning = Trainable(base, select(base.layout, method))
        with fast_linear() if fast else nullcontext():
            forward().backward()
        tuning.undo()

    return run


def gradients(share: float) -> dict[str, Callable[[], object]]:
    """The gradient of `share` of the entries of a 1536 x 384 weight: entry by entry, and by the dense product."""
    tokens, outputs, inputs = BATCH * TOKENS, 1536, 384
    generator = torch.Generator().manual_seed(0)
    grad, seen = torch.randn(tokens, outputs, generator=generator), torch.randn(tokens, inputs, generator=generator)
    indices = torch.randperm(outputs * inputs, generator=generator)[: round(share * outputs * inputs)].sort().values

    def dense() -> object:
        product = torch.ops.mkldnn._linear_pointwise if prefers_onednn() else None
        left, right = grad.t().contiguous(), seen.t().contiguous()
        whole = product(left, right, None, "none", [], None) if product else torch.nn.functional.linear(left, right)
        return whole.reshape(-1)[indices]

    entries = Entries(indices, torch.Size((outputs, inputs)))
    return {"dense": dense, "entries": lambda: entries.of_product(grad, entries.seen(seen))}


if __name__ == "__main__":
    main()
