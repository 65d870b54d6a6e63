"""Our ways to train LayerNorm, under names that say what they do."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from harness import now

from normtune.config import Protocol
from normtune.evaluation import EVAL_TOKENS, logits
from normtune.execution.batching import Encoded
from normtune.execution.fused import fused
from normtune.execution.prefix import Point, Prefix
from normtune.execution.sparse import Tuning
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.selection.expression import select
from normtune.tasks.task import Task
from normtune.training.loop import Loop, Outcome
from normtune.training.passes import Goal, Passes


@dataclass(frozen=True)
class Case:
    """One way of ours.

    Attributes:
        said: What it does, for the table.
        protocol: How it trains.
        selects: What it trains beside the head.
    """

    said: str
    protocol: Protocol
    selects: str = "layernorm"


#: As the peers' Trainer has it by default, so that scores differ by nothing but how a step is computed: neither warm-up
#: nor weight decay.
SCHEDULE: dict[str, Any] = {"name": "benchmark", "warmup_fraction": 0.0, "weight_decay": 0.0}

#: Frozen layers go the fast way in all of them; scores do not tell one way to compute a layer from another.
_FAST: dict[str, Any] = {**SCHEDULE, "layers": "compiled"}
_NO_DROPOUT: dict[str, Any] = {**_FAST, "dropout": False, "prefix": True, "products": "bfloat16"}

CASES = {
    "ours_paper": Case("ours, dropout as in the paper, all layers", Protocol(**_FAST, dropout_generator="fast")),
    "ours_fused": Case(
        "the same without a compiler", Protocol(**{**_FAST, "layers": "fused"}, dropout_generator="fast")
    ),
    "ours_bfloat16": Case(
        "ours, dropout as in the paper, frozen products in bfloat16",
        Protocol(**_FAST, dropout_generator="fast", products="bfloat16"),
    ),
    "ours_best": Case(
        "ours, without dropout, all layers, prefix kept, frozen products in bfloat16", Protocol(**_NO_DROPOUT)
    ),
    "ours_top": Case(
        "ours, without dropout, layers 2 to 5 only, prefix kept, frozen products in bfloat16",
        Protocol(**_NO_DROPOUT),
        "layernorm@2-",
    ),
}


class Clock:
    """When a training ended each step, and how many seconds it computed its prefix before."""

    def __init__(self) -> None:
        self.keeping = 0.0
        self.steps: list[float] = []


def train(
    base: Base,
    task: Task,
    case: str | Case,
    train: Encoded,
    dev: Encoded,
    *,
    epochs: int,
    rate: float,
    seed: int,
    clock: Clock | None = None,
) -> Outcome:
    """One whole training.

    Args:
        base: The base model, which is left as it was.
        task: The task.
        case: A case, or its name in `CASES`.
        train: What it learns from.
        dev: What is scored after each epoch.
        epochs: Passes over `train`.
        rate: Learning rate.
        seed: Of head, order and dropout.
        clock: Told what took how long.

    Returns:
        What came out.
    """
    way = CASES[case] if isinstance(case, str) else case
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
        clock = clock or Clock()
        if prefix is not None:
            started = now()
            prefix.states(train)
            clock.keeping = now() - started
        passes = Passes(base, Goal(task, train, dev), protocol, accelerator, prefix=prefix)
        loop = Loop(tuning, passes, rate=rate, seed=seed, watch=lambda _: clock.steps.append(now()))
        return loop.run()


def evaluation(base: Base, case: str, dev: Encoded) -> tuple[float, float]:
    """Seconds of a first evaluation in the way of a case, with the prefix if it keeps one, and of a later one."""
    started, states = now(), None
    if CASES[case].protocol.prefix:
        states = Prefix(base, Point.of(base, select(base.layout, CASES[case].selects))).states(dev)
    keeping = now() - started
    with fused(base.model, compiled=CASES[case].protocol.layers == "compiled"):
        started = now()
        logits(base, dev, states=states, tokens=EVAL_TOKENS)
        later = now() - started
    return keeping + later, later
