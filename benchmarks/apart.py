"""Cases in processes of their own, which take turns: a peer runs as its users run it, without our settings."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


class Apart:
    """One process, which runs one call at a time and keeps its caches.

    Args:
        threads: torch's threads in the process.
    """

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(threads,))

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function`, of a module's top level, on `args` in the process, and wait for its result."""
        return self._pool.submit(function, *args).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def close(processes: Iterable[Apart]) -> None:
    """End all of them."""
    for process in processes:
        process.close()


def _prepare(threads: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
