"""The engine: runs jobs one after the other on one base model, or finds their earlier results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch

from normtune.config import Strict
from normtune.data.suites import load_task
from normtune.data.task import TaskData
from normtune.deltas.delta import Delta
from normtune.errors import NormtuneError, TrainingError
from normtune.importance.masks import Mask
from normtune.importance.measurement import Measurement
from normtune.models.device import accelerator
from normtune.records.results import Store
from normtune.records.run import Record
from normtune.studies import output
from normtune.studies.config import Setup
from normtune.studies.importance import make_mask, mask_file, measurement
from normtune.studies.jobs import FisherJob, Job, MaskJob, Outcomes, Result, TrainJob, rate_of
from normtune.studies.manifest import OwnFiles
from normtune.studies.pruning import judge, pruned, pruned_identity
from normtune.training.loop import PrunedError, StepInfo
from normtune.training.session import Session
from normtune.training.splits import Run
from normtune.training.together import joined
from normtune.training.tracking import check_trackers

Mode = Literal["cached", "retry", "force", "read-only"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: Called with a job's progress: steps or examples done, their total, and a note.
Tell = Callable[[int, int, str], None]


class Storage(Strict):
    """Where results are stored, and which are made again; nothing here changes a number.

    Attributes:
        results: Folder of records, Fisher information, masks, and the state of unfinished runs.
        data: Folder of the suite, or None for the hub.
        mode: ``cached`` reuses every result; ``retry`` reruns failed jobs, ``force`` all jobs; ``read-only`` runs none.
        checkpoints: Whether an unfinished run is continued where it was stopped.
        deltas: Whether the delta of every run is kept.
        records: Folder of the runs' records, where it is not in `results`.
        measured: Folder of the measurements of Fisher information, likewise.
        track: Trackers that log every run as it trains; those that write to a folder use `tracking`.
        logs: The folder that trackers write to, where it is not in `results`.
    """

    results: Path
    data: Path | None = None
    mode: Mode = "cached"
    checkpoints: bool = True
    deltas: bool = False
    records: Path | None = None
    measured: Path | None = None
    track: tuple[str, ...] = ()
    logs: Path | None = None

    @property
    def runs(self) -> Path:
        """Folder of the runs' records."""
        return self.records or self.results / "runs"

    @property
    def tracking(self) -> Path:
        """Folder of what trackers write."""
        return self.logs or self.results / "tracking"


class Engine:
    """Runs jobs, one after the other. The base model is loaded when it is first needed.

    Args:
        setup: The base model, and what all runs have in common.
        storage: Where results are stored.
        data: Tasks that are loaded already, by name.
    """

    def __init__(self, setup: Setup, storage: Storage, data: Mapping[str, TaskData] | None = None) -> None:
        torch.set_num_threads(setup.threads)
        self.setup, self.storage, self.store = setup, storage, Store(storage.runs)
        self._fishers, self._masks = storage.measured or storage.results / "fisher", storage.results / "masks"
        self._unfinished = storage.results / "unfinished"
        self._tasks: dict[tuple[str, OwnFiles | None], TaskData] = {
            (name, None): own for name, own in (data or {}).items()
        }

    @cached_property
    def session(self) -> Session:
        """The base model.

        Raises:
            ModelError: If it cannot be loaded.
        """
        setup, storage = self.setup, self.storage
        return Session(
            setup.model,
            revision=setup.revision,
            dtype=setup.dtype,
            memory=setup.memory,
            plain=setup.plain,
            masks=self._masks,
            kind=setup.kind,
            accelerator=accelerator(
                setup.device, setup.precision, trackers=check_trackers(storage.track), folder=storage.tracking
            ),
        )

    def task(self, name: str, files: OwnFiles | None = None) -> TaskData:
        """A task of the suite, or one in the user's own files, with its data; it is read once."""
        if (name, files) not in self._tasks:
            suite = self.setup.suite
            found = files.load() if files else load_task(name, suite, self.storage.data)
            self._tasks[name, files] = self._tasks[found.task.name, files] = found
        return self._tasks[name, files]

    def data(self, job: FisherJob | TrainJob) -> TaskData:
        """The data of a job."""
        return self.task(job.task, job.files)

    def record(self, job: TrainJob, result: Result | None = None) -> Record:
        """The record of a run that was made; its result is needed unless the job has a folder of its own (`out`).

        Raises:
            DataError: If it is gone.
        """
        if job.out is not None:
            return Record.load(job.out / output.RECORD)
        assert result is not None
        return Record.load(self.store.path(result.id))

    def find(self, job: Job, needs: Outcomes) -> Result | None:
        """The earlier result of a job, or None if it is to be run, given the results of the jobs that it needs.

        In the mode ``retry`` failed runs count as not done, in ``force`` all jobs.
        """
        if self.storage.mode == "force":
            return None
        if isinstance(job, FisherJob):
            found = self.measurement(job).find()
            return None if found is None else _done(job, found.record.id, known=True)
        if isinstance(job, MaskJob):
            file = mask_file(self._masks, job, needs, self.session.base, self.setup, self.task)
            return _done(job, file.name, known=True) if file.is_file() else None
        run = self.setup_run(job, needs)
        finished = output.FolderState("finished", run.id)
        if job.out is not None and output.read_state(job.out) == finished and not output.lost(job.out):
            return _result(job, Record.load(job.out / output.RECORD), known=True)
        record, rule, rivals = self.store.get(run.id), self.setup.prune, self._rivals(job, needs)
        if record is None and rule and rivals:  # the same rule and rivals may have pruned it already
            record = self.store.get(pruned_identity(run.id, rule, rivals))
        if record is None or (record.status == "failed" and self.storage.mode == "retry"):
            return None
        return None if job.out is not None and record.status == "done" else _result(job, record, known=True)

    def run(self, job: Job, needs: Outcomes, tell: Tell = lambda *_: None) -> Result:
        """Run a job, unless it is done, given the results of the jobs that it needs.

        An error is reported in the result, so that one job does not stop the others. A run whose loss or gradient stops
        being finite leaves a record that says so; any other failure is tried again next time.
        """
        started = time.monotonic()
        rate = rate_of(job, needs) if isinstance(job, TrainJob) else None
        try:
            found = self.find(job, needs)
            if found is not None:
                if isinstance(job, TrainJob) and job.out is not None and found.state == "done":
                    output.finish(job.out)  # in case a kill came between its record and its clean-up
                return found
            made = self._make(job, needs, tell)
        except (NormtuneError, RuntimeError, OSError, MemoryError, ValueError, ArithmeticError) as error:
            said = str(error) if isinstance(error, NormtuneError) else f"{type(error).__name__}: {error}"
            return Result(key=job.key, state="failed", error=said, rate=rate)
        return made.model_copy(update={"seconds": round(time.monotonic() - started, 3)})

    def _make(self, job: Job, needs: Outcomes, tell: Tell) -> Result:
        storage, accelerator = self.storage, self.session.accelerator
        if isinstance(job, FisherJob):
            return self._measure(job, tell)
        if isinstance(job, MaskJob):
            file = mask_file(self._masks, job, needs, self.session.base, self.setup, self.task)
            make_mask(file, self._fishers, job, needs, self.session.base, self.setup, self.task)
            return _done(job, file.name)
        if job.out is not None and job.out / output.UNFINISHED != storage.results:
            output.check_replaceable(job.out)
        run = self.setup_run(job, needs)
        delta, record = storage.results / "deltas" / f"{run.id}.safetensors", self.store.get(run.id)
        kept = job.out is not None and record is not None and record.status == "done" and delta.is_file()
        accelerator.wait_for_everyone()  # all processes have looked before one of them writes
        if record is None or not kept or storage.mode == "force":
            record = self._train(run, self._rivals(job, needs), tell, keep=storage.deltas or job.out is not None)
        if job.out is not None and record.status == "done" and accelerator.is_main_process:
            output.write(job.out, record, Delta.load(delta))
        accelerator.wait_for_everyone()
        return _result(job, record)

    def tidy(self, jobs: Sequence[Job], needs: Outcomes) -> None:
        """Remove the checkpoints of runs that have a record: a kill between record and clean-up leaves them behind."""
        left = {file.stem: file for file in self._unfinished.glob("*.safetensors")}
        for job in jobs if left else ():
            done = job.key in needs and needs[job.key].id
            if isinstance(job, TrainJob) and done and (run := self.setup_run(job, needs).training) in left:
                left[run].unlink(missing_ok=True)

    def measurement(self, job: FisherJob) -> Measurement:
        """What a job measures."""
        return measurement(self.setup, self.session.base, self.data(job), self._fishers, job.config)

    def _measure(self, job: FisherJob, tell: Tell) -> Result:
        own = self.measurement(job)
        total, done = len(own.sample) * len(own.config.head_seeds), 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            tell(done, total, "")

        return _done(job, own.measure(progress=progress).record.id)

    # Runs

    def setup_run(self, job: TrainJob, needs: Outcomes) -> Run:
        """The run of a job, once what it needs is settled."""
        file = job.mask_file if job.mask is None else self._masks / needs[job.mask].id
        mask = None if file is None else Mask.load(file, self.session.base)
        selection = None if mask is None else mask.selection
        name = job.method if mask is None else mask.info.name_on(job.task)
        rate, rules = rate_of(job, needs), self.setup.protocol
        assert rate is not None
        if job.together:
            tasks = [self.task(task) for task in job.together]
            runs = joined([self.session.prepare(own, name, rate, job.seed, rules) for own in tasks])
            return runs[job.together.index(job.task)]
        return self.session.prepare(self.data(job), name, rate, job.seed, rules, selection)

    def _rivals(self, job: TrainJob, needs: Outcomes) -> list[Record]:
        """The records of the finished runs of the same search that came before."""
        found = (self.store.get(needs[key].id) for key in job.rivals if needs[key].state == "done")
        return [record for record in found if record is not None]

    def _train(self, run: Run, rivals: Sequence[Record], tell: Tell, *, keep: bool) -> Record:
        """Train a run and those together with it; save their deltas if `keep`, then their records."""
        storage, rule, accelerator = self.storage, self.setup.prune, self.session.accelerator
        checkpoint = self._unfinished / f"{run.training}.safetensors" if storage.checkpoints else None
        if checkpoint is not None and storage.mode == "force" and accelerator.is_main_process:
            checkpoint.unlink(missing_ok=True)
        judging = judge(rule, run, rivals) if rule and rivals else None
        try:
            made = self.session.train(
                run,
                checkpoint=checkpoint,
                watch=lambda tick: tell(tick.step, tick.steps, _progress(tick)),
                judge=judging,
            )
            for record, delta in made if keep and accelerator.is_main_process else ():
                file = storage.results / "deltas" / f"{record.id}.safetensors"
                file.unlink(missing_ok=True)
                delta.save(file)
            records = [record for record, _ in made]
        except TrainingError as error:
            failed = {"status": "failed", "error": str(error)}
            records = [self.session.record(own, **failed) for own in run.together or (run,)]
        except PrunedError as error:
            assert rule is not None
            records = [pruned(self.session, run, rule, rivals, error)]
        if accelerator.is_main_process:
            for record in records:
                self.store.put(record)
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()  # from here on every process finds the record
        return next((record for record in records if record.id == run.id), records[0])


def _progress(tick: StepInfo) -> str:
    return f"loss {tick.loss:.3f}" + ("" if tick.score is None else f"  best {tick.score:.4f}")


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
    if record.status != "done":
        return own
    cut = sum(record.data.truncated.values())
    note = f"{record.primary} {record.score:.4f} at epoch {record.best_epoch}" + (f", {cut:,} texts cut" if cut else "")
    return own.model_copy(update={"picked": record.picked, "note": note})
