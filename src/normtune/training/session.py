"""A session: one base model, read once, on which any number of runs are trained one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from normtune.config import Memory, Protocol, RunConfig
from normtune.data.encode import Encoded, encode
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError
from normtune.fast.prefix import Kept
from normtune.importance.movement import changes
from normtune.machine import machine, peak_memory, reset_peak_memory
from normtune.methods.expression import specify
from normtune.methods.selection import Selection
from normtune.methods.trainable import Spec
from normtune.models.base import Base, load_base
from normtune.models.families import known_norms
from normtune.models.head import HeadSpec
from normtune.records.run import Record, identity
from normtune.training.forward import Goal, Passes
from normtune.training.loop import Judge, Loop, Outcome, Tick
from normtune.training.rates import Grid, grid, width_of
from normtune.training.splits import EncodedParts, Parts, facts_of, identities, parts_of
from normtune.training.tracking import logged
from normtune.versions import versions

#: Encoded splits that a session keeps.
_KEPT = 8


class Session:
    """One base model and the runs on it.

    Args:
        model: Hub id, folder or packaged name.
        revision: Commit, tag or branch on the hub.
        dtype: Of the frozen part.
        accelerator: Where it runs; by default the CPU or the first accelerator, in float32. Runs are logged by the
            trackers that it was made with.
        memory: What is kept for the backward pass; it changes no number, so that it is not part of a run's identity.
        plain: Whether runs are computed by plain torch rather than by the fastest ways that fit.

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
        plain: bool = False,
    ) -> None:
        self.base: Base = load_base(model, revision=revision, dtype=dtype)
        self.dtype = dtype
        self.accelerator = accelerator or Accelerator()
        self._memory: Memory = memory
        self._plain = plain
        self.base.model.to(self.accelerator.device)
        self._encoded: dict[tuple[str, int], Encoded] = {}
        self._kept = Kept()

    def spec(self, method: str, seed: int = 0) -> Spec:
        """What `method` trains of this base; `seed` is for methods that draw."""
        return specify(self.base.layout, method, seed=seed)

    def grid(self, method: str, selection: Selection | None = None) -> Grid:
        """The rates to try on this base for `method`, or for a `selection` of one's own, whatever it is called."""
        if selection is not None:
            return grid(None, selection, width_of(self.base.layout))
        return grid(method, self.spec(method), width_of(self.base.layout))

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
        return self._identity(config, data.task, parts_of(data, config.protocol), self._spec(config, selection))

    def _spec(self, config: RunConfig, selection: Selection | None) -> Spec:
        """What a run trains: what was given, or what its method says.

        Raises:
            ConfigError: If the configuration is of another selection than was given.
            SelectionError: If the selection is of another model.
        """
        if config.mask != (None if selection is None else _mask(selection)):
            raise ConfigError(f"The configuration of {config.method!r} was not made with the selection given here.")
        if selection is None:
            return self.spec(config.method, config.seed)
        if selection.layout.fingerprint != self.base.layout.fingerprint:
            raise SelectionError(f"The selection {config.method!r} is of another model than {self.base.name!r}.")
        return selection

    def _identity(self, config: RunConfig, task: Task, parts: Parts, spec: Spec) -> str:
        accelerator = self.accelerator
        unusual: dict[str, object] = {}
        if accelerator.mixed_precision != "no":
            unusual["precision"] = str(accelerator.mixed_precision)
        if accelerator.num_processes > 1:
            unusual["processes"] = accelerator.num_processes
        if self._plain:
            unusual["plain"] = True
        if (task.center, task.scale, task.weights) != (0.0, 1.0, None):
            unusual["loss"] = [task.center, task.scale, task.weights]
        return identity(
            config,
            base=self.base.identity,
            trains=spec.fingerprint,
            data=identities(parts),
            machine=machine(accelerator.device),
            **unusual,
        )

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
        work = self._work(config, data, selection)
        with ExitStack() as undo:
            undo.callback(self.base.refresh)
            undo.callback(self.base.put_head(HeadSpec(data.task.kind, data.task.labels), config.seed).undo)
            trainable = work.spec.put(self.base)
            undo.callback(self.accelerator.free_memory)
            undo.callback(trainable.undo)
            before = trainable.values()
            log = undo.enter_context(logged(self.accelerator, config, work.identity))
            passes = self._passes(work)
            loop = Loop(
                trainable,
                passes,
                rate=config.rate,
                seed=config.seed,
                run=work.identity,
                checkpoint=checkpoint,
                watch=log.watching(watch),
                judge=log.judging(judge),
            )
            outcome = loop.run()
            trainable.load(outcome.values, outcome.head)
            record, delta = self._finished(work, passes, outcome, before)
            log.best(record.scores, outcome.curve[outcome.best].epoch, outcome.steps)
        return record, delta

    def _work(self, config: RunConfig, data: TaskData, selection: Selection | None) -> _Work:
        parts, spec = parts_of(data, config.protocol), self._spec(config, selection)
        encoded = EncodedParts(
            train=self._encode(parts.train, config.protocol.max_length),
            pick=self._encode(parts.pick, config.protocol.max_length),
            dev={name: self._encode(split, config.protocol.max_length) for name, split in parts.dev.items()},
        )
        identity = self._identity(config, data.task, parts, spec)
        reset_peak_memory(self.accelerator.device)
        return _Work(config, data, parts, encoded, spec, identity)

    def _passes(self, work: _Work) -> Passes:
        goal = Goal(work.data.task, work.encoded.train, work.encoded.pick)
        return Passes(
            self.base,
            goal,
            work.config.protocol,
            self.accelerator,
            memory=self._memory,
            plain=self._plain,
            kept=self._kept,
        )

    def _finished(
        self, work: _Work, passes: Passes, outcome: Outcome, before: dict[str, Tensor]
    ) -> tuple[Record, Delta]:
        """Record and delta of a training, while the model has the values of its best epoch."""
        config, task = work.config, work.data.task
        scores = self._scores(work, outcome, passes)
        delta = self._delta(config, task, work.spec, outcome, work.identity)
        record = Record(
            id=work.identity,
            status="done",
            config=config,
            base_identity=self.base.identity,
            norms=known_norms(self.base.layout),
            trains=work.spec.fingerprint,
            counts=work.spec.counts(self.base.layout),
            outputs=task.outputs,
            data=facts_of(work.data, work.parts, work.encoded.truncated),
            primary=task.primary,
            score=scores["dev"][task.primary],
            scores=scores,
            best_epoch=outcome.curve[outcome.best].epoch,
            curve=outcome.curve,
            steps=outcome.steps,
            ways=passes.ways.names,
            seconds=round(outcome.seconds, 3),
            peak_memory=peak_memory(self.accelerator.device),
            delta_bytes=delta.body_bytes,
            changes=tuple(changes(work.spec.places, before, outcome.values)),
            machine=machine(self.accelerator.device),
            versions=versions(),
        )
        return record, delta

    def _scores(self, work: _Work, outcome: Outcome, passes: Passes) -> dict[str, dict[str, float]]:
        """Scores at the best epoch, by split, in float32; if the epoch was picked so, its scores are known."""
        encoded = work.encoded
        known = encoded.pick if work.config.protocol.products == "float32" else None
        best = outcome.curve[outcome.best].scores
        return {name: best if part is known else passes.score(part) for name, part in encoded.dev.items()}

    def _delta(self, config: RunConfig, task: Task, spec: Spec, outcome: Outcome, identity: str) -> Delta:
        return Delta.of(
            self.base,
            spec,
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
class _Work:
    """One run that is to be trained."""

    config: RunConfig
    data: TaskData
    parts: Parts
    encoded: EncodedParts
    spec: Spec
    identity: str


def _mask(selection: Selection) -> str:
    return selection.fingerprint[:16]
