"""The speed of training before and after the rebuild, in turns on one machine.

It needs a checkout of the old code::

    git worktree add ../before df5899d
    python benchmarks/before.py ../before          # about 15 minutes on two cores

Each code runs in a process of its own, with its own ``benchmarks/speed.py``; both measure an epoch in the same way,
from a sample of its batches. *fastest* compares the old code's fastest options with dropout on (a compiler and kernels
in C++) with no option now. A ratio is the median over rounds of the time after over the time before, then the geometric
mean over the tasks: below 1 the current code is faster. ``results/benchmarks/before.json`` keeps all of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
#: The protocols of each case, before and after.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fastest": ({"layers": "compiled", "dropout_generator": "fast"}, {}),
    "fused": ({"layers": "fused", "dropout_generator": "fast"}, {}),
    "no_dropout": ({"layers": "compiled", "dropout": False, "prefix": True}, {"dropout": False}),
    "plain": ({}, {"plain": True}),
}


def main() -> None:
    """Measure, or run as the worker that measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("before", type=Path, help="a checkout of the code before")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", type=int, help="which of the two protocols this process measures")
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.threads)
        return
    from harness import ratio, write

    seconds: dict[str, Any] = {}
    with (
        worker(0, options.before, options.threads) as before,
        worker(1, Path(__file__).parents[1], options.threads) as now,
    ):
        for task in options.tasks.split(","):
            found = seconds.setdefault(task, {case: {"before": [], "after": []} for case in CASES})
            for _ in range(options.rounds):
                for case in CASES:
                    found[case]["before"].append(ask(before, task, case))
                    found[case]["after"].append(ask(now, task, case))
            print(
                task, {case: round(ratio(each["after"], each["before"]), 3) for case, each in found.items()}, flush=True
            )
    ratios = {
        f"{case}_after_over_before_geomean": statistics.geometric_mean(
            ratio(found[case]["after"], found[case]["before"]) for found in seconds.values()
        )
        for case in CASES
    }
    print(write("before", seconds, ratios, unit="seconds an example of an epoch after the first"), ratios)


@contextmanager
def worker(number: int, folder: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code in `folder`, and none of this checkout's."""
    paths = os.pathsep.join(str((folder / name).resolve()) for name in ("src", "benchmarks"))
    command = [sys.executable, "-P", __file__, str(folder), "--worker", str(number), "--threads", str(threads)]
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        yield process
        process.terminate()


def ask(process: subprocess.Popen[str], task: str, case: str) -> float:
    """Seconds an example of an epoch after the first."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(task, case, file=process.stdin, flush=True)
    for line in process.stdout:
        if line.startswith("seconds "):
            return float(line.split()[1])
    raise SystemExit(f"The process that measures {task}, {case} has ended.")


def work(number: int, threads: int) -> None:
    """Measure each task and case that standard input names, with the code on the path of this process."""
    import ours
    import speed
    import torch

    from normtune.config import Protocol

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    for case, both in CASES.items():
        fields = dict(both[number])
        more = {"plain": fields.pop("plain")} if "plain" in fields else {}
        ours.CASES[case] = ours.Case(case, Protocol(**ours.SCHEDULE, **fields), **more)
    for line in sys.stdin:
        task, case = line.split()
        _, _, epoch, *_ = speed.run_case(task, case)
        print("seconds", epoch, flush=True)


if __name__ == "__main__":
    main()
