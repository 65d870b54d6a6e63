"""A session: one base model, read once, on which any number of runs are trained one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import PreTrainedModel

from normtune.config import Memory, Protocol, RunConfig, fingerprint
from normtune.data.encode import Encoded
from normtune.data.kind import KindName
from normtune.data.kinds import KINDS
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError
from normtune.fast.prefix import StateCache
from normtune.importance.movement import changes
from normtune.importance.task_masks import TaskMasks
from normtune.machine import machine, peak_memory, reset_peak_memory
from normtune.methods.expression import specify
from normtune.methods.method import grid, width_of
from normtune.methods.selection import Selection
from normtune.methods.top import Top
from normtune.methods.trainable import Spec, Trainable
from normtune.models.base import Base, load_base
from normtune.models.families import norms_of
from normtune.models.head import HeadSpec
from normtune.records.run import MEAN, Record, identity
from normtune.training.forward import Passes
from normtune.training.loop import Judge, Loop, StepInfo
from normtune.training.splits import Run, facts_of, identities, parts_of
from normtune.training.state import Progress
from normtune.training.together import Together, head_of
from normtune.training.tracking import Log
from normtune.versions import versions

#: Encoded splits that a session keeps.
_KEPT = 8


class Session:
    """One base model and the runs on it.

    Args:
        model: Hub id, folder or packaged name.
        revision: Commit, tag or branch on the hub.
        dtype: Dtype of the frozen part.
        accelerator: Where it runs; by default the CPU or the first accelerator, in float32. Runs are logged by the
            trackers that it was made with.
        memory: What is kept for the backward pass; it changes no number, so it is not part of a run's identity.
        plain: Whether runs are computed by plain torch rather than by the fastest ways that fit.
        masks: Folder for the masks of methods that are measured on a task, so that each is measured once.
        kind: What the head answers: any kind of task that needs the same class of transformers.

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
        masks: Path | None = None,
        kind: KindName = "classification",
    ) -> None:
        self.base: Base = load_base(model, HeadSpec.numbered(2, kind), revision=revision, dtype=dtype)
        self.dtype = dtype
        self.accelerator = accelerator or Accelerator()
        self._memory: Memory = memory
        self._plain = plain
        self.base.model.to(self.accelerator.device)
        self._encoded: dict[tuple[str, int], Encoded] = {}
        self._kept, self._masks = StateCache(), TaskMasks(self.base, masks)

    def spec(self, method: str, seed: int = 0) -> Spec:
        """What `method` trains of this base; `seed` is for methods that draw at random."""
        return specify(self.base.layout, method, seed=seed)

    def grid(self, method: str, selection: Selection | None = None) -> tuple[float, ...]:
        """The rates to try for `method`, or for a given `selection` (see `normtune.methods.method.grid`)."""
        if selection is not None:
            return grid(None, selection, width_of(self.base.layout))
        return grid(method, self.spec(method), width_of(self.base.layout))

    def prepare(
        self,
        data: TaskData,
        method: str,
        rate: float,
        seed: int,
        protocol: Protocol,
        selection: Selection | None = None,
    ) -> Run:
        """Prepare a run: its configuration, its examples, what trains, and its identity.

        Args:
            data: The task and its data.
            method: A method's name or an expression.
            rate: Peak learning rate.
            seed: Seeds the head, the order of the data, dropout, and methods that draw.
            protocol: How it is trained.
            selection: What trains, such as a mask's entries; `method` is then its name.

        Returns:
            The run; its identity covers all that changes a number.

        Raises:
            SelectionError: If the selection is of another model.
            ConfigError: If the model has a head for another kind of task, running statistics cannot be updated, or a
                language model cannot be trained.
            ModelError: If the method leaves a text too few of the model's positions.
        """
        base = self.base
        if selection is not None and selection.layout.fingerprint != base.layout.fingerprint:
            raise SelectionError(f"The selection {method!r} is of another model than {base.name!r}.")
        if data.task.asks.models != KINDS[base.head.kind].models:
            raise ConfigError(f"The task {data.task.name!r} ({data.task.kind}) needs another head; train it apart.")
        config = RunConfig(
            model=base.name,
            revision=base.revision,
            dtype=self.dtype,
            task=data.task.name,
            method=method,
            rate=rate,
            seed=seed,
            protocol=protocol,
            mask=None if selection is None else selection.fingerprint[:16],
        )
        spec = self.spec(method, seed) if selection is None else selection
        if spec.positions:
            base.limit(protocol.max_length, spec.positions)
        if base.language:
            self._check_language(spec)
        if data.task.weights is not None and self.accelerator.num_processes > 1:
            raise ConfigError("Class weights are for one process: each would divide by the weights of its own share.")
        parts = parts_of(data, protocol)
        if protocol.statistics == "update":
            self._check_statistics(protocol, len(parts.train))
        own = identity(
            config,
            base=base.identity,
            trains=spec.fingerprint,
            data=identities(parts),
            machine=machine(self.accelerator.device),
            **self._unusual(data.task),
        )
        return Run(config, data, parts, spec, own)

    def _check_language(self, spec: Spec) -> None:
        """Check that a language model can be trained."""
        if not (self.base.language and self.base.language.causal):
            raise ConfigError(
                f"{self.base.name!r} is a masked language model: normtune ablate, evaluate and predict score texts with"
                " it, but only causal ones are trained."
            )
        if not isinstance(spec, Top) and not len(spec):
            raise ConfigError("A language model has no head of its own, so this method trains nothing of it.")

    def _check_statistics(self, protocol: Protocol, examples: int) -> None:
        """Check that running statistics can be updated."""
        if not any(place.batch for place in self.base.layout):
            raise ConfigError(f"statistics=update is for models with BatchNorm; {self.base.name!r} has none.")
        if self._memory == "low":
            raise ConfigError("--memory low computes layers twice, which would update statistics twice; leave it out.")
        if examples % protocol.batch_size == 1 or protocol.batch_size == 1:
            raise ConfigError(
                f"Batches of {protocol.batch_size} leave one of {examples:,} examples alone, of which BatchNorm cannot"
                " take statistics; change the protocol's batch_size or max_train."
            )

    def _unusual(self, task: Task) -> dict[str, object]:
        """The fields of a run's identity that an ordinary run does not have."""
        accelerator, unusual = self.accelerator, self.base.unpinned
        if accelerator.mixed_precision != "no":
            unusual["precision"] = str(accelerator.mixed_precision)
        if accelerator.num_processes > 1:
            unusual["processes"] = accelerator.num_processes
        if self._plain:
            unusual["plain"] = True
        if (task.center, task.scale, task.weights) != (0.0, 1.0, None):
            unusual["loss"] = [task.center, task.scale, task.weights]
        if task.columns:  # the user's own files: the delta answers with these names
            unusual["names"] = [task.labels, task.columns]
        return unusual

    def run(self, run: Run, **options: Any) -> tuple[Record, Delta]:
        """Train one run and score it; takes and raises what `train` does."""
        return self.train(run, **options)[0]

    def train(
        self,
        run: Run,
        *,
        checkpoint: Path | None = None,
        watch: Callable[[StepInfo], None] | None = None,
        judge: Judge | None = None,
    ) -> list[tuple[Record, Delta]]:
        """Train a run, and all that train together with it, and score them.

        Args:
            run: What `prepare` gave, or one of those that `joined` made of several.
            checkpoint: A file to keep the state in; an unfinished training found there is continued.
            watch: Called after each step.
            judge: Called after each epoch; where it returns False, the training ends.

        Returns:
            For each run its record, and its delta at the best epoch. The base model is left as it was.

        Raises:
            TrainingError: If loss or gradient stop being finite.
            PrunedError: If it was judged to be lost.
        """
        config, runs, state = run.config, run.together or (run,), run.training
        if isinstance(run.spec, Top):
            runs = ((run := self.measured(run)),)
            state = fingerprint({"run": run.id, "trains": run.spec.fingerprint})  # not continued with other entries
        encoded = [(self._encode(own, own.parts.train), self._encode(own, own.parts.pick)) for own in runs]
        for own in runs:  # so that errors of encoding come before training
            for split in own.parts.dev.values():
                self._encode(own, split)
        reset_peak_memory(self.accelerator.device)
        with ExitStack() as undo:
            undo.callback(self.base.put_head(head_of(runs), config.seed).undo)
            trainable = Trainable(self.base, run.spec)
            undo.callback(_unwrap, self.base.model, vars(self.base.model).get("forward"))
            undo.callback(self.accelerator.free_memory)
            undo.callback(trainable.undo)
            before = trainable.values()
            log = Log(self.accelerator, run, watch, judge)
            undo.enter_context(log.open())
            passes = Passes(
                self.base,
                runs[0].data.task,
                *encoded[0],
                config.protocol,
                self.accelerator,
                memory=self._memory,
                plain=self._plain,
                kept=self._kept,
            )
            loop = Loop(
                trainable,
                Together(trainable, passes, runs, encoded) if run.together else passes,
                rate=config.rate,
                seed=config.seed,
                run=state,
                checkpoint=checkpoint,
                watch=log.tick,
                judge=log.epoch,
            )
            end = loop.run()
            made = [self._finished(own, number, loop, end, before) for number, own in enumerate(runs)]
            log.best(next(record for record, _ in made if record.id == run.id))
        return made

    def record(self, run: Run, **facts: Any) -> Record:
        """The record of a run: what is known before it starts, and the `facts` of how it went."""
        base, task = self.base, run.data.task
        known: dict[str, Any] = {
            "id": run.id,
            "config": run.config,
            "base_identity": base.identity,
            "norms": norms_of(base.layout),
            "trains": run.spec.fingerprint,
            "counts": run.spec.counts(base.layout),
            "outputs": task.outputs,
            "data": facts_of(run.data, run.parts, facts.pop("truncated", {})),
            "primary": task.primary,
            "cost": run.spec.cost,
            "peak_memory": peak_memory(self.accelerator.device),
            "machine": machine(self.accelerator.device),
            "versions": versions(),
        }
        return Record(**{**known, **facts})

    def measured(self, run: Run, *, keep: bool = True) -> Run:
        """A run with its entries measured, if its method measures them on the task; any other run as it is.

        The measured mask is stored in the folder of masks, unless `keep` is off.
        """
        if not isinstance(run.spec, Top):
            return run
        # One process measures for all: two may not measure the same to the bit.
        found: list[Selection | Exception | None] = [None]
        if self.accelerator.is_main_process:
            try:
                found = [
                    self._masks.selection(
                        run.spec,
                        run.data,
                        run.parts.train,
                        run.config.protocol.max_length,
                        threads=int(machine(self.accelerator.device)["threads"]),
                        keep=keep,
                    )
                ]
            except Exception as error:
                found = [error]
        [made] = broadcast_object_list(found)
        if isinstance(made, Exception):
            raise made
        return replace(run, spec=made)

    def _finished(
        self, run: Run, number: int, loop: Loop, end: Progress, before: dict[str, Tensor]
    ) -> tuple[Record, Delta]:
        """Record and delta of run `number` of a training, while the model has the values of the best epoch."""
        config, task = run.config, run.data.task
        info = dict[str, object](
            method=config.method,
            task=task.name,
            suite=run.data.suite,
            max_length=self._limit(run),
            pair=task.pair,
            center=task.center,
            scale=task.scale,
            columns=task.columns,
            note=f"run {run.id}, protocol {config.protocol.name}, rate {config.rate:g}, seed {config.seed}",
        )
        if isinstance(loop.passes, Together):
            passes, curve, delta, counts = loop.passes.of_task(number, end.curve, info)
        else:
            passes, curve = loop.passes, end.curve
            delta, counts = Delta.capture(loop.trainable, **info), run.spec.counts(self.base.layout)
        dev = {name: self._encode(run, split) for name, split in run.parts.dev.items()}
        # Where the epoch was picked on these examples in float32, their scores are known.
        known = passes.pick if config.protocol.products == "float32" else None
        assert end.best is not None
        best = curve[end.best]
        picked = {name: value for name, value in best.scores.items() if name != MEAN}
        scores = {name: picked if part is known else passes.score(part) for name, part in dev.items()}
        record = self.record(
            run,
            status="done",
            truncated={name: part.truncated for name, part in {"train": passes.train, **dev}.items()},
            score=scores["dev"][task.primary],
            scores=scores,
            best_epoch=best.epoch,
            curve=curve,
            counts=counts,
            steps=loop.steps,
            ways=passes.ways.names,
            seconds=round(end.seconds, 3),
            delta_bytes=delta.body_bytes,
            changes=tuple(changes(run.spec.places, before, loop.trainable.values())),
        )
        return record, delta

    def _encode(self, run: Run, split: Split) -> Encoded:
        """A split as the model reads it, kept for the runs that follow on the same data."""
        key = (split.identity(), self._limit(run))
        if key not in self._encoded:
            if len(self._encoded) >= _KEPT:
                self._encoded.clear()
            self._encoded[key] = self.base.encode(split, key[1])
        return self._encoded[key]

    def _limit(self, run: Run) -> int:
        """The most tokens of a text."""
        return self.base.limit(run.config.protocol.max_length, run.spec.positions)


def _unwrap(model: PreTrainedModel, forward: Any) -> None:
    """Remove accelerate's mixed-precision wrapper from a model, and put back `forward`, if any."""
    for name in ("forward", "_original_forward"):
        vars(model).pop(name, None)
    if forward is not None:
        vars(model)["forward"] = forward
