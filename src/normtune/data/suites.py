"""SUITES: the suites of tasks, the columns of their tables, and how their tasks are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from normtune.data.digits import DIGITS, load_digits
from normtune.data.glue import Found, load_glue, survey
from normtune.data.glue_tasks import ALIASES, GLUE
from normtune.data.task import Task, TaskData, plain, resolve
from normtune.data.toy import TOY, load_toy
from normtune.errors import UnknownNameError, known


@dataclass(frozen=True)
class Column:
    """A column of a suite's tables: a task, and which of its dev splits.

    Attributes:
        title: Its displayed name.
        task: The task.
        split: The split of the scores.
    """

    title: str
    task: str
    split: str = "dev"


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together.

    Attributes:
        title: Its displayed name.
        tasks: Its tasks by name, in order.
        columns: The columns of its tables and the panels of its figures, in order.
        load: Loads a task by name, from a folder if the suite is stored in one (None takes it from the hub).
        survey: Finds what a folder holds of each task; None if the tasks are always available.
        aliases: Further names of tasks, as `normtune.data.task.plain` gives them.
    """

    title: str
    tasks: Mapping[str, Task]
    columns: tuple[Column, ...]
    load: Callable[[str, Path | None], TaskData]
    survey: Callable[[Path | None], Mapping[str, Found]] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the tasks that its tables show."""
        return tuple(name for name in self.tasks if name in {column.task for column in self.columns})

    def resolve(self, name: str) -> str:
        """The name of the task that `name` spells; `normtune.data.task.resolve` raises an error if there is none."""
        return resolve(name, self.tasks, f"{self.title} task", self.aliases)

    def knows(self, name: str) -> bool:
        """Whether it has a task of this name, in any spelling."""
        with suppress(UnknownNameError):
            return bool(self.resolve(name))
        return False

    def found(self, data: Path | None) -> Mapping[str, Found]:
        """The folder and row counts of each task, by name; `data` is the suite's folder, if it is stored in one."""
        if self.survey is not None:
            return self.survey(data)
        loaded = {name: self.load(name, None) for name in self.tasks}
        return {name: (None, {split: len(own.split(split)) for split in own}) for name, own in loaded.items()}


#: GLUE's columns in the paper's order.
_GLUE = (
    Column("QNLI", "qnli"),
    Column("SST-2", "sst2"),
    Column("MNLI-m", "mnli"),
    Column("MNLI-mm", "mnli", "dev_mismatched"),
    Column("CoLA", "cola"),
    Column("MRPC", "mrpc"),
    Column("STS-B", "stsb"),
    Column("RTE", "rte"),
    Column("QQP", "qqp"),
)

SUITES: dict[str, Suite] = {
    "glue": Suite("GLUE", GLUE, _GLUE, load_glue, survey, ALIASES),
    "toy": Suite("toy", TOY, _GLUE, load_toy, aliases=ALIASES),
    "digits": Suite("digits", DIGITS, tuple(Column(task.title, name) for name, task in DIGITS.items()), load_digits),
}


def suite_of(name: str) -> Suite:
    """The suite called `name`; an unknown name raises an `UnknownNameError`."""
    return SUITES[known("suite", name, SUITES)]


def load_task(name: str, suite: str = "glue", data: Path | None = None) -> TaskData:
    """The task called `name` in `suite`, with its data.

    Args:
        name: The task's name in the suite, in any spelling (``rte``, ``RTE``).
        suite: One of `SUITES`; an unknown suite or task raises an `UnknownNameError`.
        data: A folder in the suite's layout; None takes the task from the hub, if the suite is on it.

    Returns:
        The task with its data, which names the suite.
    """
    chosen = suite_of(suite)
    return replace(chosen.load(chosen.resolve(name), data), suite=suite)


def known_task(name: str) -> Task | None:
    """The task that has this name in any suite; None where it is one of the user's own."""
    return next((suite.tasks[name] for suite in SUITES.values() if name in suite.tasks), None)


def title_of(name: str) -> str:
    """A task's displayed name."""
    found = known_task(name)
    return name if found is None else found.title


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tasks, each once, in the order of their suites; the user's own after them, by name."""
    order = list(dict.fromkeys(name for suite in SUITES.values() for name in suite.tasks))
    return sorted(set(names), key=lambda name: (order.index(name) if name in order else len(order), name))


def spelled(name: str, known: Iterable[str]) -> str:
    """The one of the `known` names that `name` spells, such as ``sst2`` for ``SST-2``; else `name` itself."""
    names, meant = [*known], {plain(name)}
    for suite in SUITES.values():
        with suppress(UnknownNameError):
            meant.add(suite.resolve(name))
    return name if name in names else next((own for own in names if meant & {own, plain(own)}), name)
