"""The task that a delta answers."""

from __future__ import annotations

from normtune.data.task import PAIR, TEXT, Task
from normtune.deltas.delta import Delta


def task_of(delta: Delta) -> Task:
    """The task that a delta answers, as far as the delta itself knows it."""
    info = delta.info
    classes = ("accuracy", "macro_f1")
    return Task(
        name=info.task,
        title=info.task,
        kind=info.kind,
        labels=info.labels,
        metrics=("spearman", "pearson") if info.kind == "regression" else classes,
        inputs=PAIR if info.pair else TEXT,
        center=info.center,
        scale=info.scale,
    )
