"""Where a command's examples come from: GLUE by name, or the user's own files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normtune.cli.options import names, notes
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from normtune.data.task import TaskData


@dataclass(frozen=True)
class OwnFiles:
    """What the options say of the user's own files.

    Attributes:
        train: File of training examples, or None where the task comes from a suite.
        dev: File of dev examples; without it a slice of `train` is split off.
        text: Column of the texts.
        pair: Column of their pairs, or None.
        label: Column of the labels.
        regression: Whether the labels are numbers to be predicted.
        class_weights: Whether rare classes weigh more.
        name: The task's name; by default that of the file.
        seed: Seeds the split.
    """

    train: Path | None = None
    dev: Path | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    regression: bool = False
    class_weights: bool = False
    name: str | None = None
    seed: int = 0


def sources(task: str | None, suite: str, data: Path | None, own: OwnFiles) -> list[TaskData]:
    """The tasks that the options name.

    Args:
        task: Names of suite tasks, separated by commas, or None.
        suite: The suite that they are of.
        data: GLUE's folder, or None for the hub.
        own: The user's own files.

    Returns:
        Tasks with their data.

    Raises:
        ConfigError: If both or neither are given.
    """
    if (task is None) == (own.train is None):
        raise ConfigError("Give either --task, for a task of a suite, or --train, for a file of your own.")
    if task is not None:
        if own.dev is not None:
            raise ConfigError("--dev goes with --train; a task of a suite brings its own.")
        from normtune.data.suites import load_task

        return [load_task(name, suite, data) for name in names(task)]
    return [own_source(own)]


def own_source(own: OwnFiles) -> TaskData:
    """The task in the user's own files; what its author should know of them is told on standard error."""
    from normtune.data.files import load_files

    assert own.train is not None
    found = load_files(
        own.train,
        own.dev,
        text=own.text,
        pair=own.pair,
        label=own.label,
        regression=own.regression,
        class_weights=own.class_weights,
        name=own.name,
        seed=own.seed,
    )
    if found.labels_count:
        shown = ", ".join(f"{label} ({count:,})" for label, count in list(found.labels_count.items())[:8])
        more = f" and {len(found.labels_count) - 8} more" if len(found.labels_count) > 8 else ""
        notes.print(f"{len(found.labels_count)} classes: {shown}{more}", highlight=False, markup=False)
    for note in found.notes:
        notes.print(f"Note: {note}", highlight=False, markup=False)
    columns = (own.text, *([own.pair] if own.pair else []), own.label)
    return replace(found.data, task=replace(found.data.task, columns=columns))
