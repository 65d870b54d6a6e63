"""Executors, which run jobs behind one interface: here in this process, elsewhere in a pool or a cluster."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import partial
from typing import final

from normtune.studies.engine import Engine
from normtune.studies.schedule import Schedule


class Executor(ABC):
    """Runs the jobs of a schedule, each as soon as what it needs is settled."""

    @abstractmethod
    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Run all jobs that are left.

        Args:
            schedule: The jobs; their results are recorded in it.
            engine: Runs them in this process. Other processes make their own from its `setup` and `storage`, whose
                folders they must reach under the same names.
        """


@final
class Here(Executor):
    """Runs one job after the other in this process."""

    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Run all jobs that are left (see `Executor.run`)."""
        while (taken := schedule.take()) is not None:
            job, needs = taken
            schedule.settle(engine.run(job, needs, partial(schedule.watcher.tick, job)))


def fair_threads(workers: int) -> int:
    """Threads for each worker, so that together they have as many as there are cores."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))
