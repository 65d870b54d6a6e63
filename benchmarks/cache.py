"""A million tasks on one server: how often the cache holds the requested task, and what a miss costs.

The cache is the server's own, fed with requests whose tasks follow Zipf's law: the task of rank r is requested in
proportion to r^-s. Its hit rate is compared with Che's approximation, which is independent of our code. Costs are
measured beside it: loading a task from a folder, finding one that is loaded, preparing a row (finding its task and
tokenizing), and a row of a mixed batch of MiniLM on one thread.

Run ``python benchmarks/cache.py``: a minute. It writes ``results/benchmarks/cache.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bank_deltas import untrained, variations
from harness import markdown, summary, write
from scipy.optimize import brentq

from normtune.data.suites import load_task
from normtune.models.base import load_base
from normtune.serving.folder import DeltaFolder
from normtune.serving.settings import Settings
from normtune.serving.tasks import Cache, Catalogue

EXPONENTS = (0.8, 1.0, 1.2)
PARTS = (0.001, 0.01, 0.1)
FILES = 400


def main() -> None:
    """Simulate, measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=2_000_000, help="of each case; the first half fills the cache")
    parser.add_argument("--name", default="cache", help="name of the file that is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs = measured()
    cases: dict[str, Any] = {"costs": costs}
    ratios: dict[str, float] = {}
    for exponent in EXPONENTS:
        for part in PARTS:
            name = f"zipf {exponent:g}, {part:.1%} in memory"
            case = simulated(options.tasks, exponent, round(part * options.tasks), options.requests, costs)
            cases[name] = case
            ratios[f"hit rate over Che's, {name}"] = case["hit_rate"] / case["che"]
    path = write(options.name, cases, ratios, tasks=options.tasks, requests=options.requests)
    print(table(cases), costs, path, sep="\n")


def simulated(tasks: int, exponent: float, room: int, requests: int, costs: dict[str, Any]) -> dict[str, Any]:
    """The hit rate of the second half of the requests, and what a request then costs."""
    shares = np.arange(1, tasks + 1) ** -exponent
    shares /= shares.sum()
    drawn = np.searchsorted(np.cumsum(shares), np.random.default_rng(0).random(requests), side="right")
    size = int(costs["bytes_a_task"])
    cache: Cache[int] = Cache(room * size)
    half = requests // 2
    for number, task in enumerate(drawn.tolist()):
        if number == half:
            cache.hits = cache.misses = 0
        if cache.get(task) is None:
            cache.put(task, task, size)
    rate = cache.hits / (cache.hits + cache.misses)
    cost = costs["row_ms"] + costs["prepare_row_ms"] + (1 - rate) * costs["load_ms"]["median"]
    return {
        "exponent": exponent,
        "room": room,
        "megabytes": cache.limit / 1e6,
        "full": len(cache.values) == room,
        "hit_rate": rate,
        "che": che(shares, room),
        "request_ms": cost,
    }


def che(shares: np.ndarray, room: int) -> float:
    """Hit rate of an LRU cache, after Che, Tung and Wang (2002)."""
    span = brentq(lambda log: float(np.sum(-np.expm1(-shares * np.exp(log)))) - room, 0, 40)
    return float(np.sum(shares * -np.expm1(-shares * np.exp(span))))


def measured() -> dict[str, Any]:
    """Milliseconds and bytes, of MiniLM with LayerNorm deltas."""
    base = load_base("minilm")
    texts = load_task("sst2", "toy").labelled("dev").texts
    with tempfile.TemporaryDirectory() as place:
        files = [
            one.save(Path(place) / f"{name}.safetensors") for name, one in variations(untrained(base), FILES).items()
        ]
        names = [file.stem for file in files]
        catalogue = Catalogue(base, Settings(recheck=1e9), DeltaFolder(Path(place)), follow=True)
        load = [timed(partial(catalogue.entry, name)) for name in names]
        hot = [timed(partial(catalogue.entry, name)) for name in names]
        rows = [(names[n], texts[n % len(texts)]) for n in range(64)]
        prepare = [timed(partial(catalogue.prepare, rows)) for _ in range(20)]
        prepared = catalogue.prepare(rows)
        batches = [timed(partial(catalogue.bank.answer, prepared)) for _ in range(40)]
        return {
            "bytes_a_task": catalogue.entry(names[0]).bytes,
            "bytes_a_file": files[0].stat().st_size,
            "load_ms": summary(load),
            "look_up_ms": summary(hot),
            "prepare_row_ms": summary(prepare[5:])["median"] / 64,
            "row_ms": summary(batches[5:])["median"] / 64,
            "tokens_a_row": float(np.mean([len(one.fields["input_ids"]) for one in prepared])),
        }


def timed(work: Any) -> float:
    """Milliseconds that `work` takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def table(cases: dict[str, Any]) -> str:
    """The table of results/README.md."""
    rows = [
        [
            f"s = {case['exponent']:g}",
            f"{case['room']:,}",
            f"{case['megabytes']:,.0f} MB",
            f"{case['hit_rate']:.1%}",
            f"{case['che']:.1%}",
            f"{case['request_ms']:.2f} ms",
        ]
        for name, case in cases.items()
        if name != "costs"
    ]
    return markdown(["traffic", "in memory", "memory", "hit rate", "by Che", "a request"], rows)


if __name__ == "__main__":
    main()
