"""The training loop: AdamW, warm-up and linear decay, clipping, an evaluation an epoch, the best epoch kept.

It never sees a method's name, only what a `Tuning` trains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from normtune.config import Protocol
from normtune.errors import ConfigError, NormtuneError, TrainingError
from normtune.evaluation import EVAL_TOKENS, logits, loss_of, score_outputs
from normtune.execution.batching import Encoded, buckets
from normtune.execution.dropping import dropout_of
from normtune.execution.fused import fused
from normtune.execution.linear import fast_linear
from normtune.execution.memory import Memory, memory_of
from normtune.execution.prefix import Prefix, States
from normtune.execution.sparse import Tuning
from normtune.tasks.task import Task
from normtune.training.checkpoint import (
    Checkpoint,
    EpochScore,
    Progress,
    pack,
    random_states,
    set_random_states,
    unpack,
)

#: Seconds between two checkpoints inside an epoch.
SAVE_EVERY = 30.0


@dataclass(frozen=True)
class Goal:
    """What a training is for.

    Attributes:
        task: The task, for its loss and metrics.
        train: The examples to learn from.
        pick: The examples on which the best epoch is picked.
    """

    task: Task
    train: Encoded
    pick: Encoded


@dataclass(frozen=True)
class Tick:
    """What a watcher is told after each step.

    Attributes:
        step: Steps done, of `steps`.
        steps: Steps in all.
        epoch: Number of the present epoch, from 1.
        loss: Loss of the last batch.
        score: Primary metric of the best epoch so far, or None before the first.
        rate: Learning rate of the step.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    score: float | None
    rate: float = 0.0


class PrunedError(NormtuneError):
    """A training that was ended after an epoch since it was judged to be lost.

    Args:
        curve: Its epochs.
        steps: Steps done.
        seconds: Time spent.
    """

    def __init__(self, curve: tuple[EpochScore, ...], steps: int, seconds: float) -> None:
        super().__init__(f"The training was ended after {len(curve)} epochs, since it was judged to be lost.")
        self.curve, self.steps, self.seconds = curve, steps, seconds


#: Told the epochs so far and the steps done; answers whether the training goes on.
Judge = Callable[[tuple[EpochScore, ...], int], bool]


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes:
        values: Selected values at the best epoch, packed, by parameter name.
        head: The head's values at the best epoch.
        curve: Every epoch's loss and scores.
        best: Position in `curve` of the best epoch; the first of equals.
        steps: Steps done.
        seconds: Time spent, evaluation included, over all sessions of the run.
    """

    values: dict[str, Tensor]
    head: dict[str, Tensor]
    curve: tuple[EpochScore, ...]
    best: int
    steps: int
    seconds: float


class Loop:
    """One training, from its start or from its checkpoint to its end.

    Args:
        tuning: What trains.
        goal: Task and data.
        protocol: How it is trained.
        rate: Peak learning rate.
        seed: Seeds the order of the data and dropout.
        accelerator: Where it runs.
        run: Identity of the run; a checkpoint of another run is not continued.
        checkpoint: File that the state is kept in, or None to keep none.
        watch: Told after each step.
        judge: Told after each epoch, and when a training is continued; where it answers no, the training ends.
        prefix: The frozen prefix of what trains, where the protocol keeps it.
        memory: What is kept for the backward pass; it changes no number.

    Raises:
        ConfigError: If a prefix is to be kept with dropout on, products are to be lowered that are not float32, or
            layers fused that keep less memory or mix precisions.
    """

    def __init__(
        self,
        tuning: Tuning,
        goal: Goal,
        protocol: Protocol,
        *,
        rate: float,
        seed: int,
        accelerator: Accelerator,
        run: str = "",
        checkpoint: Path | None = None,
        watch: Callable[[Tick], None] | None = None,
        judge: Judge | None = None,
        prefix: Prefix | None = None,
        memory: Memory = "plain",
    ) -> None:
        self._memory: Memory = memory
        if prefix is not None and protocol.dropout:
            raise ConfigError("A prefix is computed once only with dropout off.")
        plain = tuning.base.model.dtype == torch.float32 and accelerator.mixed_precision == "no"
        if protocol.products != "float32" and not plain:
            raise ConfigError("--products lowers those of a float32 model; leave out --dtype and --precision, or it.")
        if protocol.layers == "fused" and (memory != "plain" or accelerator.mixed_precision != "no"):
            raise ConfigError("Fused layers keep what they need in one precision; leave out --memory and --precision.")
        self._prefix = prefix
        self._states = None if prefix is None else prefix.states_of(goal.train, goal.pick)
        self._tuning, self._goal, self._protocol, self._seed = tuning, goal, protocol, seed
        self._accelerator, self._file, self._watch = accelerator, checkpoint, watch
        self._judge = judge
        self._batches = math.ceil(len(goal.train) / protocol.batch_size)
        self.steps = self._batches * protocol.epochs
        optimizer = torch.optim.AdamW(tuning.param_groups(protocol.weight_decay), lr=rate, fused=True)
        warmup = round(self.steps * protocol.warmup_fraction)
        self._schedule = get_linear_schedule_with_warmup(optimizer, warmup, self.steps)
        self._trained = list(tuning.parameters())
        self._model, self._optimizer = accelerator.prepare(tuning.base.model, optimizer)
        self._loss = loss_of(goal.task)
        self._progress = Progress(run=run)
        self._best: dict[str, Tensor] = {}
        self._started = self._saved = time.monotonic()

    def run(self) -> Outcome:
        """Train to the end.

        Returns:
            The best epoch's values, and the curve.

        Raises:
            TrainingError: If loss or gradient stop being finite.
            PrunedError: If it was judged to be lost.
        """
        was_training = self._tuning.base.model.training
        with torch.random.fork_rng(), self._ways():
            # Each process drops out on its own; the first draws as a single process would.
            torch.manual_seed(self._seed + 1_000_003 * self._accelerator.process_index)
            self._resume()
            self._ask()
            while self._progress.epoch < self._protocol.epochs:
                self._epoch()
                self._ask()
        self._tuning.base.model.train(was_training)
        progress = self._progress
        assert progress.best is not None
        return Outcome(
            values=unpack("values", self._best),
            head=unpack("head", self._best),
            curve=progress.curve,
            best=progress.best,
            steps=self.steps,
            seconds=progress.seconds,
        )

    @contextmanager
    def _ways(self) -> Iterator[None]:
        """Within this context the model is computed as the protocol says."""
        model = self._tuning.base.model
        with ExitStack() as stack:
            stack.enter_context(dropout_of(self._protocol.dropout_generator))
            stack.enter_context(fast_linear(self._protocol.products))
            if self._protocol.layers == "fused":
                stack.enter_context(fused(model, self._protocol.products))
            stack.enter_context(memory_of(model, self._memory))
            yield

    def _epoch(self) -> None:
        progress = self._progress
        self._tuning.base.model.train(self._protocol.dropout)
        order = buckets(self._goal.train.lengths, self._protocol.batch_size, seed=self._seed, epoch=progress.epoch)
        for indices in order[progress.batch :]:
            loss = self._step(indices)
            progress = self._progress
            self._advance(
                batch=progress.batch + 1,
                loss_sum=progress.loss_sum + loss * len(indices),
                seen=progress.seen + len(indices),
            )
            if time.monotonic() - self._saved > SAVE_EVERY:
                self._save()
        self._finish_epoch()

    def _step(self, indices: np.ndarray) -> float:
        accelerator, goal = self._accelerator, self._goal
        assert goal.train.labels is not None
        mine = indices[accelerator.process_index :: accelerator.num_processes]
        # Each process takes its share of the batch; the factor makes their mean the batch's mean. A process that
        # gets none of a short last batch still takes part, with a weight of zero.
        factor = len(mine) * accelerator.num_processes / len(indices)
        mine = mine if len(mine) else indices[:1]
        labels = goal.train.labels[mine].to(accelerator.device)
        with accelerator.autocast():
            if self._states is not None:
                outputs = self._states[0].logits(self._model, mine, accelerator.device)
            else:
                outputs = self._model(**goal.train.batch(mine, accelerator.device)).logits
        loss = self._loss(outputs.float(), labels)
        share = loss * factor
        accelerator.backward(share)
        norm = accelerator.clip_grad_norm_(self._trained, self._protocol.clip)
        value = float(accelerator.reduce(share.detach(), "mean"))
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            what = "gradient" if math.isfinite(value) else "loss"
            raise TrainingError(self._not_finite(what, self._step_number() + 1))
        rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self._tell(value, rate)
        return value

    def _finish_epoch(self) -> None:
        progress = self._progress
        self._advance()  # the time of the last batches
        scores = self._evaluate()
        primary = scores[self._goal.task.primary]
        self._advance()
        point = EpochScore(
            epoch=progress.epoch + 1,
            loss=progress.loss_sum / progress.seen,
            scores=scores,
            seconds=round(self._progress.seconds, 3),
        )
        best = progress.best
        if best is None or primary > progress.curve[best].scores[self._goal.task.primary]:
            best = progress.epoch
            self._best = self._present()
        self._advance(
            epoch=progress.epoch + 1, batch=0, loss_sum=0.0, seen=0, curve=(*progress.curve, point), best=best
        )
        self._save()

    def _evaluate(self) -> dict[str, float]:
        pick = self._goal.pick
        assert pick.labels is not None
        outputs = self._outputs(pick, self._states[1] if self._states else None)
        if not np.isfinite(outputs).all():
            raise TrainingError(self._not_finite("model's output", self._step_number()))
        return score_outputs(outputs, pick.labels.numpy(), self._goal.task)

    def _outputs(self, encoded: Encoded, states: States | None) -> np.ndarray:
        tokens = EVAL_TOKENS if self._protocol.layers == "fused" else None
        return logits(self._tuning.base, encoded, states=states, tokens=tokens)

    def score(self, encoded: Encoded) -> dict[str, float]:
        """All metrics on `encoded` of the model as it is now, computed in the way that the protocol names."""
        assert encoded.labels is not None
        states = None if self._prefix is None else self._prefix.states(encoded)
        with self._ways():
            outputs = self._outputs(encoded, states)
        return score_outputs(outputs, encoded.labels.numpy(), self._goal.task)

    def _not_finite(self, what: str, step: int) -> str:
        return f"The {what} stopped being finite at step {step} of {self.steps}; try a smaller learning rate."

    def _present(self) -> dict[str, Tensor]:
        return {**pack("values", self._tuning.values()), **pack("head", self._tuning.head_values())}

    def _step_number(self) -> int:
        return self._progress.epoch * self._batches + self._progress.batch

    def _ask(self) -> None:
        """Go on only if the judge agrees, who is told the finished epochs.

        Raises:
            PrunedError: If the training is lost.
        """
        progress, steps = self._progress, self._progress.epoch * self._batches
        if self._judge is not None and progress.curve and not self._judge(progress.curve, steps):
            raise PrunedError(progress.curve, steps, progress.seconds)

    def _tell(self, loss: float, rate: float) -> None:
        if self._watch is not None:
            progress = self._progress
            best = None if progress.best is None else progress.curve[progress.best].scores[self._goal.task.primary]
            self._watch(Tick(self._step_number() + 1, self.steps, progress.epoch + 1, loss, best, rate))

    def _advance(self, **changes: object) -> None:
        now = time.monotonic()
        seconds = self._progress.seconds + now - self._started
        self._started = now
        self._progress = self._progress.model_copy(update={"seconds": seconds, **changes})

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._file is None or not self._accelerator.is_main_process:
            return
        tensors = {f"now/{name}": value for name, value in self._present().items()}
        tensors.update({f"best/{name}": value for name, value in self._best.items()})
        tensors.update(pack("random", random_states()))
        for number, parameter in enumerate(self._trained):
            tensors.update(pack(f"optimizer/{number}", dict(self._optimizer.state[parameter])))
        self._progress = self._progress.model_copy(update={"schedule": _plain(self._schedule.state_dict())})
        Checkpoint(self._progress, tensors).save(self._file)

    def _resume(self) -> None:
        stored = Checkpoint.load(self._file, self._progress.run) if self._file is not None else None
        if stored is None:
            return
        self._progress = stored.progress
        now = unpack("now", stored.tensors)
        self._tuning.load(unpack("values", now), unpack("head", now))
        self._best = unpack("best", stored.tensors)
        set_random_states(unpack("random", stored.tensors))
        for number, parameter in enumerate(self._trained):
            state = unpack(f"optimizer/{number}", stored.tensors)
            self._optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in state.items()}
        self._schedule.load_state_dict(dict(stored.progress.schedule))
        # The schedule restores its own count; the optimizer's rate is what it last set.
        for group, rate in zip(self._optimizer.param_groups, stored.progress.schedule["_last_lr"], strict=True):
            group["lr"] = rate


def _plain(state: dict[str, object]) -> dict[str, object]:
    """The schedule's state without what JSON cannot hold (its functions, which are made anew)."""
    return {
        name: value for name, value in state.items() if isinstance(value, (int, float, list, bool)) or value is None
    }
