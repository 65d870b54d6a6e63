"""Measurements of Fisher information in a folder: found again by what they measure, so that nothing is measured twice.

``TASK-ID.json`` is the record; ``TASK-ID.safetensors`` beside it holds the single entries where they were asked for:
``NAME`` for each parameter, float32, packed in the order of its selected entries, and in its header the record's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from normtune.config import fingerprint
from normtune.data.encode import encode
from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split, Task, TaskData
from normtune.errors import DataError, SelectionError
from normtune.files import write_atomically
from normtune.importance.fisher import Request, fisher, information
from normtune.importance.scores import Scores
from normtune.importance.stability import until_stable
from normtune.machine import machine
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.models.families import known_norms
from normtune.records.fisher import FisherConfig, FisherRecord
from normtune.versions import versions

# A change of what the numbers mean, with the same configuration, is a new schema: old records are then not reused.
_SCHEMA = 1

_KEY = "normtune"

#: The expression for everything.
WHOLE = "full"


@dataclass(frozen=True)
class Query:
    """What is to be measured of one task.

    Attributes:
        base: The base model.
        data: The task.
        train: Those of its training examples that may be looked at.
        config: How.
    """

    base: Base
    data: TaskData
    train: Split
    config: FisherConfig

    @cached_property
    def within(self) -> Selection:
        """What is summed over."""
        return select(self.base.layout, self.config.within)

    @cached_property
    def entries(self) -> Selection | None:
        """What is kept entry by entry."""
        return None if self.config.entries is None else select(self.base.layout, self.config.entries)

    @cached_property
    def sample(self) -> Split:
        """The examples."""
        return self.train.sample(self.config.examples, self.config.sample_seed)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of all that changes a number. What GLUE's tasks ask is known by their names."""
        task = self.data.task
        own = {} if task.name in GLUE and _asks(task) == _asks(GLUE[task.name]) else {"task": _asks(task)}
        return fingerprint({
            **own,
            "schema": _SCHEMA,
            "config": self.config.model_dump(mode="json", exclude_defaults=True),
            "base": self.base.identity,
            "within": self.within.fingerprint,
            "entries": None if self.entries is None else self.entries.fingerprint,
            "data": self.sample.identity(),
        })


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Attributes:
        record: Its record.
        scores: Fisher information of every entry asked for, or None.
        cached: Whether it was found in the archive.
    """

    record: FisherRecord
    scores: Scores | None
    cached: bool


class Archive:
    """Measurements of Fisher information in a folder.

    Args:
        folder: Where they lie, or None to keep none.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def find(self, query: Query) -> Measured | None:
        """The measurement, or what a wider one kept of these entries; None where there is neither."""
        config, within = query.config, query.within
        found = self._get(config.task, query.identity, query.entries)
        if found is None and config.within == config.entries and all(map(within.is_whole, within.chosen)):
            # What was kept while more was summed over will do as well.
            wider = replace(query, config=config.model_copy(update={"within": WHOLE}))
            found = self._get(config.task, wider.identity, query.entries)
            found = found and replace(found, record=_narrowed(found.record, wider.within, within, config))
        return found

    def read(self, task: str, identity: str, entries: Selection) -> Measured:
        """The measurement called `identity`, with the scores of `entries`, which are those that it kept.

        Raises:
            DataError: If it is not there, or its files are damaged.
        """
        found = self._get(task, identity, entries)
        if found is None:
            raise DataError(f"There is no Fisher information called {task}-{identity} in {self.folder}.")
        return found

    def measure(
        self, query: Query, *, progress: Callable[[int], None] = lambda _: None, force: bool = False
    ) -> Measured:
        """Measure Fisher information, or find it.

        Args:
            query: What is wanted.
            progress: Told how many further examples are done.
            force: Measure it though it is there.
        """
        found = None if force else self.find(query)
        if found is not None:
            return found
        base, data, config, started = query.base, query.data, query.config, time.monotonic()
        encoded = encode(query.sample, base.need_tokenizer(), config.max_length)
        both = query.within if query.entries is None else query.within | query.entries
        request = Request(both, query.entries, config.estimator, config.head_seeds)
        stability = None
        if config.stable is None:
            measured = fisher(base, data.task, encoded, request, progress=progress)
        else:
            measured, stability = until_stable(base, data.task, encoded, request, config.stable, progress=progress)
        record = FisherRecord(
            id=query.identity,
            config=config,
            base_identity=base.identity,
            norms=known_norms(base.layout),
            suite=data.suite,
            selection=both.fingerprint,
            source=Path(data.source).name,
            examples=len(measured.examples),
            available=len(data.split("train")),
            identity=query.sample.identity()[:16],
            truncated=encoded.truncated,
            information=information(both, measured.by_seed),
            stability=stability,
            slow=measured.slow,
            seconds=round(time.monotonic() - started, 3),
            machine=machine(base.device),
            versions=versions(),
        )
        if self.folder is not None:
            path, kept = self._file(config.task, record.id), measured.scores
            if kept is not None:  # first, so that a record means that all is there
                tensors = {name: values.astype(np.float32) for name, values in kept.values.items()}
                # One key alone, since safetensors writes several in any order and equal entries should be equal files.
                write_atomically(path.with_suffix(".safetensors"), serialise(tensors, {_KEY: record.id}))
            record.save(path)
        return Measured(record, measured.scores, cached=False)

    def _file(self, task: str, identity: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{task}-{identity}.json"

    def _get(self, task: str, identity: str, entries: Selection | None) -> Measured | None:
        if self.folder is None:
            return None
        record = self._file(task, identity)
        file = record.with_suffix(".safetensors")
        if not record.is_file() or (entries is not None and not file.is_file()):
            return None
        scores = None if entries is None else read_scores(file, identity, entries)
        return Measured(FisherRecord.load(record), scores, cached=True)


def read_scores(file: Path, identity: str, entries: Selection) -> Scores:
    """The single entries of the measurement called `identity`.

    Raises:
        DataError: If the file is truncated, corrupt or of another measurement.
    """
    try:
        with safe_open(file, "np") as stored:
            values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            known = (stored.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError) as error:
        raise DataError(f"The Fisher information in {file} is truncated or corrupt: {error}") from error
    if known != identity:
        raise DataError(f"The Fisher information in {file} is of another measurement; remove that file.")
    try:
        return Scores(entries, values)
    except SelectionError as error:
        raise DataError(f"The Fisher information in {file} is corrupt: {error}") from error


def _narrowed(record: FisherRecord, whole: Selection, within: Selection, config: FisherConfig) -> FisherRecord:
    """The record as if only `within` had been summed over; its id says where it is kept."""
    rows = zip(whole, record.information, strict=True)
    own = tuple(row for place, row in rows if place.parameter in within.chosen)
    return record.model_copy(update={"config": config, "selection": within.fingerprint, "information": own})


def _asks(task: Task) -> tuple[object, ...]:
    """What of a task changes a number, beside its examples."""
    return task.kind, task.outputs, task.center, task.scale
