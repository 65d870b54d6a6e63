"""How long a study takes, from the throughput of this machine: of records made on it, or of a short trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from normtune.errors import NormtuneError
from normtune.importance.archive import Archive, Query
from normtune.machine import machine
from normtune.records.fisher import FisherRecord
from normtune.records.run import Record
from normtune.studies.engine import Engine
from normtune.studies.importance import CANDIDATES, measurement
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob
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


def estimate(study: Study, *, trial: bool) -> Estimate:
    """How long the missing jobs of a study will take, one after the other.

    Work is counted in characters of text: a run reads its training data once an epoch; to evaluate costs a third of it.
    A masked run takes as long as LayerNorm's.

    Args:
        study: The study.
        trial: Whether to time a few steps of every kind of job that has no record made on this machine.

    Returns:
        The estimate; without `trial` the kinds that have no record are missing from it.
    """
    clock, seconds, sources = _Clock(study.engine), dict[str, float](), dict[str, Source]()
    speeds = clock.recorded({*study.config.tasks})
    known = {*speeds}
    for job in study.missing:
        if isinstance(job, MaskJob):
            seconds[job.key] = 0.0
            continue
        kind = "fisher" if isinstance(job, FisherJob) else job.method if job.mask is None else CANDIDATES
        if kind not in speeds and trial:
            with suppress(NormtuneError):  # its throughput stays unknown
                speeds[kind] = clock.tried(job)
        if kind in speeds:
            seconds[job.key] = clock.size(job) / speeds[kind]
        sources[kind] = "records" if kind in known else "trial" if kind in speeds else "none"
    return Estimate(seconds, sources)


class _Clock:
    """Counts the characters of jobs, and those that this machine reads in a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lengths = engine, dict[str, float]()
        self._here = _comparable(machine(engine.session.accelerator.device))

    def size(self, job: FisherJob | TrainJob) -> float:
        """Characters that a job reads, those of evaluations at their lower price."""
        setup = self._engine.setup
        parts = parts_of(self._engine.data(job), setup.protocol)
        if isinstance(job, FisherJob):
            count = min(len(parts.train), setup.examples or len(parts.train))
            return self._length(job.task) * count * len(setup.head_seeds)
        return self._trained(job.task, len(parts.train), len(parts.pick), setup.protocol.epochs)

    def recorded(self, tasks: set[str]) -> dict[str, float]:
        """Characters a second by kind of job, from records of these tasks made on a machine like this."""
        spent = defaultdict[str, list[tuple[float, float]]](list)
        for run in self._engine.store:
            config = run.config
            if run.status == "done" and config.task in tasks and self._is_alike(run):
                size = self._trained(
                    config.task, run.data.train, run.data.held_out or run.data.dev, config.protocol.epochs
                )
                spent[config.method if config.mask is None else CANDIDATES].append((size, run.seconds))
        for own in map(FisherRecord.load, sorted(self._engine.place.fisher.glob("*.json"))):
            if own.config.task in tasks and self._is_alike(own):
                size = self._length(own.config.task) * own.examples * len(own.config.head_seeds)
                spent["fisher"].append((size, own.seconds))
        return {kind: sum(s for s, _ in each) / sum(s for _, s in each) for kind, each in spent.items()}

    def _is_alike(self, own: Record | FisherRecord) -> bool:
        """Whether a record says something of this base model on this machine."""
        same = own.base_identity == self._engine.session.base.identity
        return same and own.seconds > 0 and _comparable(own.machine) == self._here

    def tried(self, job: FisherJob | TrainJob) -> float:
        """Characters a second in a few steps of a job."""
        engine, data, rules = self._engine, self._engine.data(job), self._engine.setup.protocol
        session = engine.session
        if isinstance(job, FisherJob):
            train, config = measurement(engine.setup, session.base, data)
            short = config.model_copy(update={"examples": _TRIAL_EXAMPLES, "head_seeds": config.head_seeds[:1]})
            made = Archive(None).measure(Query(session.base, data, train, short)).record
            return self._length(job.task) * made.examples / max(made.seconds, 1e-3)
        changes = {"name": "trial", "epochs": 2, "max_train": _TRIAL_BATCHES * rules.batch_size}
        brief = rules.model_copy(update={**changes, "max_dev": rules.batch_size})
        method = job.method if job.mask is None else CANDIDATES
        run, _ = session.run(session.prepare(data, method, 1e-6, job.seed, brief))
        first, second = run.curve  # the first epoch pays for what is made ready once
        size = self._trained(job.task, run.data.train, run.data.held_out or run.data.dev, 1)
        return size / max(second.seconds - first.seconds, 1e-3)

    def _trained(self, task: str, train: int, pick: int, epochs: int) -> float:
        return self._length(task) * epochs * (train + _FORWARD * pick)

    def _length(self, task: str) -> float:
        """Mean characters of a training example, as far as they are read."""
        if task not in self._lengths:
            limit = _TOKEN * self._engine.setup.protocol.max_length
            split = self._engine.task(task).data.labelled("train")
            pairs = split.pairs or ("",) * len(split)
            some = range(0, len(split), max(1, len(split) // _SAMPLE))
            self._lengths[task] = sum(min(len(split.texts[i]) + len(pairs[i]), limit) for i in some) / len(some)
        return self._lengths[task]


def _comparable(facts: dict[str, str | int]) -> tuple[str | int | None, ...]:
    return tuple(facts.get(name) for name in ("processor", "threads", "device", "accelerator", "linear"))
