"""How long a study takes, from the throughput of this machine: of records made on it, or of a short trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from normtune.data.task import Split
from normtune.errors import NormtuneError
from normtune.importance.archive import Archive, Query
from normtune.importance.masks import top
from normtune.importance.scores import random_scores
from normtune.machine import machine
from normtune.methods.expression import select
from normtune.records.fisher import FisherRecord
from normtune.records.run import Record
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob
from normtune.studies.measurement import fisher_config
from normtune.studies.plan import CANDIDATES
from normtune.studies.study import Study
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


def estimate(study: Study, *, trial: bool) -> Estimate:
    """How long the missing jobs of a study will take, one after the other.

    Work is counted in characters of text: a run reads its training data once an epoch; to evaluate costs a third of it.

    Args:
        study: The study.
        trial: Whether to time a few steps of every kind of job that has no record made on this machine.

    Returns:
        The estimate; without `trial` the kinds that have no record are missing from it.
    """
    clock = _Clock(study)
    clock.read_records()
    seconds: dict[str, float] = {}
    sources: dict[str, Source] = {}
    for job in study.missing:
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

    def __init__(self, study: Study) -> None:
        self._engine, self._tasks = study.engine, {*study.config.tasks}
        self._here = _comparable(machine(self._engine.session.accelerator.device))
        self._lengths: dict[str, float] = {}
        self._warm = False
        self.speeds: dict[str, dict[str, float]] = {}
        self.sources: dict[str, Source] = {}

    def seconds(self, job: FisherJob | TrainJob) -> float:
        """How long a job takes; a task without records goes as fast as the others together."""
        own, setup = self.speeds[kind_of(job)], self._engine.setup
        parts = parts_of(self._engine.data(job), setup.protocol)
        if isinstance(job, FisherJob):
            count = min(len(parts.train), setup.examples or len(parts.train)) * len(setup.head_seeds)
            size = self._length(job.task) * count
        else:
            size = self._size(job.task, len(parts.train), len(parts.pick), setup.protocol.epochs)
        return size / own.get(job.task, own[""])

    def read_records(self) -> None:
        """Throughputs of the records that were made on a machine like this, with as many threads."""
        spent = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
        for run in self._engine.store:
            if run.status == "done" and self._is_alike(run):
                epochs = run.config.protocol.epochs
                size = self._size(run.config.task, run.data.train, run.data.held_out or run.data.dev, epochs)
                kind = run.config.method if run.config.mask is None else "mask"
                spent[kind, run.config.task].append((size, run.seconds))
        for path in sorted(self._engine.place.fisher.glob("*.json")):
            own = FisherRecord.load(path)
            if self._is_alike(own):
                size = self._length(own.config.task) * own.examples * len(own.config.head_seeds)
                spent["fisher", own.config.task].append((size, own.seconds))
        for kind in {kind for kind, _ in spent}:
            self.speeds[kind] = {task: _speed(each) for (name, task), each in spent.items() if name == kind}
            self.speeds[kind][""] = _speed([one for (name, _), each in spent.items() if name == kind for one in each])
            self.sources[kind] = "records"

    def _is_alike(self, own: Record | FisherRecord) -> bool:
        """Whether a record says something of this study on this machine."""
        here = own.base_identity == self._engine.session.base.identity and _comparable(own.machine) == self._here
        return here and own.seconds > 0 and own.config.task in self._tasks

    def try_out(self, job: FisherJob | TrainJob) -> None:
        """Time a few steps of a job of this kind; where that fails, its throughput stays unknown."""
        try:
            size, seconds = self._fisher_trial(job) if isinstance(job, FisherJob) else self._train_trial(job)
        except NormtuneError:
            return
        self.speeds[kind_of(job)] = {"": size / max(seconds, 1e-3)}
        self.sources[kind_of(job)] = "trial"

    def _train_trial(self, job: TrainJob) -> tuple[float, float]:
        session, rules, data = self._engine.session, self._engine.setup.protocol, self._engine.data(job)
        count = _TRIAL_BATCHES * rules.batch_size
        short = rules.model_copy(update={"name": "trial", "epochs": 1, "max_train": count, "max_dev": rules.batch_size})
        layernorm = select(session.base.layout, CANDIDATES)
        selection = None if job.mask is None else top(random_scores(layernorm), fraction=0.1)
        config = session.config(job.task, job.method, 1e-6, job.seed, short, selection)
        if not self._warm:
            session.run(config, data, selection=selection)
            self._warm = True
        record, _ = session.run(config, data, selection=selection)
        return self._size(job.task, record.data.train, record.data.held_out or record.data.dev, 1), record.seconds

    def _fisher_trial(self, job: FisherJob) -> tuple[float, float]:
        engine, data = self._engine, self._engine.data(job)
        config = fisher_config(engine.setup, engine.session.base, data)
        short = config.model_copy(update={"examples": _TRIAL_EXAMPLES, "head_seeds": config.head_seeds[:1]})
        train = parts_of(data, engine.setup.protocol).train
        record = Archive(None).measure(Query(engine.session.base, data, train, short)).record
        return self._length(job.task) * record.examples, record.seconds

    def _size(self, task: str, train: int, pick: int, epochs: int) -> float:
        """Characters that a run reads, those of its evaluations at their lower price."""
        return self._length(task) * epochs * (train + _FORWARD * pick)

    def _length(self, task: str) -> float:
        """Mean characters of a training example, as far as they are read."""
        if task not in self._lengths:
            limit = _TOKEN * self._engine.setup.protocol.max_length
            self._lengths[task] = _mean_length(self._engine.task(task).data.labelled("train"), limit)
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
