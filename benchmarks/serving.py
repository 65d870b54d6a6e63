"""The server under load: how long answers take at several rates, and what happens beyond its capacity.

`normtune serve` runs in a process of its own with one thread, over MiniLM and a hundred tasks; a client on the same
machine sends requests of one row, each for a task drawn at random, through loopback. First it asks as fast as answers
come, which gives the rate at which the server is saturated; then requests are sent at random moments (a Poisson
process) at parts and multiples of that rate, whether or not answers have come. The latency of a request counts from
the moment it was due, so that a client that falls behind hides no delay.

Run ``python benchmarks/serving.py``: two minutes on two cores. It writes ``results/benchmarks/serving.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from bank_deltas import untrained, variations
from harness import markdown, write

from normtune.data.suites import load_task
from normtune.models.base import load_base

TASKS = 100
QUEUE = 256
PARTS = (0.25, 0.5, 0.75, 0.9, 1.5, 2.0)
#: Connections of the client that asks as fast as answers come.
CLOSED = 128


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--name", default="serving", help="name of the file that is written")
    options = parser.parse_args()
    texts = load_task("sst2", "toy").labelled("dev").texts
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        with serving(Path(folder)) as url:
            saturated, cases = asyncio.run(measure(url, texts, options.seconds))
    below = [case for case in cases.values() if case["part"] < 1]
    ratios = {f"p99_over_p50_at_{case['part']:g}": case["p99_ms"] / case["p50_ms"] for case in below}
    setting = {"tasks": TASKS, "queue_rows": QUEUE, "server_threads": 1, "saturated_per_second": saturated}
    path = write(options.name, cases, ratios, **setting, seconds_a_rate=options.seconds)
    print(table(saturated, cases), path, sep="\n")


def save(folder: Path) -> None:
    """Write the tasks' deltas."""
    base = load_base("minilm")
    for name, one in variations(untrained(base), TASKS).items():
        one.save(folder / f"{name}.safetensors")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server's address, while it runs; it must exit with status 0."""
    code = "from normtune.cli.app import main; main()"
    limits = ["--threads", "1", "--max-queue", str(QUEUE), "--port", "0"]
    files = [str(file) for file in sorted(folder.iterdir())]
    command = [sys.executable, "-c", code, "serve", *files, *limits]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        assert found is not None, process.stderr.read()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


async def measure(url: str, texts: tuple[str, ...], seconds: float) -> tuple[float, dict[str, Any]]:
    """The rate of saturation, and the outcome at each rate."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as client:
        names = (await (await client.get("/v1/tasks")).json())["tasks"]
        draw = np.random.default_rng(0)

        async def ask() -> int:
            body = {"text": texts[int(draw.integers(len(texts)))]}
            async with client.post(f"/v1/tasks/{names[int(draw.integers(len(names)))]}/predict", json=body) as got:
                await got.read()
                assert got.status != 503 or int(got.headers["Retry-After"]) >= 1
                return got.status

        await saturate(ask, 2.0)
        saturated = await saturate(ask, seconds)
        cases = {}
        for part in PARTS:
            cases[f"{part:g} of saturation"] = {"part": part, **await at_rate(ask, part * saturated, seconds, draw)}
        return saturated, cases


async def saturate(ask: Any, seconds: float) -> float:
    """Answers a second when many clients ask as fast as answers come."""
    until = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < until:
            assert await ask() == 200
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLOSED)))
    return done / (time.perf_counter() - began)


async def at_rate(ask: Any, rate: float, seconds: float, draw: np.random.Generator) -> dict[str, Any]:
    """The outcome of requests sent at random moments."""
    due = np.cumsum(draw.exponential(1 / rate, round(rate * seconds)))
    statuses: Counter[str] = Counter()
    took: list[float] = []
    began = time.perf_counter()

    async def one(moment: float) -> None:
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        try:
            status = str(await ask())
        except aiohttp.ClientError:
            status = "dropped"
        statuses[status] += 1
        if status == "200":
            took.append(time.perf_counter() - began - moment)

    await asyncio.gather(*(one(float(moment)) for moment in due))
    whole = time.perf_counter() - began
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return {
        "sent_per_second": len(due) / float(due[-1]),
        "answered_per_second": len(took) / whole,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "statuses": dict(statuses),
    }


def table(saturated: float, cases: dict[str, Any]) -> str:
    """The table of results/README.md."""
    rows = []
    for case in cases.values():
        counts = dict(case["statuses"])
        good, full = counts.pop("200", 0), counts.pop("503", 0)
        times = (f"{case['sent_per_second']:,.0f}", f"{case['p50_ms']:,.0f} ms", f"{case['p99_ms']:,.0f} ms")
        rows.append([f"{case['part']:.0%}", *times, f"{good:,}", f"{full:,}", str(sum(counts.values()))])
    return markdown(["sent", "a second", "p50", "p99", "200", "503", "other"], rows)


if __name__ == "__main__":
    main()
