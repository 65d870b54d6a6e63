"""A study's measurements of Fisher information: what is measured, whether it was, and doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from normtune.data.task import TaskData
from normtune.importance.archive import Archive
from normtune.methods.expression import select
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
    config = fisher_config(setup, base, data)
    sample = parts_of(data, setup.protocol).train.sample(config.examples, config.sample_seed)
    wanted = (config, base.identity, sample.identity()[:16], select(base.layout, config.within).fingerprint)
    for path in sorted(folder.glob(f"{config.task}-*.json")):
        own = FisherRecord.load(path)
        if not path.with_suffix(".safetensors").is_file():
            continue
        if wanted == (own.config, own.base_identity, own.identity, own.selection):
            return own
    return None


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

    folder.mkdir(parents=True, exist_ok=True)
    # Aside, so that nothing is found there when all is to be measured again, nor lost before the new one is whole.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".aside-") as aside:
        record = Archive(Path(aside)).measure(base, data, train, config, progress=progress).record
        for file in sorted(Path(aside).iterdir(), reverse=True):  # the entries before the record
            file.replace(folder / file.name)
    return record
