"""Measurements of Fisher information, cached in a folder under what they measure, so that nothing is measured twice.

``TASK-ID.json`` is the record; ``TASK-ID.safetensors`` beside it holds the single entries if they were requested:
``NAME`` for each parameter, float32, packed in the order of its selected entries, and in its header the record's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from normtune.config import Strict, fingerprint
from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split, Task, TaskData
from normtune.errors import DataError, SelectionError
from normtune.files import read_tensors, write_tensors
from normtune.importance.fisher import Request, fisher, information
from normtune.importance.scores import Scores
from normtune.importance.stability import until_stable
from normtune.machine import machine
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.models.families import norms_of
from normtune.records.fisher import FisherConfig, FisherRecord
from normtune.versions import versions

# Raise this when numbers of the same configuration change their meaning, so that old records are not reused.
_SCHEMA = 1

_KEY = "normtune"

#: The expression for everything.
WHOLE = "full"


class EntriesInfo(Strict):
    """The header of the file of a measurement's single entries."""

    format: int = 1
    id: str


@dataclass(frozen=True)
class MeasuredFisher:
    """A record, with the Fisher information of every entry requested; `cached` if it was stored before."""

    record: FisherRecord
    scores: Scores | None
    cached: bool


@dataclass(frozen=True)
class Measurement:
    """A measurement of Fisher information on one task.

    Attributes:
        train: The task's training examples that may be used.
        folder: Where measurements are stored, or None to store none.
    """

    base: Base
    data: TaskData
    train: Split
    config: FisherConfig
    folder: Path | None = None

    @cached_property
    def within(self) -> Selection:
        """The entries that are summed over."""
        return select(self.base.layout, self.config.within)

    @cached_property
    def entries(self) -> Selection | None:
        """The entries whose single values are kept."""
        return None if self.config.entries is None else select(self.base.layout, self.config.entries)

    @cached_property
    def sample(self) -> Split:
        """The examples to measure on."""
        return self.train.sample(self.config.examples, self.config.sample_seed)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of all that changes a number; a GLUE task's name stands for what it asks."""
        task = self.data.task
        known = task.name in GLUE and _asks(task) == _asks(GLUE[task.name])
        own: dict[str, object] = {} if known else {"task": _asks(task)}
        return fingerprint({
            **own,
            **self.base.unpinned,
            "schema": _SCHEMA,
            "config": self.config.model_dump(mode="json", exclude_defaults=True),
            "base": self.base.identity,
            "within": self.within.fingerprint,
            "entries": None if self.entries is None else self.entries.fingerprint,
            "data": self.sample.identity(),
        })

    def find(self) -> MeasuredFisher | None:
        """The stored measurement, or one that kept these entries and summed over more; None if there is neither."""
        config, within = self.config, self.within
        found = _stored(self.folder, config.task, self.identity, self.entries)
        if found is None and config.within == config.entries and all(map(within.is_whole, within.chosen)):
            # A measurement that kept these entries and summed over the whole model will do as well.
            wider = replace(self, config=config.model_copy(update={"within": WHOLE}))
            found = _stored(self.folder, config.task, wider.identity, self.entries)
            if found is not None:
                # The record as if no more had been summed over; its id still says where it is stored.
                rows = zip(wider.within, found.record.information, strict=True)
                own = tuple(row for place, row in rows if place.parameter in within.chosen)
                changes = {"config": config, "selection": within.fingerprint, "information": own}
                found = replace(found, record=found.record.model_copy(update=changes))
        return found

    def measure(self, *, progress: Callable[[int], None] = lambda _: None) -> MeasuredFisher:
        """Measure, even if a stored measurement exists, and store the result."""
        base, data, config, started = self.base, self.data, self.config, time.monotonic()
        every = data.split("train")
        encoded = base.encode(self.sample, config.max_length)
        both = self.within if self.entries is None else self.within | self.entries
        request = Request(both, self.entries, config.estimator, config.head_seeds)
        stability = None
        if config.stable is None:
            measured = fisher(base, data.task, encoded, request, progress=progress)
        else:
            measured, stability = until_stable(base, data.task, encoded, request, config.stable, progress=progress)
        record = FisherRecord(
            id=self.identity,
            config=config,
            base_identity=base.identity,
            norms=norms_of(base.layout),
            suite=data.suite,
            selection=both.fingerprint,
            source=Path(data.source).name,
            examples=len(measured.examples),
            available=len(base.encode(every, config.max_length) if base.language else every),  # blocks of lines
            identity=self.sample.identity()[:16],
            truncated=encoded.truncated,
            information=information(both, measured.by_seed),
            stability=stability,
            slow=measured.slow,
            seconds=round(time.monotonic() - started, 3),
            machine=machine(base.device),
            versions=versions(),
        )
        if self.folder is not None:
            file = self.folder / f"{config.task}-{record.id}.json"
            if measured.scores is not None:  # first, so that where a record exists its entries do
                tensors = {
                    name: torch.from_numpy(values.astype(np.float32)) for name, values in measured.scores.values.items()
                }
                write_tensors(file.with_suffix(".safetensors"), _KEY, EntriesInfo(id=record.id), tensors)
            record.save(file)
        return MeasuredFisher(record, measured.scores, cached=False)


def read(folder: Path, task: str, identity: str, entries: Selection) -> MeasuredFisher:
    """The measurement called `identity` in a folder, with the scores of `entries`, the entries that it kept.

    Raises:
        DataError: If it does not exist, or its files are damaged.
    """
    found = _stored(folder, task, identity, entries)
    if found is None:
        raise DataError(f"There is no Fisher information called {task}-{identity} in {folder}.")
    return found


def _stored(folder: Path | None, task: str, identity: str, entries: Selection | None) -> MeasuredFisher | None:
    record = None if folder is None else folder / f"{task}-{identity}.json"
    if record is None or not record.is_file():
        return None
    file, scores = record.with_suffix(".safetensors"), None
    if entries is not None:
        if not file.is_file():
            return None
        scores = read_scores(file, identity, entries)
    return MeasuredFisher(FisherRecord.load(record), scores, cached=True)


def read_scores(file: Path, identity: str, entries: Selection) -> Scores:
    """The single entries of the measurement called `identity`.

    Raises:
        DataError: If the file is truncated, damaged or of another measurement.
    """
    info, tensors = read_tensors(file, "file of Fisher information", _KEY, EntriesInfo, DataError)
    if info.id != identity:
        raise DataError(f"The Fisher information in {file} is of another measurement; remove that file.")
    try:
        return Scores(entries, {name: values.numpy() for name, values in tensors.items()})
    except SelectionError as error:
        raise DataError(f"The Fisher information in {file} is corrupt: {error}") from error


def _asks(task: Task) -> tuple[object, ...]:
    """What of a task changes a number, besides its examples."""
    return task.kind, task.outputs, task.center, task.scale
