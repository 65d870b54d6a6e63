"""SUITES: the suites that tasks are named in, what their tables show, and how their tasks are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from normtune.data.glue import canonical_name, load_glue
from normtune.data.task import TaskData
from normtune.data.templates import generate
from normtune.errors import UnknownNameError


@dataclass(frozen=True)
class Column:
    """A column of a suite's tables: a task, and which of its dev splits.

    Attributes:
        title: Its name in print.
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
        title: Its name in print.
        columns: The columns of its tables and the panels of its figures, in order.
        load: Reads the task of a name, from a folder where the suite lies in one (None takes it from the hub).
    """

    title: str
    columns: tuple[Column, ...]
    load: Callable[[str, Path | None], TaskData]


#: Size of the embedded suite's splits, and the seed that they are generated with.
TEMPLATE_TRAIN, TEMPLATE_DEV, TEMPLATE_SEED = 2000, 500, 0


def _template(name: str, _: Path | None) -> TaskData:
    return generate(canonical_name(name), train=TEMPLATE_TRAIN, dev=TEMPLATE_DEV, seed=TEMPLATE_SEED)


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
    "glue": Suite("GLUE", _GLUE, load_glue),
    "templates": Suite("the embedded suite", _GLUE, _template),
}


def load_task(name: str, suite: str = "glue", data: Path | None = None) -> TaskData:
    """The task called `name` in `suite`, with its data.

    Args:
        name: The task's name in the suite; of GLUE the hub's (``rte``), or GLUE's own (``RTE``).
        suite: One of `SUITES`.
        data: A folder in the suite's layout; None takes it from the hub, where the suite is on one.

    Returns:
        The task with its data, which names the suite.

    Raises:
        UnknownNameError: If there is no such suite, or no such task in it.
    """
    if suite not in SUITES:
        raise UnknownNameError("suite", suite, SUITES)
    return replace(SUITES[suite].load(name, data), suite=suite)
