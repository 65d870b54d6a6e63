"""Measuring Fisher information, for the commands that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from normtune.cli.options import names, refuse, refuse_data, tell
from normtune.cli.progress import run_jobs
from normtune.data.suites import suite_of
from normtune.errors import ImportanceError
from normtune.importance.measurement import MeasuredFisher
from normtune.studies.jobs import FisherJob

if TYPE_CHECKING:
    from normtune.data.task import TaskData
    from normtune.records.fisher import FisherConfig
    from normtune.studies.engine import Engine


def task_names(text: str, suite: str, target: str | None = None) -> list[str]:
    """The tasks of a comma-separated list, each once, and the target; ``all`` means those that tables show."""
    chosen = suite_of(suite)
    given = list(chosen.reported) if text.strip() == "all" else names(text)
    return list(dict.fromkeys(chosen.resolve(name) for name in [*given, *([target] if target else [])]))


def own_tasks(text: str, model: str) -> dict[str, TaskData]:
    """The tasks of a manifest with their data, by name; empty if `text` names no YAML file.

    Raises:
        ConfigError: If the manifest names another model than `model`.
    """
    if not text.endswith((".yaml", ".yml")):
        return {}
    from normtune.studies.manifest import read_manifest

    return {str(own.name): own.load() for own in read_manifest(Path(text), {}, {}, model).tasks}


def refuse_unused(
    context: typer.Context, *, suite: str, estimator: str, until_stable: bool, own: Mapping[str, TaskData]
) -> None:
    """Refuse options that have no effect on a measurement, then tell what was guessed on the user's files."""
    if own:
        refuse(context, {"suite", "data"}, "A manifest names the files of its tasks")
    refuse_data(context, suite)
    if estimator != "monte-carlo":
        refuse(context, {"samples"}, "Only --estimator monte-carlo draws labels")
    if not until_stable:
        refuse(context, {"tolerance"}, "Only --until-stable compares halves of the examples")
    tell([f"{name}: {note}" for name, data in own.items() for note in data.notes])


def measure(engine: Engine, config: FisherConfig, tasks: Sequence[str]) -> Callable[[str], MeasuredFisher]:
    """Measure Fisher information on every task not measured before; returns a function from task to result."""
    jobs = {task: FisherJob(task=task, config=config) for task in tasks}
    for result in run_jobs([*jobs.values()], engine).values():
        if result.error is not None:
            raise ImportanceError(result.error)

    def found(task: str) -> MeasuredFisher:
        own = engine.measurement(jobs[task])
        return own.find() or own.measure()

    return found
