"""What every benchmark shares: cases that take turns, medians and ratios, and one JSON file with the circumstances."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from normtune.data.suites import load_task
from normtune.data.task import TaskData
from normtune.files import write_atomically
from normtune.machine import machine
from normtune.versions import versions

#: The environment variable that selects the processor's clock.
CLOCK = "NORMTUNE_CLOCK"
RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"


def now() -> float:
    """Seconds of wall time, or of processor time where ``NORMTUNE_CLOCK=cpu``, for a machine that is shared."""
    return time.process_time() if os.environ.get(CLOCK) == "cpu" else time.perf_counter()


def alternate(cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each case in each round; the cases take turns, so that a drift of the machine affects all alike.

    Args:
        cases: What to time, by name.
        rounds: How many times each.
        warmup: First rounds, which are not counted.

    Returns:
        `rounds` seconds by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + rounds):
        for name, case in cases.items():
            started = now()
            case()
            if turn >= warmup:
                seconds[name].append(now() - started)
    return seconds


def glue(task: str) -> TaskData:
    """A task's data from the GLUE folder that ``NORMTUNE_DATA`` names; without one the benchmark ends."""
    folder = os.environ.get("NORMTUNE_DATA")
    if not folder:
        raise SystemExit("This benchmark reads GLUE: set NORMTUNE_DATA to its folder.")
    return load_task(task, "glue", Path(folder))


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, smallest and largest of some seconds."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of `slow` over `fast` in the same round."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, whose columns are numbers, but for the first."""
    columns = list(head)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read(name: str) -> dict[str, Any]:
    """The cases of ``results/benchmarks/NAME.json``; none where there is no such file."""
    path = RESULTS / f"{name}.json"
    cases: dict[str, Any] = json.loads(path.read_text())["cases"] if path.is_file() else {}
    return cases


def write(name: str, cases: Mapping[str, Any], ratios: Mapping[str, float], **more: object) -> Path:
    """Write ``results/benchmarks/NAME.json``."""
    path = RESULTS / f"{name}.json"
    write_atomically(path, content(name, cases, ratios, **more))
    return path


def content(name: str, cases: Mapping[str, Any], ratios: Mapping[str, float], **more: object) -> str:
    """What was found, with the circumstances, as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {
        "name": name,
        "machine": machine(device),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "clock": os.environ.get(CLOCK, "wall"),
        "command": " ".join(["python", *sys.argv]),
        **more,
        "cases": cases,
        "ratios": ratios,
    }
    return json.dumps(facts, indent=1) + "\n"
