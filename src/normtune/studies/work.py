"""Doing a study's jobs, or finding that they are done: in a folder of records, one base model at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

from normtune.config import RunConfig, Strict, fingerprint
from normtune.data.suites import load_task
from normtune.data.task import TaskData
from normtune.errors import NormtuneError, TrainingError, UnknownNameError
from normtune.importance.archive import Archive
from normtune.importance.masks import Mask
from normtune.importance.recipe import MaskRecipe, Sources, make_mask
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.device import accelerator
from normtune.records.fisher import FisherConfig, FisherRecord
from normtune.records.run import Record
from normtune.records.store import Store
from normtune.studies.jobs import FisherJob, Job, MaskJob, Result, Results, TrainJob, best_rate, hindrance
from normtune.studies.plan import CANDIDATES
from normtune.studies.pruning import judge, pruned_identity
from normtune.studies.runs import picked
from normtune.studies.study import StudyConfig
from normtune.studies.unfinished import failed, pruned
from normtune.training.loop import PrunedError
from normtune.training.session import Session
from normtune.training.splits import parts_of
from normtune.training.tracking import check_trackers

Mode = Literal["cached", "retry", "force", "read-only"]
MODES: tuple[str, ...] = get_args(Mode)

#: Told how far a job has come: steps or examples done, of how many, and a note.
Tell = Callable[[int, int, str], None]


class Place(Strict):
    """Where a study lies, and what of it is done again: what changes no number.

    Attributes:
        results: Folder of records, Fisher information and masks.
        data: GLUE's folder, or None for the hub.
        mode: ``cached`` takes what is there; ``retry`` runs what failed again; ``force`` everything; ``read-only``
            nothing at all.
        checkpoints: Whether an unfinished run is continued where it was stopped.
        track: Trackers that every run is logged by as it is made; those that write to a folder do so in ``tracking``.
    """

    results: Path
    data: Path | None = None
    mode: Mode = "cached"
    checkpoints: bool = True
    track: tuple[str, ...] = ()

    @property
    def runs(self) -> Path:
        """Folder of the runs' records."""
        return self.results / "runs"

    @property
    def fisher(self) -> Path:
        """Folder of the measurements of Fisher information."""
        return self.results / "fisher"

    @property
    def masks(self) -> Path:
        """Folder of the masks."""
        return self.results / "masks"

    @property
    def tracking(self) -> Path:
        """Folder of what trackers write."""
        return self.results / "tracking"


def check_mode(name: str) -> Mode:
    """The mode called `name`.

    Raises:
        UnknownNameError: If there is no such mode.
    """
    for mode in get_args(Mode):
        if mode == name:
            return mode  # type: ignore[no-any-return]
    raise UnknownNameError("mode", name, MODES)


class Work:
    """Does jobs of one study, one after the other.

    Args:
        config: The study.
        place: Where it lies.

    Raises:
        ModelError: If the model cannot be loaded.
    """

    def __init__(self, config: StudyConfig, place: Place) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.place = config, place
        self.session = Session(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            accelerator=accelerator(
                config.device, config.precision, trackers=check_trackers(place.track), folder=place.tracking
            ),
        )
        self.store = Store(place.runs)
        self._data: dict[str, TaskData] = {}

    def data(self, task: str) -> TaskData:
        """A task and its data, read once."""
        if task not in self._data:
            self._data[task] = load_task(task, self.config.suite, self.place.data)
        return self._data[task]

    def find(self, job: Job, needs: Results) -> Result | None:
        """What became of a job before, or None where it is to be done.

        Args:
            job: The job.
            needs: What became of the jobs that it needs.

        Returns:
            Its result. What failed counts as not done in the mode ``retry``, and everything in ``force``.
        """
        if self.place.mode == "force":
            return None
        if isinstance(job, FisherJob):
            record = self._find_fisher(job)
            return None if record is None else _done(job, record.id, known=True)
        if isinstance(job, MaskJob):
            file = self._mask_file(job, needs)
            return _done(job, file.name, known=True) if file.is_file() else None
        run = self._known(job, needs)
        if run is None or (run.status == "failed" and self.place.mode == "retry"):
            return None
        return _result(job, run, known=True)

    def run(self, job: Job, needs: Results, tell: Tell = lambda *_: None) -> Result:
        """Do a job, unless it is done.

        Args:
            job: The job.
            needs: What became of the jobs that it needs.
            tell: Told how far it has come.

        Returns:
            What became of it. Whatever goes wrong is told in the result, so that one job does not stop a study; a run
            whose loss stopped being finite leaves a record that says so, anything else is tried again next time.
        """
        started = time.monotonic()
        try:
            found = self.find(job, needs)
            if found is not None:
                return found
            made = self._make(job, needs, tell)
        except NormtuneError as error:
            return Result(key=job.key, state="failed", error=str(error))
        except (RuntimeError, OSError, MemoryError, ValueError, ArithmeticError) as error:
            return Result(key=job.key, state="failed", error=f"{type(error).__name__}: {error}")
        return made.model_copy(update={"seconds": round(time.monotonic() - started, 3)})

    def _make(self, job: Job, needs: Results, tell: Tell) -> Result:
        if isinstance(job, FisherJob):
            return _done(job, self._measure(job, tell).id)
        if isinstance(job, MaskJob):
            return _done(job, self._make_mask(job, needs).name)
        return _result(job, self._train(job, needs, tell))

    # Runs

    def setup(self, job: TrainJob, needs: Results) -> tuple[RunConfig, Selection | None]:
        """The configuration of a run, and what it trains where its method does not say it."""
        mask = None if job.mask is None else Mask.load(self.place.masks / needs[job.mask].id, self.session.base)
        selection = None if mask is None else mask.selection
        name = job.method if mask is None else mask.info.name_on(job.task)
        rate = best_rate(job, needs)
        return self.session.config(job.task, name, rate, job.seed, self.config.protocol, selection), selection

    def _known(self, job: TrainJob, needs: Results) -> Record | None:
        """The record of a run, or of one that was dropped for the same reason as it would be again."""
        config, selection = self.setup(job, needs)
        identity = self.session.identify(config, self.data(job.task), selection)
        whole = self.store.get(identity)
        if whole is not None or self.config.prune is None:
            return whole
        return self.store.get(pruned_identity(identity, self.config.prune, self._rivals(job, needs)))

    def _rivals(self, job: TrainJob, needs: Results) -> list[Record]:
        """The whole runs of the same search that came before."""
        found = (self.store.get(needs[key].id) for key in job.rivals if needs[key].state == "done")
        return [record for record in found if record is not None]

    def _train(self, job: TrainJob, needs: Results, tell: Tell) -> Record:
        config, selection = self.setup(job, needs)
        data, rule, rivals = self.data(job.task), self.config.prune, self._rivals(job, needs)
        identity = self.session.identify(config, data, selection)
        checkpoint = self.place.results / "unfinished" / f"{identity}.safetensors" if self.place.checkpoints else None
        judging = judge(rule, data.task.primary, config.protocol.epochs, rivals) if rule and rivals else None
        try:
            record, _ = self.session.run(
                config,
                data,
                selection=selection,
                checkpoint=checkpoint,
                watch=lambda tick: tell(tick.step, tick.steps, f"loss {tick.loss:.3f}"),
                judge=judging,
            )
        except TrainingError as error:
            record = failed(self.session, config, data, selection, identity, str(error))
        except PrunedError as error:
            assert rule is not None
            record = pruned(self.session, config, data, selection, identity, rule, rivals, error)
        self.store.put(record)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return record

    # Fisher information

    def fisher_config(self, task: str) -> FisherConfig:
        """What is measured of a task."""
        base = self.session.base
        return FisherConfig(
            model=base.name,
            revision=base.revision,
            dtype=self.config.dtype,
            task=self.data(task).task.name,
            entries=CANDIDATES,
            head_seeds=self.config.head_seeds,
            max_length=self.config.protocol.max_length,
            examples=self.config.examples,
        )

    def _find_fisher(self, job: FisherJob) -> FisherRecord | None:
        """The measurement on a task, where its record and its single entries are there."""
        data = self.data(job.task)
        train = parts_of(data, self.config.protocol).train
        found = Archive(self.place.fisher).find(self.session.base, data, train, self.fisher_config(job.task))
        return None if found is None else found.record

    def _measure(self, job: FisherJob, tell: Tell) -> FisherRecord:
        config, data = self.fisher_config(job.task), self.data(job.task)
        train = parts_of(data, self.config.protocol).train
        total = min(len(train), config.examples or len(train)) * len(config.head_seeds)
        done = 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            tell(done, total, "")

        archive = Archive(self.place.fisher)
        force = self.place.mode == "force"
        return archive.measure(self.session.base, data, train, config, progress=progress, force=force).record

    # Masks

    def _mask_file(self, job: MaskJob, needs: Results) -> Path:
        """A mask's file, named after all that it is made of."""
        made_of = {
            "base": self.session.base.identity,
            "mask": job.model_dump(mode="json", exclude={"fishers"}),
            "fisher": [needs[key].id for key in job.fishers],
        }
        seed = None if job.seed is None else f"seed-{job.seed}"
        label = "-".join(filter(None, (job.task, job.mask, f"{job.fraction}", seed, fingerprint(made_of))))
        return self.place.masks / f"{label}.safetensors"

    def _make_mask(self, job: MaskJob, needs: Results) -> Path:
        candidates = select(self.session.base.layout, CANDIDATES)
        ids = dict(zip(job.tasks, (needs[key].id for key in job.fishers), strict=True))
        archive = Archive(self.place.fisher)
        sources = Sources(fisher=lambda task: archive.read(task, ids[task], candidates))
        # What leave-one-out leaves out is not among the job's tasks.
        target = None if job.task is None or job.mask == "random" else job.task
        recipe = MaskRecipe.of(
            job.mask,
            tasks=tuple(sorted({*job.tasks, *([target] if target else [])})),
            target=target,
            within=CANDIDATES,
            fraction=job.fraction,
            seed=job.seed or 0,
        )
        file = self._mask_file(job, needs)
        file.unlink(missing_ok=True)
        return make_mask(self.session.base, recipe, sources).save(file)


def survey(jobs: tuple[Job, ...], work: Work) -> dict[str, Result]:
    """What is known of a study's jobs.

    Args:
        jobs: All of them, each after those that it needs.
        work: Finds them.

    Returns:
        By key what became of those that were done before.
    """
    known: dict[str, Result] = {}
    for job in jobs:
        if all(key in known for key in job.needs) and hindrance(job, known) is None:
            found = work.find(job, known)
            if found is not None:
                known[job.key] = found
    return known


def _done(job: Job, identity: str, *, known: bool = False) -> Result:
    return Result(key=job.key, state="done", id=identity, known=known)


def _result(job: TrainJob, record: Record, *, known: bool = False) -> Result:
    own = Result(
        key=job.key,
        state=record.status,
        id=record.id,
        known=known,
        error=record.error,
        rate=record.config.rate,
        score=record.score,
        saved=0 if record.pruned is None else record.pruned.of - record.pruned.epoch,
    )
    return own.model_copy(update={"picked": picked(record)}) if record.status == "done" else own
