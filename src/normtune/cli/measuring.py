"""Measuring Fisher information, for the commands that need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from normtune.cli.options import names
from normtune.cli.progress import run_jobs
from normtune.data.suites import suite_of
from normtune.errors import ImportanceError
from normtune.importance.measurement import Measured
from normtune.studies.jobs import FisherJob

if TYPE_CHECKING:
    from normtune.records.fisher import FisherConfig
    from normtune.studies.engine import Engine


def task_names(text: str, suite: str, target: str | None = None) -> list[str]:
    """The tasks of a comma-separated list, each once, and the target; ``all`` stands for those that tables show."""
    chosen = suite_of(suite)
    given = list(chosen.reported) if text.strip() == "all" else names(text)
    return list(dict.fromkeys(chosen.resolve(name) for name in [*given, *([target] if target else [])]))


def measure(engine: Engine, config: FisherConfig, tasks: Sequence[str]) -> Callable[[str], Measured]:
    """Measure Fisher information on every task, unless it was measured before.

    Args:
        engine: The base model, and where measurements are kept.
        config: What is measured and how.
        tasks: The tasks.

    Returns:
        What gives the measurement on a task.

    Raises:
        ImportanceError: If one cannot be made.
    """
    jobs = {task: FisherJob(task=task, config=config) for task in tasks}
    for result in run_jobs([*jobs.values()], engine).values():
        if result.error is not None:
            raise ImportanceError(result.error)

    def found(task: str) -> Measured:
        own = engine.measurement(jobs[task])
        return own.find() or own.measure()

    return found
