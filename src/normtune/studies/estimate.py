"""How long a study takes, from the throughput of this machine: of records made on it, or of a short trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from normtune.data.task import Split
from normtune.errors import NormtuneError
from normtune.importance.archive import Archive
from normtune.importance.masks import top
from normtune.importance.scores import random_scores
from normtune.machine import machine
from normtune.methods.expression import select
from normtune.records.fisher import FisherRecord
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob
from normtune.studies.plan import CANDIDATES
from normtune.studies.work import Work
from normtune.training.splits import parts_of

Source = Literal["records", "trial", "none"]

#: Texts that a mean length is taken over.
_SAMPLE = 200
#: Characters of a token, for texts that are cut.
_TOKEN = 5
#: An evaluation has no backward pass.
_FORWARD = 1 / 3
_TRIAL_BATCHES, _TRIAL_EXAMPLES = 2, 16


@dataclass(frozen=True)
class Estimate:
    """How long jobs will take.

    Attributes:
        seconds: By the job's key; missing where nothing is known.
        sources: For each kind of job, what its throughput was read from.
    """

    seconds: dict[str, float]
    sources: dict[str, Source]

    def total(self, jobs: Iterable[Job]) -> float | None:
        """Seconds of all of `jobs`, one after the other; None where one is not known."""
        each = [self.seconds.get(job.key) for job in jobs]
        return None if None in each else sum(one for one in each if one is not None)


def kind_of(job: Job) -> str:
    """What a job's throughput depends on beside the texts: the method, ``mask`` for any trained mask, ``fisher``."""
    if isinstance(job, TrainJob):
        return job.method if job.mask is None else "mask"
    return "fisher" if isinstance(job, FisherJob) else "making masks"


def estimate(jobs: Sequence[Job], work: Work, *, trial: bool) -> Estimate:
    """How long jobs will take, one after the other.

    Work is counted in characters of text: a run reads its training data once an epoch; to evaluate costs a third of it.

    Args:
        jobs: The jobs.
        work: The study.
        trial: Whether to time a few steps of every kind of job that has no record made on this machine.

    Returns:
        The estimate; without `trial` the kinds that have no record are missing from it.
    """
    clock = _Clock(work)
    clock.read_records()
    seconds: dict[str, float] = {}
    sources: dict[str, Source] = {}
    for job in jobs:
        if isinstance(job, MaskJob):
            seconds[job.key] = 0.0
            continue
        kind = kind_of(job)
        if kind not in clock.speeds and trial:
            clock.try_out(job)
        if kind in clock.speeds:
            seconds[job.key] = clock.seconds(job)
        sources[kind] = clock.sources.get(kind, "none")
    return Estimate(seconds, sources)


class _Clock:
    """Characters a second, by kind of job and, where there are records, by task."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._here = _comparable(machine(work.session.accelerator.device))
        self._lengths: dict[str, float] = {}
        self._warm = False
        self.speeds: dict[str, dict[str, float]] = {}
        self.sources: dict[str, Source] = {}

    def seconds(self, job: FisherJob | TrainJob) -> float:
        """How long a job takes; a task without records goes as fast as the others together."""
        own = self.speeds[kind_of(job)]
        config = self._work.config
        data = parts_of(self._work.data(job.task), config.protocol)
        if isinstance(job, FisherJob):
            count = min(len(data.train), config.examples or len(data.train)) * len(config.head_seeds)
            return self._length(job.task) * count / own.get(job.task, own[""])
        size = self._size(job.task, len(data.train), len(data.pick), config.protocol.epochs)
        return size / own.get(job.task, own[""])

    def read_records(self) -> None:
        """Throughputs of the records that were made on a machine like this, with as many threads."""
        work, spent = self._work, defaultdict[tuple[str, str], list[tuple[float, float]]](list)
        base, tasks = work.session.base.identity, {*work.config.tasks}
        for run in work.store:
            like = run.status == "done" and run.base_identity == base and _comparable(run.machine) == self._here
            if like and run.seconds and run.config.task in tasks:
                epochs = run.config.protocol.epochs
                size = self._size(run.config.task, run.data.train, run.data.held_out or run.data.dev, epochs)
                kind = run.config.method if run.config.mask is None else "mask"
                spent[kind, run.config.task].append((size, run.seconds))
        for path in sorted(work.place.fisher.glob("*.json")):
            own = FisherRecord.load(path)
            like = own.base_identity == base and _comparable(own.machine) == self._here
            if like and own.seconds and own.config.task in tasks:
                size = self._length(own.config.task) * own.examples * len(own.config.head_seeds)
                spent["fisher", own.config.task].append((size, own.seconds))
        for kind in {kind for kind, _ in spent}:
            self.speeds[kind] = {task: _speed(each) for (name, task), each in spent.items() if name == kind}
            self.speeds[kind][""] = _speed([one for (name, _), each in spent.items() if name == kind for one in each])
            self.sources[kind] = "records"

    def try_out(self, job: FisherJob | TrainJob) -> None:
        """Time a few steps of a job of this kind; where that fails, its throughput stays unknown."""
        try:
            size, seconds = self._fisher_trial(job.task) if isinstance(job, FisherJob) else self._train_trial(job)
        except NormtuneError:
            return
        self.speeds[kind_of(job)] = {"": size / max(seconds, 1e-3)}
        self.sources[kind_of(job)] = "trial"

    def _train_trial(self, job: TrainJob) -> tuple[float, float]:
        work, rules = self._work, self._work.config.protocol
        count = _TRIAL_BATCHES * rules.batch_size
        short = rules.model_copy(update={"name": "trial", "epochs": 1, "max_train": count, "max_dev": rules.batch_size})
        layernorm = select(work.session.base.layout, CANDIDATES)
        selection = None if job.mask is None else top(random_scores(layernorm), fraction=0.1)
        data = work.data(job.task)
        config = work.session.config(job.task, job.method, 1e-6, job.seed, short, selection)
        if not self._warm:
            work.session.run(config, data, selection=selection)
            self._warm = True
        record, _ = work.session.run(config, data, selection=selection)
        return self._size(job.task, record.data.train, record.data.held_out or record.data.dev, 1), record.seconds

    def _fisher_trial(self, task: str) -> tuple[float, float]:
        work, config = self._work, self._work.fisher_config(task)
        short = config.model_copy(update={"examples": _TRIAL_EXAMPLES, "head_seeds": config.head_seeds[:1]})
        data = work.data(task)
        train = parts_of(data, work.config.protocol).train
        record = Archive(None).measure(work.session.base, data, train, short).record
        return self._length(task) * record.examples, record.seconds

    def _size(self, task: str, train: int, pick: int, epochs: int) -> float:
        """Characters that a run reads, those of its evaluations at their lower price."""
        return self._length(task) * epochs * (train + _FORWARD * pick)

    def _length(self, task: str) -> float:
        """Mean characters of a training example, as far as they are read."""
        if task not in self._lengths:
            limit = _TOKEN * self._work.config.protocol.max_length
            self._lengths[task] = _mean_length(self._work.data(task).labelled("train"), limit)
        return self._lengths[task]


def _mean_length(split: Split, limit: int) -> float:
    pairs = split.pairs or ("",) * len(split)
    some = range(0, len(split), max(1, len(split) // _SAMPLE))
    lengths = [min(len(split.texts[i]) + len(pairs[i]), limit) for i in some]
    return sum(lengths) / len(lengths)


def _speed(each: Sequence[tuple[float, float]]) -> float:
    return sum(size for size, _ in each) / sum(seconds for _, seconds in each)


def _comparable(facts: dict[str, str | int]) -> tuple[str | int | None, ...]:
    return tuple(facts.get(name) for name in ("processor", "threads", "device", "accelerator", "linear"))
