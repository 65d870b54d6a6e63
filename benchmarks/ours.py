"""Our ways to train LayerNorm, under names that say what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from accelerate import Accelerator
from harness import now

from normtune.config import Protocol
from normtune.execution.batching import Encoded
from normtune.execution.prefix import Point, Prefix
from normtune.execution.sparse import Tuning
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.selection.expression import select
from normtune.tasks.task import Task
from normtune.training.loop import Goal, Loop, Outcome


@dataclass(frozen=True)
class Case:
    """One way of ours.

    Attributes:
        said: What it does, for the table.
        protocol: How it trains.
        selects: What it trains beside the head.
        keeps: Whether a first epoch keeps what makes later ones cheaper.
    """

    said: str
    protocol: Protocol
    selects: str = "layernorm"
    keeps: bool = False


CASES = {
    "ours_paper": Case("ours, dropout as in the paper, all layers", Protocol(name="b", dropout_generator="fast")),
    "ours_fused": Case(
        "ours, dropout as in the paper, all layers, fused", Protocol(name="b", dropout_generator="fast", layers="fused")
    ),
    "ours_prefix": Case(
        "ours, without dropout, all layers, prefix kept", Protocol(name="b", dropout=False, prefix=True), keeps=True
    ),
    "ours_best": Case(
        "ours, without dropout, upper three layers only, prefix kept",
        Protocol(name="b", dropout=False, prefix=True),
        "layernorm@3-",
        keeps=True,
    ),
}


def train(
    base: Base,
    task: Task,
    case: str,
    train: Encoded,
    dev: Encoded,
    *,
    epochs: int,
    rate: float,
    seed: int,
    stepped: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """One whole training.

    Args:
        base: The base model, which is left as it was.
        task: The task.
        case: A name in `CASES`.
        train: What it learns from.
        dev: What is scored after each epoch.
        epochs: Passes over `train`.
        rate: Learning rate.
        seed: Of head, order and dropout.
        stepped: Told the time after each step.

    Returns:
        What came out.
    """
    way = CASES[case]
    protocol = way.protocol.model_copy(update={"epochs": epochs})
    with ExitStack() as undo:
        undo.callback(base.refresh)
        undo.callback(base.put_head(HeadSpec(task.kind, task.labels), seed).undo)
        selection = select(base.layout, way.selects)
        tuning = Tuning(base, selection)
        prefix = Prefix(base, Point.of(base, selection)) if protocol.prefix else None
        undo.callback(tuning.undo)
        accelerator = Accelerator()
        undo.callback(accelerator.free_memory)
        loop = Loop(
            tuning,
            Goal(task, train, dev),
            protocol,
            rate=rate,
            seed=seed,
            accelerator=accelerator,
            watch=lambda _: stepped(now()),
            prefix=prefix,
        )
        return loop.run()
