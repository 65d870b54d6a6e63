"""The order of jobs: each is begun as soon as what it needs is settled."""

from __future__ import annotations

from collections.abc import Iterable

from normtune.studies.jobs import Job, Outcomes, Result, settled


class Watcher:
    """Receives the progress of jobs; this one says nothing."""

    def begin(self, job: Job) -> None:
        """A job begins; called again if its worker died."""

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """A job has done `done` of `total`."""

    def end(self, job: Job, result: Result) -> None:
        """A job is settled."""


class Schedule:
    """Waiting jobs, running jobs, and the results of the others.

    Args:
        jobs: All jobs, each after those that it needs.
        known: Results of those that are settled already.
        watcher: Called as jobs begin, go on and end.
    """

    def __init__(self, jobs: Iterable[Job], known: Outcomes, watcher: Watcher | None = None) -> None:
        self.results: dict[str, Result] = dict(known)
        self.watcher = watcher or Watcher()
        self._waiting = {job.key: job for job in jobs if job.key not in self.results}
        self._running: dict[str, Job] = {}

    def take(self) -> tuple[Job, Outcomes] | None:
        """Take the first job that can begin now, which then counts as running, and the results of those that it needs.

        Jobs before it that are not to be run, since what they need failed or they are not needed, are settled. None if
        all waiting jobs need a running one, or no job is left.
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
        """Put a running job back as the first that waits."""
        self._waiting = {job.key: self._running.pop(job.key), **self._waiting}

    def settle(self, result: Result) -> None:
        """Record the result of a running job."""
        self.results[result.key] = result
        self.watcher.end(self._running.pop(result.key), result)
