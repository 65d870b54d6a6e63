"""Tokens a second of bfloat16 training on a GPU and the share of its peak: ours, and the Trainer with and without PEFT.

Run ``python benchmarks/gpu.py`` where there is a GPU: about five minutes. It writes ``results/benchmarks/gpu.json``.
The model has BERT-large's shape and random weights, dropout is on. ``glue``: batches of 32 texts as long as GLUE's (a
lognormal around 38 tokens, at most 128), which the Trainer pads to 128 as ``run_glue.py`` does, or to the longest of a
batch that is grouped by length; ours are bucketed. ``full``: 512 tokens each. Only tokens of texts are counted, not
padding. A rate is the median over rounds in which the ways take turns, each with its first steps left out. The peak is
that of a large square product; the share counts only the products that training LayerNorm cannot do without.
``--shape tiny --device cpu`` tries the benchmark out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from harness import RESULTS, content, now, ratio
from products import Products, Shape, peak_rate
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from normtune.data.encode import Encoded, buckets
from normtune.fast.dropout import FastDropout
from normtune.fast.linear import fast_linear
from normtune.files import write_atomically
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, wrap


@dataclass(frozen=True)
class Size:
    """A model's shape and what it is trained on.

    Attributes:
        width: The hidden size.
        layers: How many.
        heads: Of attention.
        batch: Texts a step.
        padded: Tokens that ``run_glue.py`` pads to.
        full: Tokens of a text at full length.
        steps: Steps a round, of which the first `unseen` are not timed.
        unseen: How many are not timed.
        square: Side of the product that measures the peak.
    """

    width: int
    layers: int
    heads: int
    batch: int
    padded: int
    full: int
    steps: int
    unseen: int
    square: int


SIZES = {
    "large": Size(1024, 24, 16, batch=32, padded=128, full=512, steps=24, unseen=4, square=8192),
    "tiny": Size(32, 2, 2, batch=4, padded=16, full=24, steps=3, unseen=1, square=128),
}
#: The peers by name: what they train, and whether texts are padded to one length rather than grouped by length.
PEERS = {
    "peft_layernorm": ("layernorm", True),
    "peft_layernorm_grouped": ("layernorm", False),
    "lora": ("lora", True),
    "full": ("full", True),
}
#: Mean and spread of the logarithm of a GLUE text's tokens, over the tasks.
LOGARITHM = (3.4, 0.6)
Way = Callable[[], float]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=tuple(SIZES), default="large")
    parser.add_argument("--device", help="cuda, or cpu to try it out [default: cuda]")
    parser.add_argument("--lengths", default="glue,full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    device = options.device or "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU is here; --device cpu --shape tiny tries the benchmark out.")
    warnings.simplefilter("ignore")
    size, rates, ratios = SIZES[options.shape], {}, {}
    peak = peak_rate(device, size.square)
    for lengths in options.lengths.split(","):
        rates[lengths] = measure(size, lengths, device, options.rounds, peak)
        own = rates[lengths]["ours"]["seconds"]
        for name, found in rates[lengths].items():
            ratios[f"{lengths}_vs_{name}"] = ratio(found["seconds"], own)
    path = options.results / "gpu.json"
    write_atomically(path, content("gpu", rates, ratios, shape=options.shape, peak_flops=peak, on=device))
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    print(path)


def measure(size: Size, lengths: str, device: str, rounds: int, peak: float) -> dict[str, dict[str, Any]]:
    """For each way its seconds a round, tokens a second, and share of the peak; the ways take turns."""
    examples = texts(size, lengths)
    ways: dict[str, Way] = {"ours": own(size, examples, device)}
    for name, (method, padded) in PEERS.items():
        if padded or lengths == "glue":  # texts of one length need no grouping
            to = (size.padded if lengths == "glue" else size.full) if padded else None
            ways[name] = peer(size, examples, device, method, to)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            spent = way()
            if turn:
                seconds[name].append(spent)
    tokens = int(examples.lengths.sum()) / size.steps  # a step's
    operations = Products(Shape.of(config(size))).operations(1, round(float(examples.lengths.mean()))) * size.batch
    return {
        name: {
            "seconds": values,
            "tokens_a_second": round(tokens / statistics.median(values)),
            "share_of_peak": round(operations / statistics.median(values) / peak, 4),
        }
        for name, values in seconds.items()
    }


def config(size: Size) -> BertConfig:
    """The configuration of a BERT of that size, with BERT's own dropout."""
    return BertConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
    )


def made(size: Size) -> Base:
    """A base of that size with random weights."""
    torch.manual_seed(0)
    return wrap(BertForSequenceClassification(config(size)))


def texts(size: Size, lengths: str) -> Encoded:
    """Random tokens for a round, of GLUE's lengths or of the full one."""
    generator, count = np.random.default_rng(0), size.steps * size.batch
    drawn = generator.lognormal(*LOGARITHM, count).clip(4, size.padded).round().astype(int)
    each = drawn if lengths == "glue" else np.full(count, size.full)
    ids = tuple(torch.from_numpy(generator.integers(1000, 20000, n)) for n in each)
    fields = {"input_ids": ids, "attention_mask": tuple(torch.ones_like(row) for row in ids)}
    labels = torch.from_numpy(generator.integers(0, 2, count))
    return Encoded(fields, labels, dict.fromkeys(fields, 0))


def own(size: Size, examples: Encoded, device: str) -> Way:
    """Ours: a frozen base in bfloat16, float32 for LayerNorm, batches of like length."""
    base = made(size)
    nn.Module.to(base.model, device, torch.bfloat16).train()
    tuning = Trainable(base, select(base.layout, "layernorm"))
    optimizer = torch.optim.AdamW(tuning.param_groups(0.01), lr=1e-3, fused=True)
    order, place = buckets(examples.lengths, size.batch, seed=0, epoch=0), torch.device(device)
    assert examples.labels is not None
    labels = examples.labels

    def step(numbers: np.ndarray) -> None:
        outputs = base.model(**examples.batch(numbers, place)).logits.float()
        torch.nn.functional.cross_entropy(outputs, labels[numbers].to(place)).backward()
        torch.nn.utils.clip_grad_norm_(tuning.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def run() -> float:
        times = [now()]
        with FastDropout(), fast_linear():
            for numbers in order:
                step(numbers)
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(now())
        return a_step(times, size)

    return run


def peer(size: Size, examples: Encoded, device: str, method: str, padded: int | None) -> Way:
    """A ``transformers.Trainer`` with bfloat16 mixed precision, on texts padded to one length or grouped by it."""
    model = peers.peer_model(made(size), method)
    rows = peers.items(examples, range(len(examples)), regression=False, padded=padded)

    def run() -> float:
        clock = peers.Clock()
        peers.trainer(
            model,
            rows,
            None,
            rate=1e-3,
            batch_size=size.batch,
            padded=padded is not None,
            strategy="random" if padded is not None else "group_by_length",
            bf16=True,
            use_cpu=device == "cpu",
            callbacks=[clock],
            data_collator=padding,
        ).train()
        return a_step(clock.times, size)

    return run


def padding(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch, padded to its longest text where it is not padded already."""
    found = {"labels": torch.tensor([row["labels"] for row in rows])}
    for name in ("input_ids", "attention_mask"):
        values = [torch.tensor(row[name]) for row in rows]
        found[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return found


def a_step(times: list[float], size: Size) -> float:
    """Mean seconds of a step, without the first ones."""
    return (times[-1] - times[size.unseen]) / (size.steps - size.unseen)


if __name__ == "__main__":
    main()
