"""What the fast generator of dropout, fused layers and the frozen prefix gain: training steps, with and without them.

Also what several candidates in one pass gain: the time of each of three, against a step of its own, of short texts.
Run ``OMP_NUM_THREADS=1 python benchmarks/fast.py``: about one and a half minutes on one core. It writes
``results/benchmarks/fast.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from harness import now, ratio, summary, write

from normtune.config import Generator, Layers
from normtune.data.encode import Encoded
from normtune.fast.dropping import dropout_of
from normtune.fast.fused import fused
from normtune.fast.linear import fast_linear
from normtune.fast.point import Point
from normtune.fast.prefix import Prefix
from normtune.fast.stack import Share, Stack
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import Base, load_base

ROUNDS = 5
#: Shapes of batches: 32 pairs of MRPC are about 53 tokens long, 32 sentences of CoLA about 11.
BATCH, TOKENS, SHORT = 32, 53, 11
#: Candidates that share a pass, and passes that are timed after one that makes ready.
CANDIDATES, STEPS = 3, 2


def main() -> None:
    """Measure, print and write."""
    base = load_base("minilm")
    cases = {
        "dropout_torch": step(base, "layernorm", dropout="torch"),
        "dropout_fast": step(base, "layernorm", dropout="fast"),
        "dropout_fused": step(base, "layernorm", dropout="fast", layers="fused"),
        "dropout_compiled": step(base, "layernorm", dropout="fast", layers="compiled"),
        "no_dropout": step(base, "layernorm"),
        "prefix": step(base, "layernorm", prefix=True),
        "prefix_fused": step(base, "layernorm", prefix=True, layers="fused"),
        "prefix_compiled": step(base, "layernorm", prefix=True, layers="compiled"),
        "prefix_top_half_fused": step(base, "layernorm@3-", prefix=True, layers="fused"),
        "short": step(base, "layernorm", prefix=True, layers="fused", tokens=SHORT),
        "short_candidates": shared(base, count=CANDIDATES, tokens=SHORT),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            seconds[name].append(case())
    plain, short = seconds["no_dropout"], seconds["short"]
    ratios = {
        f"{name}_over_no_dropout": ratio(values, plain) for name, values in seconds.items() if "short" not in name
    }
    ratios["each_of_candidates_in_one_pass_over_alone"] = ratio(seconds["short_candidates"], short)
    found = {name: summary(values) for name, values in seconds.items()}
    path = write("fast", found, ratios, batch=BATCH, tokens=TOKENS, short=SHORT, rounds=ROUNDS)
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    print(path)


def step(
    base: Base,
    method: str,
    *,
    dropout: Generator | None = None,
    prefix: bool = False,
    layers: Layers = "torch",
    tokens: int = TOKENS,
) -> Callable[[], float]:
    """Seconds of one forward and backward pass of MiniLM under `method`, with the model made ready before."""
    encoded, labels, rows = texts(tokens)
    selection = select(base.layout, method)
    states = Prefix(base, Point.of(base, selection)).states(encoded) if prefix else None

    def once() -> None:
        if states is not None:
            outputs = states.logits(base.model, rows, base.device)
        else:
            outputs = base.model(**encoded.batch(rows)).logits
        torch.nn.functional.cross_entropy(outputs, labels).backward()

    def run() -> float:
        tuning = Tuning(base, selection)
        base.model.train(dropout is not None)
        way = nullcontext() if layers == "torch" else fused(base.model, compiled=layers == "compiled")
        with dropout_of(dropout or "torch"), fast_linear(), way:
            seconds = timed(once)
        tuning.undo()
        return seconds

    return run


def shared(base: Base, *, count: int, tokens: int) -> Callable[[], float]:
    """Seconds for each of so many candidates of a pass over all of them, with fused layers and the prefix kept."""
    encoded, labels, rows = texts(tokens)
    selection = select(base.layout, "layernorm")
    states = Prefix(base, Point.of(base, selection)).states(encoded)
    every = np.tile(rows, count)

    def run() -> float:
        stack = Stack(base, selection)
        shares = [Share(stack.candidate(seed), BATCH) for seed in range(count)]
        base.model.eval()

        def once() -> None:
            outputs = states.logits(base.model, every, base.device).split(BATCH)
            torch.stack([torch.nn.functional.cross_entropy(own, labels) for own in outputs]).sum().backward()

        with stack.installed(), fast_linear(), fused(base.model, stack=stack):
            stack.show(*shares)
            return timed(once) / count

    return run


def texts(tokens: int) -> tuple[Encoded, torch.Tensor, np.ndarray]:
    """A batch of random texts without padding, its labels and its positions."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (BATCH, tokens), generator=generator)
    fields = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    encoded = Encoded({name: tuple(value) for name, value in fields.items()}, None, 0, dict.fromkeys(fields, 0))
    return encoded, torch.arange(BATCH) % 2, np.arange(BATCH)


def timed(once: Callable[[], None]) -> float:
    """Seconds of a pass, after one that makes ready."""
    once()
    started = now()
    for _ in range(STEPS):
        once()
    return (now() - started) / STEPS


if __name__ == "__main__":
    main()
