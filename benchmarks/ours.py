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
from normtune.evaluation import EVAL_TOKENS, logits
from normtune.fast.fused import fused
from normtune.fast.lowered import pays_off
from normtune.fast.point import Point
from normtune.fast.prefix import Prefix, States
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.methods.sparse import Tuning
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.training.forward import Goal, Passes
from normtune.training.loop import Loop, Outcome


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

#: What frozen products are fastest in here.
_PRODUCTS: Products = "bfloat16" if pays_off() else "float32"
#: Frozen layers go the fast way in all of them; scores do not tell one way to compute a layer from another.
_FAST: dict[str, Any] = {**SCHEDULE, "layers": "compiled"}
_DROPOUT: dict[str, Any] = {**_FAST, "dropout_generator": "fast"}
_LOWERED: dict[str, Any] = {"products": _PRODUCTS, "inference_products": _PRODUCTS}
_NO_DROPOUT: dict[str, Any] = {**_FAST, "dropout": False, "prefix": True, **_LOWERED}
_WITHOUT = "ours, without dropout, prefix kept, " + (
    "frozen products and inference in bfloat16, " if pays_off() else ""
)

CASES = {
    "ours_paper": Case("ours, dropout as in the paper, all layers", Protocol(**_DROPOUT)),
    "ours_fused": Case("the same without a compiler", Protocol(**{**_DROPOUT, "layers": "fused"})),
    "ours_prefix": Case(f"{_WITHOUT}all layers", Protocol(**_NO_DROPOUT)),
    "ours_upper": Case(f"{_WITHOUT}layers 1 to 5", Protocol(**_NO_DROPOUT), "layernorm@1-"),
    "ours_best": Case(
        f"{_WITHOUT}both norms from the output of layer 1 up",
        Protocol(**_NO_DROPOUT),
        "layernorm@1- + attention.output.LayerNorm@2-",
    ),
}
if pays_off():
    CASES["ours_bfloat16"] = Case(
        "ours, dropout as in the paper, frozen products in bfloat16", Protocol(**_DROPOUT, products="bfloat16")
    )


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        outcome: Its curve and its best epoch's values.
        scores: Of its best epoch, in float32, as a record has them.
    """

    outcome: Outcome
    scores: dict[str, float]


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
        prefix = _prefix(base, selection, protocol) if protocol.prefix else None
        undo.callback(tuning.undo)
        accelerator = Accelerator()
        undo.callback(accelerator.free_memory)
        clock = clock or Clock()
        if prefix is not None:
            clock.keeping = computing(prefix, train)
        passes = Passes(base, Goal(task, train, dev), protocol, accelerator, prefix=prefix)
        loop = Loop(tuning, passes, rate=rate, seed=seed, watch=lambda _: clock.steps.append(now()))
        outcome = loop.run()
        if protocol.inference_products == "float32":
            return Trained(outcome, outcome.curve[outcome.best].scores)
        tuning.load(outcome.values, outcome.head)
        return Trained(outcome, passes.score(dev))


def _prefix(base: Base, selection: Selection, protocol: Protocol) -> Prefix:
    return Prefix(base, Point.of(base, selection), layers=protocol.layers, products=protocol.inference_products)


def computing(prefix: Prefix, encoded: Encoded) -> float:
    """Seconds that the prefix of these examples takes, but for looking whether it is kept: no matter of how many."""
    started = now()
    prefix.states(encoded)
    computed = now()
    prefix.states(encoded)
    return (computed - started) - (now() - computed)


def evaluation(base: Base, case: str, dev: Encoded) -> tuple[float, float, float]:
    """Seconds of an evaluation in the way of a case: a first one, a later one, and the last one.

    The first has the prefix to compute, if one is kept. The last is that of the best epoch in float32, which takes no
    time where it was scored so before.
    """
    protocol, states, keeping = CASES[case].protocol, None, 0.0
    if protocol.prefix:
        prefix = _prefix(base, select(base.layout, CASES[case].selects), protocol)
        keeping, states = computing(prefix, dev), prefix.states(dev)
    first, later = _evaluated(base, protocol, dev, states)
    last = 0.0
    if protocol.inference_products != "float32":
        exact = protocol.model_copy(update={"inference_products": "float32"})
        _, last = _evaluated(base, exact, dev, None)
    return keeping + first, later, last


def _evaluated(base: Base, protocol: Protocol, dev: Encoded, states: States | None) -> tuple[float, float]:
    """Seconds of a first evaluation and of one after it."""
    compiled, inference = protocol.layers == "compiled", protocol.inference_products
    seconds = []
    # A training stays in this context from its first step to its last.
    with fused(base.model, protocol.products, inference=inference, compiled=compiled):
        for _ in range(2):
            started = now()
            logits(base, dev, states=states, tokens=EVAL_TOKENS, products=inference)
            seconds.append(now() - started)
    return seconds[0], seconds[1]
