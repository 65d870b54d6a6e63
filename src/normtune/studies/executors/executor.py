"""Executors: who does jobs, behind one interface; here in this process, elsewhere a pool or a cluster."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import partial
from typing import final

from normtune.studies.engine import Engine
from normtune.studies.schedule import Schedule


class Executor(ABC):
    """Does the jobs of a schedule, each as soon as what it needs is settled."""

    @abstractmethod
    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Do all jobs that are left.

        Args:
            schedule: The jobs; what becomes of them is noted there.
            engine: What does them in this process. Other processes make one like it, of its `setup` and its `storage`,
                whose folders they must reach under the same names.
        """


@final
class Here(Executor):
    """Does one job after the other in this process."""

    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Do all jobs that are left (see `Executor.run`)."""
        while (taken := schedule.take()) is not None:
            job, needs = taken
            schedule.settle(engine.run(job, needs, partial(schedule.watcher.tick, job)))


def fair_threads(workers: int) -> int:
    """Threads for each of some workers, so that together they have as many as there are cores."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))
