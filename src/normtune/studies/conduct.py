"""Conducting a study: what is to be done, and doing it."""

from __future__ import annotations

from dataclasses import dataclass

from normtune.studies.executors.executor import Executor, Here, Report, Silent
from normtune.studies.jobs import Job, Result
from normtune.studies.plan import plan
from normtune.studies.schedule import Schedule
from normtune.studies.study import FILE, StudyConfig
from normtune.studies.work import Place, Work, survey


@dataclass(frozen=True)
class Study:
    """A study and what is known of it.

    Attributes:
        jobs: All its jobs, each after those that it needs.
        known: What became of those that were done before, by key.
        work: What finds and does them in this process.
    """

    jobs: tuple[Job, ...]
    known: dict[str, Result]
    work: Work

    @classmethod
    def open(cls, config: StudyConfig, place: Place) -> Study:
        """Plan a study and look up what of it is done. Nothing is run, and nothing is written.

        Args:
            config: The study.
            place: Where it lies.

        Returns:
            The study.
        """
        work = Work(config, place)
        jobs = plan(config, work.session)
        return cls(jobs, survey(jobs, work), work)

    @property
    def missing(self) -> tuple[Job, ...]:
        """The jobs that are to be done."""
        return tuple(job for job in self.jobs if job.key not in self.known)

    def run(self, executor: Executor | None = None, report: Report | None = None) -> dict[str, Result]:
        """Do what is missing; the study's file is written first.

        Args:
            executor: Who does it; by default this process.
            report: Told how it goes.

        Returns:
            What became of every job, by key.
        """
        place, config = self.work.place, self.work.config
        schedule = Schedule(self.jobs, self.known)
        if place.mode != "read-only":
            keep(config, place)
            (executor or Here(self.work)).run(schedule, config, place, report or Silent())
        return schedule.results


def keep(config: StudyConfig, place: Place) -> None:
    """Write the study's file; where one is there that asks for more or other parts of the same study, both are kept."""
    before = StudyConfig.load(place.results) if (place.results / FILE).is_file() else None
    joint = None if before is None else before.merged(config)
    (joint or config).save(place.results)
