"""The order of jobs: each is begun as soon as what it needs is settled."""

from __future__ import annotations

from collections.abc import Iterable

from normtune.studies.jobs import Job, Result, Results, settled


class Schedule:
    """Jobs that wait, that run, and what became of the others.

    Args:
        jobs: All jobs, each after those that it needs.
        known: What became of some of them before.
    """

    def __init__(self, jobs: Iterable[Job], known: Results) -> None:
        self.results: dict[str, Result] = dict(known)
        self._waiting = {job.key: job for job in jobs if job.key not in self.results}
        self._running: set[str] = set()

    @property
    def left(self) -> int:
        """How many jobs are not settled."""
        return len(self._waiting) + len(self._running)

    def spare(self) -> list[tuple[Job, Result]]:
        """Settle the jobs that are not to be done: what they need failed, or they turned out not to be needed."""
        found: list[tuple[Job, Result]] = []
        for job in list(self._waiting.values()):
            result = settled(job, self.results) if self._is_ready(job) else None
            if result is not None:
                del self._waiting[job.key]
                self.results[job.key] = result
                found.append((job, result))
        return found

    def take(self) -> Job | None:
        """The first job that can begin now, which then counts as running; None where all must wait."""
        for job in self._waiting.values():
            if self._is_ready(job):
                self._running.add(job.key)
                return self._waiting.pop(job.key)
        return None

    def needs(self, job: Job) -> dict[str, Result]:
        """What became of the jobs that `job` needs."""
        return {key: self.results[key] for key in job.needs}

    def give_back(self, job: Job) -> None:
        """Let a running job wait again, as the first of all."""
        self._running.discard(job.key)
        self._waiting = {job.key: job, **self._waiting}

    def settle(self, result: Result) -> None:
        """Note what became of a running job."""
        self._running.discard(result.key)
        self.results[result.key] = result

    def _is_ready(self, job: Job) -> bool:
        return all(key in self.results for key in job.needs)
