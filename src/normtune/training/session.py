"""A session: one base model, read once, on which any number of runs are trained one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from normtune.config import Protocol, RunConfig, fingerprint
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError
from normtune.evaluation import score
from normtune.execution.batching import Encoded, encode
from normtune.execution.memory import Memory
from normtune.execution.prefix import Point, Prefix
from normtune.execution.sparse import Tuning, trained_counts
from normtune.importance.change import changes
from normtune.machine import machine, peak_memory, reset_peak_memory
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
from normtune.selection.expression import select
from normtune.selection.selection import Selection
from normtune.tasks.task import Split, Task, TaskData
from normtune.training.loop import Goal, Judge, Loop, Outcome, Tick
from normtune.training.rates import Grid, grid, width_of
from normtune.training.record import Counts, DataFacts, Record
from normtune.training.tracking import logged
from normtune.versions import versions

# A change of what the numbers mean, with the same configuration, is a new schema: old records are then not reused.
_SCHEMA = 1

#: Encoded splits that a session keeps.
_KEPT = 8


@dataclass(frozen=True)
class Parts:
    """The examples of one run: what it learns from, what picks the epoch, and what is scored at the end."""

    train: Split
    pick: Split
    dev: dict[str, Split]


def parts_of(data: TaskData, protocol: Protocol) -> Parts:
    """Cut `data` as `protocol` says.

    Under ``held_out`` the training split's seeded slice picks the epoch, and dev is only scored at the end. Samples and
    slice depend on the protocol's ``sample_seed``, not on the run's seed.

    Raises:
        DataError: If a split is missing, empty or unlabelled.
    """
    train, dev = data.labelled("train"), data.labelled("dev")
    scored = {"dev": dev.sample(protocol.max_dev, protocol.sample_seed)}
    if "dev_mismatched" in data.splits:
        scored["dev_mismatched"] = data.labelled("dev_mismatched").sample(protocol.max_dev, protocol.sample_seed)
    if not protocol.held_out:
        return Parts(train.sample(protocol.max_train, protocol.sample_seed), scored["dev"], scored)
    order = np.random.default_rng([protocol.sample_seed, 0x4E1D]).permutation(len(train))
    cut = max(1, round(protocol.held_out * len(train)))
    rest = train.take(np.sort(order[cut:]))
    return Parts(rest.sample(protocol.max_train, protocol.sample_seed), train.take(np.sort(order[:cut])), scored)


class Session:
    """One base model and the runs on it.

    Args:
        model: Hub id, folder or packaged name.
        revision: Commit, tag or branch on the hub.
        dtype: Of the frozen part.
        accelerator: Where it runs; by default the CPU or the first accelerator, in float32. Runs are logged by the
            trackers that it was made with.
        memory: What is kept for the backward pass; it changes no number, so that it is not part of a run's identity.

    Raises:
        ModelError: If the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        accelerator: Accelerator | None = None,
        memory: Memory = "plain",
    ) -> None:
        self.base: Base = load_base(model, revision=revision, dtype=dtype)
        self.dtype = dtype
        self.accelerator = accelerator or Accelerator()
        self._memory: Memory = memory
        self.base.model.to(self.accelerator.device)
        self._encoded: dict[tuple[str, int], Encoded] = {}
        self._prefix: Prefix | None = None

    def selection(self, method: str, seed: int = 0) -> Selection:
        """What `method` selects on this base; `seed` is for `random`."""
        return select(self.base.layout, method, seed=seed)

    def grid(self, method: str, selection: Selection | None = None) -> Grid:
        """The rates to try on this base for `method`, or for a `selection` of one's own, whatever it is called."""
        if selection is not None:
            return grid(None, selection, width_of(self.base.layout))
        return grid(method, self.selection(method), width_of(self.base.layout))

    def config(
        self, task: str, method: str, rate: float, seed: int, protocol: Protocol, selection: Selection | None = None
    ) -> RunConfig:
        """The configuration of a run on this base.

        Args:
            task: The task's name.
            method: A method's name or an expression; with `selection` whatever that is to be called.
            rate: Peak learning rate.
            seed: The run's seed.
            protocol: How it is trained.
            selection: What trains, such as a mask's entries, where `method` does not say it.

        Returns:
            The configuration, which names the selection by its fingerprint.
        """
        return RunConfig(
            model=self.base.name,
            revision=self.base.revision,
            dtype=self.dtype,
            task=task,
            method=method,
            rate=rate,
            seed=seed,
            protocol=protocol,
            mask=None if selection is None else _mask(selection),
        )

    def identify(self, config: RunConfig, data: TaskData, selection: Selection | None = None) -> str:
        """The run's identity: a fingerprint of all that changes a number."""
        return self._identity(config, data.task, parts_of(data, config.protocol), self._selected(config, selection))

    def _selected(self, config: RunConfig, selection: Selection | None) -> Selection:
        """What a run trains: what was given, or what its method says.

        Raises:
            ConfigError: If the configuration is of another selection than was given.
            SelectionError: If the selection is of another model.
        """
        if config.mask != (None if selection is None else _mask(selection)):
            raise ConfigError(f"The configuration of {config.method!r} was not made with the selection given here.")
        if selection is None:
            return self.selection(config.method, config.seed)
        if selection.layout.fingerprint != self.base.layout.fingerprint:
            raise SelectionError(f"The selection {config.method!r} is of another model than {self.base.name!r}.")
        return selection

    def _identity(self, config: RunConfig, task: Task, parts: Parts, selection: Selection) -> str:
        here = machine(self.accelerator.device)
        return fingerprint({
            "schema": _SCHEMA,
            # Without defaults, so that a field added later leaves the identity of earlier runs alone.
            "config": config.model_dump(mode="json", exclude_defaults=True),
            "base": self.base.identity,
            "selection": selection.fingerprint,
            "data": _identities(parts),
            "device": here["device"],
            "threads": here["threads"],
            "linear": here["linear"],
            "precision": str(self.accelerator.mixed_precision),
            "processes": self.accelerator.num_processes,
            **({} if _has_plain_loss(task) else {"loss": [task.center, task.scale, task.weights]}),
        })

    def run(
        self,
        config: RunConfig,
        data: TaskData,
        *,
        selection: Selection | None = None,
        checkpoint: Path | None = None,
        watch: Callable[[Tick], None] | None = None,
        judge: Judge | None = None,
    ) -> tuple[Record, Delta]:
        """Train one run and score it.

        Args:
            config: What to train.
            data: The task and its data.
            selection: What trains, where it does not follow from the method: the one that `config` was made with.
            checkpoint: A file to keep the state in; an unfinished run found there is continued.
            watch: Told after each step.
            judge: Told after each epoch; where it answers no, the training ends.

        Returns:
            The record, and the delta at the best epoch. The base model is left as it was.

        Raises:
            TrainingError: If loss or gradient stop being finite.
            PrunedError: If it was judged to be lost.
        """
        parts = parts_of(data, config.protocol)
        selection = self._selected(config, selection)
        identity = self._identity(config, data.task, parts, selection)
        encoded = _Encoded(
            train=self._encode(parts.train, config.protocol.max_length),
            pick=self._encode(parts.pick, config.protocol.max_length),
            dev={name: self._encode(split, config.protocol.max_length) for name, split in parts.dev.items()},
        )
        reset_peak_memory(self.accelerator.device)
        with ExitStack() as undo:
            undo.callback(self.base.refresh)
            undo.callback(self.base.put_head(HeadSpec(data.task.kind, data.task.labels), config.seed).undo)
            tuning = Tuning(self.base, selection)
            undo.callback(self.accelerator.free_memory)
            undo.callback(tuning.undo)
            before = tuning.values()
            log = undo.enter_context(logged(self.accelerator, config, identity))
            goal = Goal(data.task, encoded.train, encoded.pick)
            loop = Loop(
                tuning,
                goal,
                config.protocol,
                rate=config.rate,
                seed=config.seed,
                accelerator=self.accelerator,
                run=identity,
                checkpoint=checkpoint,
                memory=self._memory,
                watch=log.watching(watch),
                judge=log.judging(judge),
                prefix=self._prefix_of(selection) if config.protocol.prefix else None,
            )
            outcome = loop.run()
            tuning.load(outcome.values, outcome.head)
            # Under a name that says so, what was not scored yet goes the way of the training too.
            fused = config.protocol.layers == "fused"
            scores = self._scores(encoded, outcome, data.task, loop.score if fused else None)
            log.best(scores, outcome.curve[outcome.best].epoch, outcome.steps)
            delta = self._delta(config, data.task, selection, outcome, identity)
            counts = Counts.model_validate(trained_counts(self.base.layout, selection))
        record = Record(
            id=identity,
            status="done",
            config=config,
            base_identity=self.base.identity,
            selection=selection.fingerprint,
            counts=counts,
            outputs=data.task.outputs,
            data=facts_of(data, parts, encoded.truncated),
            primary=data.task.primary,
            score=scores["dev"][data.task.primary],
            scores=scores,
            best_epoch=outcome.curve[outcome.best].epoch,
            curve=outcome.curve,
            steps=outcome.steps,
            seconds=round(outcome.seconds, 3),
            peak_memory=peak_memory(self.accelerator.device),
            delta_bytes=delta.body_bytes,
            changes=tuple(changes(selection, before, outcome.values)),
            machine=machine(self.accelerator.device),
            versions=versions(),
        )
        return record, delta

    def _prefix_of(self, selection: Selection) -> Prefix:
        """The frozen prefix below `selection`, kept for the runs that follow: rates, seeds and masks share it."""
        point = Point.of(self.base, selection)
        if self._prefix is None or self._prefix.point != point:
            self._prefix = Prefix(self.base, point)
        return self._prefix

    def _scores(
        self,
        encoded: _Encoded,
        outcome: Outcome,
        task: Task,
        by: Callable[[Encoded], dict[str, float]] | None,
    ) -> dict[str, dict[str, float]]:
        """Scores at the best epoch, by split; what picked the epoch was scored there already."""
        known, by = outcome.curve[outcome.best].scores, by or (lambda part: score(self.base, part, task))
        return {name: known if part is encoded.pick else by(part) for name, part in encoded.dev.items()}

    def _delta(self, config: RunConfig, task: Task, selection: Selection, outcome: Outcome, identity: str) -> Delta:
        return Delta.of(
            self.base,
            selection,
            outcome.values,
            outcome.head,
            method=config.method,
            task=task.name,
            max_length=config.protocol.max_length,
            pair=task.pair,
            center=task.center,
            scale=task.scale,
            columns=task.columns,
            note=f"run {identity}, protocol {config.protocol.name}, rate {config.rate:g}, seed {config.seed}",
        )

    def _encode(self, split: Split, max_length: int) -> Encoded:
        """The split as token numbers, kept for the runs that follow on the same data."""
        key = (split.identity(), max_length)
        if key not in self._encoded:
            if len(self._encoded) >= _KEPT:
                self._encoded.clear()
            self._encoded[key] = encode(split, self.base.need_tokenizer(), max_length)
        return self._encoded[key]


@dataclass(frozen=True)
class _Encoded:
    """The parts of a run as token numbers."""

    train: Encoded
    pick: Encoded
    dev: dict[str, Encoded]

    @property
    def truncated(self) -> dict[str, int]:
        """Texts that were cut, by split."""
        return {"train": self.train.truncated, **{name: part.truncated for name, part in self.dev.items()}}


def _mask(selection: Selection) -> str:
    return selection.fingerprint[:16]


def _has_plain_loss(task: Task) -> bool:
    return (task.center, task.scale, task.weights) == (0.0, 1.0, None)


def _identities(parts: Parts) -> dict[str, str]:
    splits = {"train": parts.train, "pick": parts.pick, **parts.dev}
    return {name: split.identity()[:16] for name, split in splits.items()}


def facts_of(data: TaskData, parts: Parts, truncated: Mapping[str, int]) -> DataFacts:
    """What a run of `parts` of `data` was trained and scored on, of which so many texts were cut, by split."""
    return DataFacts(
        source=Path(data.source).name,
        train=len(parts.train),
        train_of=len(data.splits["train"]),
        dev=len(parts.dev["dev"]),
        dev_of=len(data.splits["dev"]),
        held_out=0 if parts.pick is parts.dev["dev"] else len(parts.pick),
        identity=_identities(parts),
        truncated=dict(truncated),
        dropped=dict(data.dropped),
    )
