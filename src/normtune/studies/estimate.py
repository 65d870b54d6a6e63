"""Estimate how long a study takes, from how much text its jobs read and how fast a trial of each kind reads."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial

from normtune.data.task import TaskData
from normtune.errors import NormtuneError
from normtune.studies.engine import Engine
from normtune.studies.importance import CANDIDATES, measurement
from normtune.studies.jobs import FisherJob, MaskJob, TrainJob
from normtune.studies.manifest import OwnFiles
from normtune.studies.study import Study
from normtune.training.splits import parts_of

#: Texts that a mean length is taken over.
_SAMPLE = 200
#: Characters counted for a token, in texts that are cut.
_TOKEN = 5
#: Cost of an evaluation, which has no backward pass, relative to training.
_FORWARD = 1 / 3
_TRIAL_BATCHES, _TRIAL_EXAMPLES = 2, (16, 16, 64)


def sizes(study: Study) -> dict[str, float]:
    """How much each missing job of a study reads, by key, in characters of text.

    A run reads its training data once an epoch; evaluating a text counts as a third of it. A mask reads nothing.
    """
    size = cache(partial(_size, study.engine))
    return {
        job.key: 0.0 if isinstance(job, MaskJob) else size(job.files, job.task, fisher=isinstance(job, FisherJob))
        for job in study.missing
    }


def estimate(study: Study) -> dict[str, float]:
    """Seconds that each missing job of a study takes on this machine, by key, from a trial of each kind of job.

    A masked run is taken to last as long as LayerNorm's. Jobs of a kind that cannot be tried are left out.
    """
    kinds, read = defaultdict[str, list[FisherJob | TrainJob]](list), sizes(study)
    seconds = {job.key: 0.0 for job in study.missing if isinstance(job, MaskJob)}
    for job in study.missing:
        if not isinstance(job, MaskJob):
            kinds["fisher" if isinstance(job, FisherJob) else _method(job)].append(job)
    for jobs in kinds.values():
        with suppress(NormtuneError):
            speed = _speed(study.engine, jobs[0])
            seconds |= {job.key: read[job.key] / speed for job in jobs}
    return seconds


def _method(job: TrainJob) -> str:
    """The method of a run, or of a masked run the one that is as fast."""
    return job.method if job.mask is None else CANDIDATES


def _size(engine: Engine, files: OwnFiles | None, task: str, *, fisher: bool) -> float:
    """Characters that a measurement or a run on a task reads."""
    setup, data = engine.setup, engine.task(task, files)
    length, parts = _length(engine, data), parts_of(data, setup.protocol)
    if fisher:
        return length * min(len(parts.train), setup.examples or len(parts.train)) * len(setup.head_seeds)
    return length * setup.protocol.epochs * (len(parts.train) + _FORWARD * len(parts.pick))


def _speed(engine: Engine, job: FisherJob | TrainJob) -> float:
    """Characters that a job reads per second, over a few steps."""
    data, rules, session = engine.data(job), engine.setup.protocol, engine.session
    length = _length(engine, data)
    if isinstance(job, FisherJob):
        own = measurement(engine.setup, session.base, data)
        pinned = own.config.model_copy(update={"head_seeds": own.config.head_seeds[:1]})
        trials = (pinned.model_copy(update={"examples": number}) for number in _TRIAL_EXAMPLES)
        _, some, more = (replace(own, config=config).measure().record for config in trials)  # the first one warms up
        # The difference cancels the fixed cost of a measurement; a task with so few examples takes no time.
        return length * max(more.examples - some.examples, 1) / max(more.seconds - some.seconds, 1e-3)
    shorter = {"epochs": 2, "max_train": _TRIAL_BATCHES * rules.batch_size, "max_dev": rules.batch_size}
    brief = rules.model_copy(update={"name": "trial", **shorter})
    trial = session.measured(session.prepare(data, _method(job), 1e-6, job.seed, brief), keep=False)
    first, second = session.run(trial)[0].curve  # the first epoch includes the set-up
    read = len(trial.parts.train) + _FORWARD * len(trial.parts.pick)
    return length * read / max(second.seconds - first.seconds, 1e-3)


def _length(engine: Engine, data: TaskData) -> float:
    """Mean characters read of a training example that is a text or a pair; 1 for any other kind of input."""
    limit, split = _TOKEN * engine.setup.protocol.max_length, data.labelled("train")
    if split.kind != "text":
        return 1.0
    pairs = split.pairs or ("",) * len(split)
    some = range(0, len(split), max(1, len(split) // _SAMPLE))
    return sum(min(len(split.texts[i]) + len(pairs[i]), limit) for i in some) / len(some)
