"""Our ways to train LayerNorm, under names that say what they do."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from harness import now

from normtune.config import Products, Protocol
from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.evaluation import logits
from normtune.fast.linear import bfloat16_pays_off
from normtune.fast.prefix import HiddenStates, StateCache
from normtune.fast.ways import Ways, choose
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.records.run import EpochScore
from normtune.training.forward import Passes
from normtune.training.loop import Loop


@dataclass(frozen=True)
class Case:
    """One way of ours.

    Attributes:
        said: What it does, for the table.
        protocol: How it trains.
        plain: Whether it is plain torch.
        selects: What it trains beside the head.
    """

    said: str
    protocol: Protocol
    plain: bool = False
    selects: str = "layernorm"

    def ways(self, base: Base, kept: StateCache | None, products: Products | None = None) -> Ways:
        """The ways to compute `base` with its trainable in place; `products` overrides the protocol's."""
        products = products or self.protocol.products
        return choose(base, dropout=self.protocol.dropout, products=products, plain=self.plain, kept=kept)


#: The defaults of the peers' Trainer, neither warm-up nor weight decay, so that scores differ only by how a step is
#: computed.
SCHEDULE: dict[str, Any] = {"name": "benchmark", "warmup_fraction": 0.0, "weight_decay": 0.0}

CASES = {
    "default": Case("normtune train without any option", Protocol(**SCHEDULE)),
    "no_dropout": Case("dropout=false", Protocol(**SCHEDULE, dropout=False)),
    "plain": Case("--plain", Protocol(**SCHEDULE), plain=True),
    "bfloat16": Case("products=bfloat16", Protocol(**SCHEDULE, products="bfloat16")),
}
#: The cases that this machine can measure.
HERE = tuple(name for name in CASES if name != "bfloat16" or bfloat16_pays_off())


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        curve: Every epoch's loss and scores.
        scores: Of its best epoch, in float32, as a record has them.
    """

    curve: tuple[EpochScore, ...]
    scores: dict[str, float]


class Clock:
    """The time at which a training ended each step, and the seconds that computing its prefix took before."""

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
) -> Trained:
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
        clock: Receives the times.

    Returns:
        Its curve and scores.
    """
    way = CASES[case] if isinstance(case, str) else case
    protocol = way.protocol.model_copy(update={"epochs": epochs})
    with ExitStack() as undo:
        undo.callback(base.refresh)
        undo.callback(base.put_head(HeadSpec(task.kind, task.labels), seed).undo)
        tuning = Trainable(base, select(base.layout, way.selects))
        undo.callback(tuning.undo)
        accelerator, kept, clock = Accelerator(), StateCache(), clock or Clock()
        undo.callback(accelerator.free_memory)
        clock.keeping = computing(way.ways(base, kept), train)
        passes = Passes(base, task, train, dev, protocol, accelerator, plain=way.plain, kept=kept)
        loop = Loop(tuning, passes, rate=rate, seed=seed, watch=lambda _: clock.steps.append(now()))
        end = loop.run()
        if protocol.products == "float32":
            return Trained(end.curve, end.curve[end.best or 0].scores)
        return Trained(end.curve, passes.score(dev))


def computing(ways: Ways, encoded: Encoded) -> float:
    """Seconds to compute the prefix of these examples, less those of looking it up once it is kept."""
    started = now()
    ways.states(encoded)
    computed = now()
    ways.states(encoded)
    return (computed - started) - (now() - computed)


def evaluation(base: Base, case: str, dev: Encoded) -> tuple[float, float, float]:
    """Seconds of a case's evaluations: the first, a later one, and the last.

    The first computes the prefix, if one is kept. The last is that of the best epoch in float32, which takes no time
    where the others are float32 already.
    """
    way, last = CASES[case], 0.0
    tuning = Trainable(base, select(base.layout, way.selects))
    ways = way.ways(base, StateCache())
    keeping = computing(ways, dev)
    first, later = _evaluated(base, ways, dev, *ways.states(dev))
    if way.protocol.products != "float32":
        _, last = _evaluated(base, way.ways(base, None, "float32"), dev, None)
    tuning.undo()
    return keeping + first, later, last


def _evaluated(base: Base, ways: Ways, dev: Encoded, states: HiddenStates | None) -> tuple[float, float]:
    """Seconds of a first evaluation and of one after it."""
    seconds = []
    with ways.context():  # which a training enters once, for all its steps
        for _ in range(2):
            started = now()
            logits(base, dev, ways=ways, states=states)
            seconds.append(now() - started)
    return seconds[0], seconds[1]
