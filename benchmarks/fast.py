"""What the fast generator of dropout and the frozen prefix gain: whole training steps, with and without them.

Run ``python benchmarks/fast.py``: about one minute on one core. It writes ``results/benchmarks/fast.json``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import alternate, ratio, summary, write

from normtune.config import Generator
from normtune.execution.batching import Encoded
from normtune.execution.dropping import dropout_of
from normtune.execution.linear import fast_linear
from normtune.execution.prefix import Point, Prefix
from normtune.execution.sparse import Tuning
from normtune.models.base import Base, load_base
from normtune.selection.expression import select

ROUNDS = 5
#: Shape of MRPC's batches: 32 pairs of about 53 tokens.
BATCH, TOKENS = 32, 53


def main() -> None:
    """Measure, print and write."""
    base = load_base("minilm")
    seconds = alternate(
        {
            "dropout_torch": step(base, "layernorm", dropout="torch"),
            "dropout_fast": step(base, "layernorm", dropout="fast"),
            "no_dropout": step(base, "layernorm"),
            "prefix": step(base, "layernorm", prefix=True),
            "prefix_top_half": step(base, "layernorm@3-", prefix=True),
        },
        ROUNDS,
    )
    plain, least = seconds["no_dropout"], {name: min(values) for name, values in seconds.items()}
    ratios = {f"{name}_over_no_dropout": ratio(values, plain) for name, values in seconds.items()}
    ratios |= {f"{name}_over_no_dropout_least": value / least["no_dropout"] for name, value in least.items()}
    cases = {name: summary(values) for name, values in seconds.items()}
    path = write("fast", cases, ratios, batch=BATCH, tokens=TOKENS, rounds=ROUNDS)
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    print(path)


def step(base: Base, method: str, *, dropout: Generator | None = None, prefix: bool = False) -> Callable[[], None]:
    """One forward and backward pass of MiniLM under `method`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (BATCH, TOKENS), generator=generator)
    fields = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    encoded = Encoded({name: tuple(value) for name, value in fields.items()}, None, 0, dict.fromkeys(fields, 0))
    labels, rows = torch.arange(BATCH) % 2, np.arange(BATCH)
    selection = select(base.layout, method)
    states = Prefix(base, Point.of(base, selection)).states(encoded) if prefix else None

    def run() -> None:
        tuning = Tuning(base, selection)
        base.model.train(dropout is not None)
        with dropout_of(dropout or "torch"), fast_linear():
            if states is not None:
                outputs = states.logits(base.model, rows, base.device)
            else:
                outputs = base.model(**encoded.batch(rows)).logits
            torch.nn.functional.cross_entropy(outputs, labels).backward()
        tuning.undo()

    return run


if __name__ == "__main__":
    main()
