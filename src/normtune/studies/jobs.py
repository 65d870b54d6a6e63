"""Jobs: the pieces that studies and trainings are made of, as plain values named after their content."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from normtune.config import Strict, fingerprint
from normtune.importance.recipe import kind_of
from normtune.importance.scores import IMPORTANCES
from normtune.records.fisher import FisherConfig
from normtune.studies.manifest import OwnFiles


class _Named(Strict):
    """A value whose key is a hash of all its fields, including the keys of the jobs that it needs."""

    @property
    def key(self) -> str:
        """Name of the job within its plan."""
        return fingerprint(self)


class FisherJob(_Named):
    """A measurement of Fisher information.

    Attributes:
        task: The task.
        config: What is measured and how; None measures what a study needs.
        needs: Keys of the jobs that come first: none.
        about: What is measured.
    """

    kind: Literal["fisher"] = "fisher"
    task: str
    config: FisherConfig | None = None
    needs: ClassVar[tuple[str, ...]] = ()
    about: ClassVar[str] = "fisher"
    files: ClassVar[None] = None


class MaskJob(_Named):
    """Makes a mask of LayerNorm.

    Attributes:
        mask: What kind of mask.
        fraction: How much of LayerNorm it takes.
        task: The task that it is for; None where it is the same for all.
        tasks: The tasks whose Fisher information goes in, sorted.
        fishers: Keys of their measurements, in the same order.
        seed: Seed of a random mask.
    """

    kind: Literal["mask"] = "mask"
    mask: str
    fraction: float
    task: str | None = None
    tasks: tuple[str, ...] = ()
    fishers: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs that come first."""
        return self.fishers

    @property
    def about(self) -> str:
        """The mask's name as a method."""
        return mask_name(self.mask, self.fraction)


class TrainJob(_Named):
    """A run.

    Attributes:
        task: The task.
        files: The user's own files that hold the task; None for a suite's task.
        method: Name of the method or of the mask.
        seed: The run's seed.
        rate: Its rate, or None for the best of those in `best_of`.
        best_of: Keys of the runs whose best one gives the rate.
        beyond: Whether to take the next rate beyond the best instead, if the best is the lowest or the highest of those
            in `best_of`; if it is neither, the job is not needed.
        mask: Key of the job that makes the mask, where one is trained.
        mask_file: File of the mask, instead of `mask`.
        rivals: Keys of the runs of the same search that come first, if it may be pruned for being behind them.
        out: Folder for the run's delta, record and model card, where these are wanted.
        together: The tasks that train together, its own among them, sorted; empty where it trains alone. The first of
            their jobs trains them all.
    """

    kind: Literal["train"] = "train"
    task: str
    files: OwnFiles | None = None
    method: str
    seed: int
    rate: float | None = None
    best_of: tuple[str, ...] = ()
    beyond: bool = False
    mask: str | None = None
    mask_file: Path | None = None
    rivals: tuple[str, ...] = ()
    out: Path | None = None
    together: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs that come first."""
        return (*self.best_of, *(() if self.mask is None else (self.mask,)), *self.rivals)

    @property
    def about(self) -> str:
        """What is trained."""
        return self.method


Job = FisherJob | MaskJob | TrainJob


def mask_name(kind: str, fraction: float) -> str:
    """A mask's name as a method, the same as `MaskInfo.name` for a fraction of LayerNorm."""
    importance, scope = kind_of(kind)
    of_task = "" if IMPORTANCES[importance].needs == "nothing" else f"-{scope}"
    return f"{importance}{of_task}@{fraction}"


def describe(job: Job) -> str:
    """A job in a few words."""
    if isinstance(job, FisherJob):
        return f"{job.task} Fisher information"
    if isinstance(job, MaskJob):
        seed = "" if job.seed is None else f" seed {job.seed}"
        return " ".join(filter(None, (job.task, "mask", job.about))) + seed
    searched = "next rate" if job.beyond else "best rate"
    rate = searched if job.rate is None else f"rate {job.rate:g}"
    return f"{job.task} {job.method} {rate} seed {job.seed}"


class Result(Strict):
    """The result of a job.

    Attributes:
        key: The job's key.
        state: ``done``; ``failed``; ``pruned`` (stopped early by the pruning rule); ``blocked`` (never begun, since a
            job that it needs failed); or ``skipped`` (no rate beyond those tried was needed).
        id: Name of the record, or of the mask's file.
        known: Whether it was found rather than made.
        error: What went wrong, or why it was pruned.
        rate: The rate of a run.
        picked: The score that rates are compared by: the primary metric on the data that the epoch was picked on.
        score: The run's score on dev.
        note: A remark on a run, in a few words.
        seconds: Time that it took.
        saved: Epochs that pruning saved.
    """

    key: str
    state: Literal["done", "failed", "pruned", "blocked", "skipped"]
    id: str = ""
    known: bool = False
    error: str | None = None
    rate: float | None = None
    picked: float | None = None
    score: float | None = None
    note: str = ""
    seconds: float = 0.0
    saved: int = 0


Outcomes = Mapping[str, Result]


def rate_of(job: TrainJob, results: Outcomes) -> float | None:
    """The rate of a run, once what it needs is settled.

    Args:
        job: The run.
        results: Results of the runs that it needs.

    Returns:
        Its own rate; that of the best run in `best_of`, the lowest of equals; or the next one beyond. None if no run in
        `best_of` is done, or if the next one beyond is wanted and the best lies between others.
    """
    if job.rate is not None:
        return job.rate
    tried = [results[key] for key in job.best_of]
    done = [(own.picked or 0.0, -own.rate) for own in tried if own.state == "done" and own.rate is not None]
    if not done:
        return None
    best = -max(done)[1]
    return beyond(best, [own.rate for own in tried if own.rate is not None]) if job.beyond else best


def beyond(best: float, tried: Sequence[float]) -> float | None:
    """The next of the rates 1, 3, 10, 30, ... (half decades) beyond the best of those tried.

    Args:
        best: The best rate.
        tried: All rates tried.

    Returns:
        The next lower one where the best is the lowest tried, the next higher one where it is the highest, else None.
    """
    power = math.floor(math.log10(best))
    rungs = [float(f"{digit}e{power + step}") for step in (-1, 0, 1, 2) for digit in (1, 3)]
    if best == min(tried):
        return max(rate for rate in rungs if rate < best)
    return min(rate for rate in rungs if rate > best) if best == max(tried) else None


def settled(job: Job, results: Outcomes) -> Result | None:
    """The result of a job that need not or cannot run, once all that it needs is settled; None if it is to be run."""
    best_of, rivals = (job.best_of, job.rivals) if isinstance(job, TrainJob) else ((), ())
    lost = [key for key in job.needs if key not in {*best_of, *rivals} and results[key].state != "done"]
    if lost:
        return Result(key=job.key, state="blocked", error=f"a job that it needs failed: {results[lost[0]].error}")
    if isinstance(job, TrainJob) and rate_of(job, results) is None:
        if job.beyond:
            return Result(key=job.key, state="skipped")
        return Result(key=job.key, state="blocked", error=f"no rate worked for it: {results[best_of[0]].error}")
    return None
