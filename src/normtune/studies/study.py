"""A study: its jobs, the results so far, and running the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from normtune.studies.config import FILE, StudyConfig
from normtune.studies.engine import Engine, Storage
from normtune.studies.executors.executor import Executor, Here
from normtune.studies.jobs import Job, Result, settled
from normtune.studies.plan import plan
from normtune.studies.schedule import Schedule, Watcher


@dataclass(frozen=True)
class Study:
    """A study and what is known of it.

    Attributes:
        config: What it consists of.
        jobs: All its jobs, each after those that it needs.
        engine: Finds their results and runs them in this process.
    """

    config: StudyConfig
    jobs: tuple[Job, ...]
    engine: Engine

    @classmethod
    def open(cls, config: StudyConfig, storage: Storage) -> Study:
        """Plan a study. Nothing is run, and nothing is written."""
        engine = Engine(config, storage)
        return cls(config, plan(config, engine.session), engine)

    @cached_property
    def known(self) -> dict[str, Result]:
        """Results by key, as of the first access, of jobs that are done or turned out not to be needed."""
        known: dict[str, Result] = {}
        for job in self.jobs:
            if known.keys() >= {*job.needs}:
                result = settled(job, known) or self.engine.find(job, known)
                if result is not None and result.state != "blocked":
                    known[job.key] = result
        return known

    @property
    def missing(self) -> tuple[Job, ...]:
        """The jobs that are to be run."""
        return tuple(job for job in self.jobs if job.key not in self.known)

    def run(self, executor: Executor | None = None, watcher: Watcher | None = None) -> dict[str, Result]:
        """Run the missing jobs; the study's file is written first.

        Args:
            executor: Runs them; by default this process.
            watcher: Called as jobs begin, go on and end.

        Returns:
            The result of every job, by key.
        """
        schedule = Schedule(self.jobs, self.known, watcher)
        if self.engine.storage.mode != "read-only":
            self._keep()
            self.engine.tidy(self.jobs, self.known)
            (executor or Here()).run(schedule, self.engine)
            self._keep()  # again, in case another study wrote it meanwhile
        return schedule.results

    def _keep(self) -> None:
        """Write the study's file, merged with the one that is there if `StudyConfig.merged` can."""
        file = self.engine.storage.results / FILE
        joint = StudyConfig.load(file).merged(self.config) if file.is_file() else None
        (joint or self.config).save(file)
