"""Executors: who does jobs, behind one interface; here in this process, elsewhere a pool or a cluster."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import lru_cache, partial
from typing import Protocol, final

from normtune.errors import NormtuneError
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Place, Tell
from normtune.studies.jobs import Job, Result, Results
from normtune.studies.schedule import Schedule


class Report(Protocol):
    """Is told how jobs go."""

    def begin(self, job: Job) -> None:
        """A job begins."""
        return

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """A job has come so far."""
        return

    def end(self, job: Job, result: Result) -> None:
        """A job is settled."""
        return


@final
class Silent(Report):
    """A report that says nothing."""


class Executor(ABC):
    """Does the jobs of a schedule, each as soon as what it needs is settled."""

    @abstractmethod
    def run(self, schedule: Schedule, setup: Setup, place: Place, report: Report) -> None:
        """Do all jobs that are left.

        Args:
            schedule: The jobs; what becomes of them is noted there.
            setup: What all runs have in common.
            place: Where results lie; every worker must reach it under that name.
            report: Told how it goes.
        """


@final
class Here(Executor):
    """Does one job after the other in this process.

    Args:
        engine: What does them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, schedule: Schedule, setup: Setup, place: Place, report: Report) -> None:
        """Do all jobs that are left (see `Executor.run`)."""
        tell_spare(schedule, report)
        while (job := schedule.take()) is not None:
            report.begin(job)
            result = self._engine.run(job, schedule.needs(job), partial(report.tick, job))
            schedule.settle(result)
            report.end(job, result)
            tell_spare(schedule, report)


def tell_spare(schedule: Schedule, report: Report) -> None:
    """Settle and report what is not to be done."""
    while found := schedule.spare():
        for job, result in found:
            report.end(job, result)


def call(setup: Setup, place: Place, job: Job, needs: Results, tell: Tell = lambda *_: None) -> Result:
    """Do one job in a process that may live on: the base model is kept for the next (see `Engine.run`)."""
    try:
        return _engine(setup, place).run(job, needs, tell)
    except NormtuneError as error:
        return Result(key=job.key, state="failed", error=str(error))


_engine = lru_cache(maxsize=1)(Engine)


def fair_threads(workers: int) -> int:
    """Threads for each of some workers, so that together they have as many as there are cores."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))
