"""Records of runs that were not trained to their end: those that failed, and those that were dropped early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normtune.config import Pruning, RunConfig
from normtune.data.task import TaskData
from normtune.machine import machine, peak_memory
from normtune.methods.selection import Selection
from normtune.models.families import known_norms
from normtune.records.run import Record
from normtune.studies.pruning import pruned_identity, verdict
from normtune.training.loop import PrunedError
from normtune.training.session import Session
from normtune.training.splits import facts_of, parts_of
from normtune.versions import versions


@dataclass(frozen=True)
class Run:
    """A run that is to be made.

    Attributes:
        config: Its configuration.
        data: The task and its data.
        selection: What trains, where its method does not say it.
        id: Its identity.
    """

    config: RunConfig
    data: TaskData
    selection: Selection | None
    id: str


def failed(session: Session, run: Run, error: str) -> Record:
    """The record of a run that could not be finished."""
    return _record(session, run, id=run.id, status="failed", error=error)


def pruned(session: Session, run: Run, rule: Pruning, rivals: Sequence[Record], error: PrunedError) -> Record:
    """The record of a run that was dropped, with its curve until then.

    Args:
        session: What it was trained in.
        run: The run.
        rule: Why it was dropped.
        rivals: The runs that it was compared with.
        error: How it ended.

    Returns:
        The record.
    """
    why = verdict(rule, run.data.task.primary, error.curve, run.config.protocol.epochs, rivals)
    assert why is not None
    curve = error.curve[: why.epoch]
    return _record(
        session,
        run,
        id=pruned_identity(run.id, rule, rivals),
        status="pruned",
        error=f"{why}.",
        pruned=why,
        curve=curve,
        steps=error.steps // len(error.curve) * len(curve),
        seconds=round(error.seconds, 3),
        peak_memory=peak_memory(session.accelerator.device),
    )


def _record(session: Session, run: Run, **facts: Any) -> Record:
    base, config, task = session.base, run.config, run.data.task
    spec = session.spec(config.method, config.seed) if run.selection is None else run.selection
    return Record(
        config=config,
        base_identity=base.identity,
        norms=known_norms(base.layout),
        trains=spec.fingerprint,
        counts=spec.counts(base.layout),
        outputs=task.outputs,
        data=facts_of(run.data, parts_of(run.data, config.protocol), {}),
        primary=task.primary,
        machine=machine(session.accelerator.device),
        versions=versions(),
        **facts,
    )
