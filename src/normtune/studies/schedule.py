"""The order of jobs: each is begun as soon as what it needs is settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, final

from normtune.studies.jobs import Job, Outcomes, Result, settled


class Watcher(Protocol):
    """Is told how jobs go."""

    def begin(self, job: Job) -> None:
        """A job begins; once more where its worker died."""
        return

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """A job has come so far."""
        return

    def end(self, job: Job, result: Result) -> None:
        """A job is settled."""
        return


@final
class Silent(Watcher):
    """A watcher that says nothing."""


class Schedule:
    """Jobs that wait, that run, and what became of the others.

    Args:
        jobs: All jobs, each after those that it needs.
        known: What became of some of them before.
        watcher: Called as jobs begin, go on and end.
    """

    def __init__(self, jobs: Iterable[Job], known: Outcomes, watcher: Watcher | None = None) -> None:
        self.results: dict[str, Result] = dict(known)
        self.watcher = watcher or Silent()
        self._waiting = {job.key: job for job in jobs if job.key not in self.results}
        self._running: dict[str, Job] = {}

    def take(self) -> tuple[Job, Outcomes] | None:
        """The first job that can begin now, which then counts as running, and what became of those that it needs.

        On the way to it jobs are settled that are not to be done: what they need failed, or they turned out not to be
        needed. None where all jobs must wait for those that run, or none is left.
        """
        for job in [*self._waiting.values()]:
            if not all(key in self.results for key in job.needs):
                continue
            self._running[job.key] = self._waiting.pop(job.key)
            result = settled(job, self.results)
            if result is None:
                self.watcher.begin(job)
                return job, {key: self.results[key] for key in job.needs}
            self.settle(result)
        return None

    def give_back(self, job: Job) -> None:
        """Let a running job wait again, as the first of all."""
        self._waiting = {job.key: self._running.pop(job.key), **self._waiting}

    def settle(self, result: Result) -> None:
        """Note what became of a running job."""
        self.results[result.key] = result
        self.watcher.end(self._running.pop(result.key), result)
