"""A study's measurements of Fisher information: what is measured, whether it was, and doing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from normtune.data.task import TaskData
from normtune.importance.archive import Archive, Query
from normtune.models.base import Base
from normtune.records.fisher import FisherConfig, FisherRecord
from normtune.studies.config import Setup
from normtune.studies.plan import CANDIDATES
from normtune.training.splits import parts_of


def fisher_config(setup: Setup, base: Base, data: TaskData) -> FisherConfig:
    """What is measured of a task."""
    return FisherConfig(
        model=base.name,
        revision=base.revision,
        dtype=setup.dtype,
        task=data.task.name,
        entries=CANDIDATES,
        head_seeds=setup.head_seeds,
        max_length=setup.protocol.max_length,
        examples=setup.examples,
    )


def find_fisher(folder: Path, setup: Setup, base: Base, data: TaskData) -> FisherRecord | None:
    """The measurement on a task, where its record and its single entries are in `folder`."""
    train = parts_of(data, setup.protocol).train
    found = Archive(folder).find(Query(base, data, train, fisher_config(setup, base, data)))
    return None if found is None else found.record


def measure_fisher(
    folder: Path, setup: Setup, base: Base, data: TaskData, tell: Callable[[int, int, str], None]
) -> FisherRecord:
    """Measure a task's Fisher information into `folder`, over what was there."""
    config = fisher_config(setup, base, data)
    train = parts_of(data, setup.protocol).train
    total = min(len(train), config.examples or len(train)) * len(config.head_seeds)
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        tell(done, total, "")

    return Archive(folder).measure(Query(base, data, train, config), progress=progress, force=True).record
