"""Jobs: the pieces that a study is made of, as plain values named after their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from normtune.config import Strict, fingerprint
from normtune.studies.study import MaskKind


class _Named(Strict):
    """A value with a key that says all of it; what it needs is part of that."""

    @property
    def key(self) -> str:
        """Name of the job within its study."""
        return fingerprint(self)


class FisherJob(_Named):
    """A measurement of Fisher information.

    Attributes:
        kind: Always ``fisher``.
        task: On which task.
    """

    kind: Literal["fisher"] = "fisher"
    task: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs that come first: none."""
        return ()

    @property
    def about(self) -> str:
        """What is measured."""
        return "fisher"


class MaskJob(_Named):
    """The making of a mask of LayerNorm.

    Attributes:
        kind: Always ``mask``.
        mask: What kind of mask.
        fraction: How much of LayerNorm it takes.
        task: The task that it is for; None where it is the same for all.
        tasks: The tasks whose Fisher information goes in, sorted.
        fishers: For each of these the key of the measurement.
        seed: Seed of a random mask.
    """

    kind: Literal["mask"] = "mask"
    mask: MaskKind
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
        kind: Always ``train``.
        task: On which task.
        method: Name of the method or of the mask.
        seed: The run's seed.
        rate: Its rate, or None for the best of those in `best_of`.
        best_of: Keys of the runs of which the best one's rate is taken.
        mask: Key of the job that makes the mask, where one is trained.
        rivals: Keys of the runs of the same search that come first, where it may be dropped for being behind them.
    """

    kind: Literal["train"] = "train"
    task: str
    method: str
    seed: int
    rate: float | None = None
    best_of: tuple[str, ...] = ()
    mask: str | None = None
    rivals: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs that come first."""
        return (*self.best_of, *(() if self.mask is None else (self.mask,)), *self.rivals)

    @property
    def about(self) -> str:
        """What is trained."""
        return self.method


Job = Annotated[FisherJob | MaskJob | TrainJob, Field(discriminator="kind")]

_JOB: TypeAdapter[FisherJob | MaskJob | TrainJob] = TypeAdapter(Job)


def read_job(text: str) -> Job:
    """A job from its JSON."""
    return _JOB.validate_json(text)


def mask_name(kind: MaskKind, fraction: float) -> str:
    """A mask's name as a method, as `MaskInfo.name` has it for a fraction of LayerNorm."""
    named = {"random": "random", "least-fisher": "least-fisher-individual"}.get(kind, f"fisher-{kind}")
    return f"{named}@{fraction}"


def describe(job: Job) -> str:
    """A job in a few words."""
    if isinstance(job, FisherJob):
        return f"{job.task} Fisher information"
    if isinstance(job, MaskJob):
        seed = "" if job.seed is None else f" seed {job.seed}"
        return " ".join(filter(None, (job.task, "mask", job.about))) + seed
    rate = "best rate" if job.rate is None else f"rate {job.rate:g}"
    return f"{job.task} {job.method} {rate} seed {job.seed}"


class Result(Strict):
    """What became of a job.

    Attributes:
        key: The job's key.
        state: ``done``; ``failed``; ``pruned``, where it was dropped early as asked for; or ``blocked``, where it was
            never begun since what it needs failed.
        id: Name of the record, or of the mask's file.
        known: Whether it was found rather than made.
        error: What went wrong, or why it was dropped.
        rate: The rate of a run.
        picked: What rates are compared by: the primary metric where the epoch was picked.
        score: The run's score on dev.
        seconds: Time that it took to make.
        saved: Epochs that were not trained since it was dropped.
    """

    key: str
    state: Literal["done", "failed", "pruned", "blocked"]
    id: str = ""
    known: bool = False
    error: str | None = None
    rate: float | None = None
    picked: float | None = None
    score: float | None = None
    seconds: float = 0.0
    saved: int = 0


Results = Mapping[str, Result]


def best_rate(job: TrainJob, results: Results) -> float:
    """The rate of a run: its own, or that of the best of the runs it waits for, the lowest of equals."""
    if job.rate is not None:
        return job.rate
    done = [own for key in job.best_of if (own := results[key]).state == "done"]
    best = max(done, key=lambda result: result.picked or 0.0)
    assert best.rate is not None
    return best.rate


def hindrance(job: Job, results: Results) -> str | None:
    """Why a job can never be begun, once all that it needs is settled; None where it can."""
    best_of, rivals = (job.best_of, job.rivals) if isinstance(job, TrainJob) else ((), ())
    if best_of and all(results[key].state != "done" for key in best_of):
        return f"no rate worked for it: {results[best_of[0]].error}"
    lost = [key for key in job.needs if key not in {*best_of, *rivals} and results[key].state != "done"]
    return f"it needs what failed: {results[lost[0]].error}" if lost else None
