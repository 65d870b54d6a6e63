"""What a task costs a bank: memory, file, and the time to add it while requests are answered."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bank_deltas import SHORT, filled, untrained, variations, windows

from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta, DeltaInfo
from normtune.models.base import Base, load_base

#: Tasks whose resident memory is measured, tasks that a turn adds under load, and mean seconds between additions.
RESIDENT, ADDED, PAUSE = 1000, 40, 0.1


def memory(base: Base, trained: Mapping[str, Delta]) -> dict[str, float]:
    """Bytes a task: of its values, of the process, and of its file."""
    figures: dict[str, float] = {}
    for method, delta in trained.items():
        bank = filled(base, {"one": delta})
        entry = bank.tasks["one"]
        with tempfile.TemporaryDirectory() as folder:
            figures[f"{method}_file_bytes"] = delta.save(folder).stat().st_size
        head = sum(value.numel() * value.element_size() for value in delta.head.values())
        figures[f"{method}_bytes"], figures[f"{method}_head_bytes"] = entry.bytes - head, head
    fresh = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    figures["layernorm_resident_bytes_a_task"] = float(fresh.stdout)
    return figures


def _fill_a_bank() -> float:
    """Bytes by which this process grows for each task, head and all that Python keeps of it included."""
    base = load_base("minilm")
    delta = untrained(base)
    bank = filled(base, {"first": delta})
    before = _resident()
    for number in range(RESIDENT):  # each is made, added and dropped, as when deltas are read from files
        (varied,) = variations(delta, 1, seed=number).values()
        info = DeltaInfo.model_validate_json(varied.info.model_dump_json())
        bank.add(f"task-{number}", replace(varied, info=info))
    return (_resident() - before) / RESIDENT


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def adding(bank: Bank, delta: Delta) -> dict[str, float]:
    """Seconds to read a delta and add it while another thread answers windows without a pause.

    Processor seconds separate the addition itself from waiting on a shared machine. Turns of `ADDED` files without and
    with additions alternate, so that the batches' times show what additions cost. The windows are short, which is when
    a delay shows.
    """
    batches: dict[bool, list[float]] = {False: [], True: []}
    state, stop = {"adding": False}, threading.Event()

    def answer() -> None:
        drawn = windows(bank, SHORT)
        while not stop.is_set():
            with_additions, started = state["adding"], time.perf_counter()
            bank.logits(next(drawn))
            batches[with_additions].append(time.perf_counter() - started)

    load = threading.Thread(target=answer)
    with tempfile.TemporaryDirectory() as folder:
        files = [one.save(Path(folder) / name) for name, one in variations(delta, ADDED, seed=1).items()]
        load.start()
        reads, adds, processor = [], [], []
        for turn in range(4):
            state["adding"] = turn % 2 == 1
            for number, file in enumerate(files):
                time.sleep(PAUSE / 2)
                if state["adding"]:
                    started = time.perf_counter()
                    read = Delta.load(file)
                    middle, used = time.perf_counter(), time.thread_time()
                    bank.add(f"added-{number}", read)
                    reads.append(middle - started)
                    adds.append(time.perf_counter() - middle)
                    processor.append(time.thread_time() - used)
        stop.set()
        load.join()
    return {
        "tasks_before": len(bank) - ADDED,
        "additions": len(adds),
        **_spread("read", reads),
        **_spread("add", adds),
        **_spread("add_processor", processor),
        **_spread("batch_without_additions", batches[False]),
        **_spread("batch_with_additions", batches[True]),
    }


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"{name}_median_seconds": statistics.median(ordered),
        f"{name}_p99_seconds": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))],
        f"{name}_max_seconds": ordered[-1],
    }


if __name__ == "__main__":
    print(_fill_a_bank())
