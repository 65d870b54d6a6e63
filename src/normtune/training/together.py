"""Several tasks that train together, such as for adapters that one network makes (HyperFormer++, Mahabadi et al. 2021).

Each step is on one task. The model has one head, with a part of its last layer for each task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from statistics import mean
from typing import final

import numpy as np

from normtune.config import fingerprint
from normtune.data.encode import Encoded, buckets
from normtune.deltas.delta import Delta
from normtune.errors import SelectionError
from normtune.methods.hyper_adapter import HyperAdapter
from normtune.methods.trainable import Trainable
from normtune.models.head import HeadSpec
from normtune.records.run import MEAN, Counts, EpochScore
from normtune.training.forward import Passes
from normtune.training.splits import Run

#: The temperature of the tasks' sampling (the authors' configuration).
TEMPERATURE = 10.0


def joined(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Join runs that differ only in their tasks into one training; each gets an identity of its own.

    They are sorted by their tasks' names, which is the network's order.

    Raises:
        SelectionError: If their method trains each task alone, or a task has no head.
    """
    runs = sorted(runs, key=lambda run: run.config.task)
    specs = [replace(run.spec, tasks=len(runs)) for run in runs if isinstance(run.spec, HyperAdapter)]
    if len(specs) < len(runs):
        raise SelectionError(f"{runs[0].config.method} trains each task alone.")
    if headless := [run.config.task for run in runs if run.data.task.asks.problem is None]:
        raise SelectionError(f"The task {headless[0]!r} has no head to share with other tasks; train it alone.")
    method = f"{runs[0].config.method}:{','.join(run.config.task for run in runs)}"
    ids = [run.id for run in runs]
    alone = tuple(
        replace(
            run,
            config=run.config.model_copy(update={"method": method}),
            spec=spec,
            id=fingerprint({"run": run.id, "together": ids}),
        )
        for run, spec in zip(runs, specs, strict=True)
    )
    return tuple(replace(run, together=alone) for run in alone)


def head_of(runs: Sequence[Run]) -> HeadSpec:
    """The head for one run, or one head for several."""
    if len(runs) > 1:
        kinds = [run.data.task.kind for run in runs if run.data.task.asks.named]
        return HeadSpec.numbered(sum(run.data.task.outputs for run in runs), (*kinds, "classification")[0])
    return HeadSpec(runs[0].data.task.kind, runs[0].data.task.labels)


@final
class Together:
    """Passes over several tasks, with the interface that a `Loop` needs.

    Args:
        trainable: What all of them train; its spec is a `HyperAdapter`.
        first: Passes over the first task.
        runs: The runs.
        encoded: For each run the examples to learn from, and those to pick the best epoch on.
    """

    primary = MEAN

    def __init__(
        self, trainable: Trainable, first: Passes, runs: Sequence[Run], encoded: Sequence[tuple[Encoded, Encoded]]
    ) -> None:
        self._trainable, self.ways = trainable, first.ways
        self.protocol, self.accelerator = first.protocol, first.accelerator
        self.parts, end = list[Passes](), 0
        for run, (train, pick) in zip(runs, encoded, strict=True):
            start, end = end, end + run.data.task.outputs
            self.parts.append(first.on(run.data.task, train, pick, slice(start, end)))
        self._sizes = np.array([len(train) for train, _ in encoded])
        # Examples are numbered across all tasks.
        self._starts = np.cumsum(self._sizes) - self._sizes

    @property
    def steps(self) -> int:
        """Batches an epoch: as many as the examples of all tasks make."""
        return -(-int(self._sizes.sum()) // self.protocol.batch_size)

    def choose(self, number: int) -> Passes:
        """Switch the model to a task and return the passes over it."""
        spec = self._trainable.spec
        assert isinstance(spec, HyperAdapter)
        spec.choose(self._trainable.base, number)
        return self.parts[number]

    def batches(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each of one task, drawn with a probability proportional to n^(1/T).

        T is `TEMPERATURE`, and n the task's number of examples, which come in random order, all of them before any
        repeats. (The authors draw examples with replacement.)
        """
        weights = self._sizes ** (1 / TEMPERATURE)
        drawn = np.random.default_rng([seed, epoch, 0x7A5C]).choice(
            len(weights), size=self.steps, p=weights / weights.sum()
        )
        streams = [self._stream(number, seed, epoch) for number in range(len(weights))]
        return [self._starts[number] + next(streams[number]) for number in drawn]

    def _stream(self, number: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Endless batches of a task, different in each pass over its examples."""
        rules, lengths = self.protocol, self.parts[number].train.lengths
        for lap in count():
            yield from buckets(lengths, rules.batch_size, seed=seed, epoch=epoch + lap * rules.epochs)

    def backward(self, indices: np.ndarray) -> float:
        """Forward and backward over a batch of one task; its mean loss."""
        number = int(np.searchsorted(self._starts, indices[0], "right")) - 1
        return self.choose(number).backward(indices - self._starts[number])

    def evaluate(self) -> dict[str, float]:
        """The mean of the tasks' primary metrics, then ``TASK/METRIC`` of every task (see `of_task`)."""
        found = [self.choose(number).evaluate() for number in range(len(self.parts))]
        scores = {MEAN: mean(own[part.primary] for part, own in zip(self.parts, found, strict=True))}
        for part, own in zip(self.parts, found, strict=True):
            scores |= {f"{part.task.name}/{name}": value for name, value in own.items()}
        return scores

    def of_task(
        self, number: int, curve: Sequence[EpochScore], info: Mapping[str, object]
    ) -> tuple[Passes, tuple[EpochScore, ...], Delta, Counts]:
        """One task's part of a training with this curve, while the model has the values of its best epoch.

        Returns:
            Its passes; its curve, with the mean over all tasks; its delta, with `info` in its metadata and only its
            part of the head; and how many entries train for it.
        """
        trainable, part = self._trainable, self.choose(number)
        assert isinstance(trainable.spec, HyperAdapter)
        base, (spec, values) = trainable.base, trainable.spec.made(trainable.values(), number)
        shapes = {name: value.shape for name, value in base.meta_head(part.task.outputs).items()}
        head = {
            name: value if value.shape == shapes[name] else value[part.columns].clone()
            for name, value in trainable.head_values().items()
        }
        delta = Delta.of(base, spec, values, head, **{"kind": part.task.kind, "labels": part.task.labels, **info})
        every, size = spec.counts(base.layout), sum(value.numel() for value in head.values())
        counts = {"head": size, "trained": every.selected + size, "total": every.total - every.head + size}
        return part, tuple(self._point(part, own) for own in curve), delta, every.model_copy(update=counts)

    def _point(self, part: Passes, point: EpochScore) -> EpochScore:
        start = f"{part.task.name}/"
        own = {name.removeprefix(start): score for name, score in point.scores.items() if name.startswith(start)}
        return point.model_copy(update={"scores": {**own, MEAN: point.scores[MEAN]}})
