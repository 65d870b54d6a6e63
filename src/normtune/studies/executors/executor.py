"""Executors: who does a study's jobs, behind one interface; here in this process, elsewhere a pool or a cluster."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import partial
from typing import Protocol, final

from normtune.studies.jobs import Job, Result
from normtune.studies.schedule import Schedule
from normtune.studies.study import StudyConfig
from normtune.studies.work import Place, Work


class Report(Protocol):
    """Is told how a study goes."""

    def begin(self, job: Job) -> None:
        """A job begins."""

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """A job has come so far."""

    def end(self, job: Job, result: Result) -> None:
        """A job is settled."""


@final
class Silent:
    """A report that says nothing."""

    def begin(self, job: Job) -> None:
        """A job begins."""

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """A job has come so far."""

    def end(self, job: Job, result: Result) -> None:
        """A job is settled."""


class Executor(ABC):
    """Does the jobs of a schedule, each as soon as what it needs is settled."""

    @abstractmethod
    def run(self, schedule: Schedule, config: StudyConfig, place: Place, report: Report) -> None:
        """Do all jobs that are left.

        Args:
            schedule: The jobs; what becomes of them is noted there.
            config: The study.
            place: Where it lies; every worker must reach it under that name.
            report: Told how it goes.
        """


@final
class Here(Executor):
    """Does one job after the other in this process.

    Args:
        work: What does them, where the base model is loaded already.
    """

    def __init__(self, work: Work | None = None) -> None:
        self._work = work

    def run(self, schedule: Schedule, config: StudyConfig, place: Place, report: Report) -> None:
        """Do all jobs that are left (see `Executor.run`)."""
        tell_blocked(schedule, report)
        while (job := schedule.take()) is not None:
            self._work = self._work or Work(config, place)
            report.begin(job)
            result = self._work.run(job, schedule.needs(job), partial(report.tick, job))
            schedule.settle(result)
            report.end(job, result)
            tell_blocked(schedule, report)


def tell_blocked(schedule: Schedule, report: Report) -> None:
    """Settle and report what can never be begun."""
    while found := schedule.blocked():
        for job, result in found:
            report.end(job, result)


def fair_threads(workers: int) -> int:
    """Threads for each of some workers, so that together they have as many as there are cores."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))
