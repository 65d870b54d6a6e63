"""Training the norms of a low-precision base: ours, in float32, against PEFT's LN tuning, in one loop at one rate.

Run ``python benchmarks/precision.py``: about half an hour of one core. It writes ``results/benchmarks/precision.json``.

SST-2 on MiniLM, the norm that closes each layer. All start from the same float32 head and see the same batches; there
is no dropout. PEFT keeps its norms in the dtype of the base.
"""

from __future__ import annotations

import statistics
from itertools import product
from typing import Any

import numpy as np
import peers
import torch
from harness import glue, markdown, write
from torch import Tensor, nn

from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.evaluation import score
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec

TASK, EXAMPLES, DEV, LENGTH = "sst2", 2000, 400, 48
BATCH, EPOCHS, SEEDS, RATES = 16, 3, (0, 1, 2), (1e-3,)
PLURAL = {"weight": "weights", "bias": "biases"}
#: Who trains the norms, and the dtype of the base.
CASES = {
    **{f"ours, {dtype} base": dtype for dtype in ("float32", "bfloat16", "int8", "nf4")},
    "PEFT, bfloat16 base": "bfloat16",
}


def main() -> None:
    """Train, print and write."""
    data = glue(TASK)
    found: dict[str, dict[str, Any]] = {}
    for rate, (case, dtype) in product(RATES, CASES.items()):
        runs = []
        for seed in SEEDS:
            base = load_base("minilm", HeadSpec(data.task.kind, data.task.labels), dtype=dtype, head_seed=seed)
            train = base.encode(data.split("train").sample(EXAMPLES, seed), LENGTH)
            dev = base.encode(data.split("dev").sample(DEV, 0), LENGTH)
            before = values_of(base)
            learn(base, start(base, case), train, data.task, rate, seed)
            after = values_of(base)
            runs.append({
                "score": round(score(base, dev, data.task)[data.task.primary], 4),
                **{f"{PLURAL[leaf]} moved": float((after[leaf] != before[leaf]).double().mean()) for leaf in before},
                **{f"change of {PLURAL[leaf]}": float((after[leaf] - before[leaf]).abs().mean()) for leaf in before},
            })
        found.setdefault(f"{rate:g}", {})[case] = runs
    rows = [
        [rate, case, *(f"{statistics.mean(run[name] for run in runs):.4f}" for name in runs[0])]
        for rate, cases in found.items()
        for case, runs in cases.items()
    ]
    print(markdown(("rate", "norms and base", *runs[0]), rows))
    more = {"task": TASK, "model": "minilm", "examples": EXAMPLES, "dev": DEV, "batch": BATCH, "epochs": EPOCHS}
    print(write("precision", found, {}, **more, seeds=list(SEEDS)))


def start(base: Base, case: str) -> list[nn.Parameter]:
    """Make the norms and the head of a base trainable, and return their parameters."""
    if case.startswith("ours"):
        return [*Trainable(base, select(base.layout, "layernorm")).parameters()]
    return [parameter for parameter in peers.peer_model(base, "layernorm").parameters() if parameter.requires_grad]


def values_of(base: Base) -> dict[str, Tensor]:
    """Weights and biases of the norms that train, as the model computes with them, in float64."""
    norms = dict(base.model.named_modules())
    found = []
    for name in sorted(name for name in norms if name.endswith(".output.LayerNorm") and ".attention." not in name):
        norm: Any = norms[name]
        found.append(norm.ln_tuning_layers["default"] if hasattr(norm, "ln_tuning_layers") else norm)
    return {leaf: torch.cat([getattr(own, leaf).detach().double() for own in found]) for leaf in ("weight", "bias")}


def learn(base: Base, parameters: list[nn.Parameter], train: Encoded, task: Task, rate: float, seed: int) -> None:
    """Train by AdamW without weight decay, at a rate that decays linearly to zero."""
    assert train.labels is not None
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    draws, loss = np.random.default_rng(seed), task.asks.loss(task)
    for numbers in np.concatenate([draws.permutation(len(train)) for _ in range(EPOCHS)]).reshape(steps, BATCH):
        optimizer.zero_grad()
        loss(base.model(**train.batch(numbers)).logits.float(), train.labels[numbers]).backward()
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    main()
