"""The suites that tasks are named in: GLUE, and the embedded one."""

from __future__ import annotations

from pathlib import Path

from normtune.data.glue import canonical_name, load_glue
from normtune.data.task import TaskData
from normtune.data.templates import generate
from normtune.errors import UnknownNameError

SUITES = ("glue", "templates")

#: Size of the embedded suite's splits, and the seed that they are generated with.
TEMPLATE_TRAIN, TEMPLATE_DEV, TEMPLATE_SEED = 2000, 500, 0


def load_task(name: str, suite: str = "glue", data: Path | None = None) -> TaskData:
    """The task called `name` in `suite`, with its data.

    Args:
        name: The task's name on the hub (``rte``), or GLUE's own (``RTE``).
        suite: ``glue`` or ``templates``.
        data: For GLUE, a folder in its layout; None takes it from the hub.

    Returns:
        The task with its data.

    Raises:
        UnknownNameError: If there is no such suite, or no such task in it.
    """
    if suite not in SUITES:
        raise UnknownNameError("suite", suite, SUITES)
    if suite == "templates":
        return generate(canonical_name(name), train=TEMPLATE_TRAIN, dev=TEMPLATE_DEV, seed=TEMPLATE_SEED)
    return load_glue(name, data)
