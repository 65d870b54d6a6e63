"""The training loop: AdamW, warm-up and linear decay, clipping, an evaluation an epoch, the best epoch kept.

It never sees a method's name, only what trains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from normtune.errors import AnswerError, NormtuneError, TrainingError
from normtune.methods.trainable import Trainable
from normtune.modes import kept_modes
from normtune.records.run import EpochScore
from normtune.training.forward import Passes, train_mode
from normtune.training.state import Progress, State
from normtune.training.together import Together

#: Seconds between two checkpoints inside an epoch.
SAVE_EVERY = 30.0


@dataclass(frozen=True)
class StepInfo:
    """What a watcher is called with after each step.

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
    """A training that was judged lost and ended, after the epochs of `curve`, in `steps` steps and `seconds`."""

    def __init__(self, curve: tuple[EpochScore, ...], steps: int, seconds: float) -> None:
        super().__init__(f"The training was ended after {len(curve)} epochs, since it was judged to be lost.")
        self.curve, self.steps, self.seconds = curve, steps, seconds


#: Called with the epochs so far and the steps done; returns whether the training goes on.
Judge = Callable[[tuple[EpochScore, ...], int], bool]


class Loop:
    """One training, from its start or from its checkpoint to its end.

    Args:
        trainable: What trains.
        passes: Passes over task and data, or over several, as the protocol says.
        rate: Peak learning rate.
        seed: Seeds the order of the data and dropout.
        run: Identity of the run; a checkpoint of another run is not continued.
        checkpoint: File that the state is kept in, or None to keep none.
        watch: Called after each step.
        judge: Called after each epoch, and when a training is continued; where it returns False, the training ends.
            Its answer is ignored for a method whose first epochs cannot be its best: curves do not say which these
            are.
    """

    def __init__(
        self,
        trainable: Trainable,
        passes: Passes | Together,
        *,
        rate: float,
        seed: int,
        run: str = "",
        checkpoint: Path | None = None,
        watch: Callable[[StepInfo], None] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.trainable, self.passes, self._seed, self._watch = trainable, passes, seed, watch
        self._protocol = passes.protocol
        self.steps = passes.steps * self._protocol.epochs
        trainable.hook.start(self.steps, seed)
        self._judge, self._heeded = judge, trainable.hook.ready
        self._state = State(
            trainable, self._protocol, passes.accelerator, rate=rate, steps=self.steps, run=run, file=checkpoint
        )

    def run(self) -> Progress:
        """Train to the end; the trainable then has the values of the best epoch.

        Returns:
            The curve, which epoch is the best, and the time spent, evaluation included, over all sessions of the run.

        Raises:
            TrainingError: If loss or gradient stop being finite.
            PrunedError: If it was judged to be lost.
        """
        passes, model = self.passes, self.trainable.base.model
        device = passes.accelerator.device
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with forked, passes.ways.context(), kept_modes(model):
            # Each process draws its own dropout; the first draws as a single process would.
            torch.manual_seed(self._seed + 1_000_003 * passes.accelerator.process_index)
            self._state.resume()
            if passes.accelerator.process_index and self.step:
                # A checkpoint holds the first process's random state, which the others must not use.
                torch.manual_seed(self._seed + 1_000_003 * passes.accelerator.process_index + self.step)
            self._ask()
            while self._state.progress.epoch < self._protocol.epochs:
                self._epoch()
                self._finish_epoch()
                self._ask()
        self._state.put(self._state.best)
        return self._state.progress

    @property
    def step(self) -> int:
        """Steps done."""
        return self._state.progress.epoch * self.passes.steps + self._state.progress.batch

    def _epoch(self) -> None:
        state, rules = self._state, self._protocol
        train_mode(self.trainable.base.model, dropout=rules.dropout, statistics=rules.statistics == "update")
        for indices in self.passes.batches(self._seed, state.progress.epoch)[state.progress.batch :]:
            self._learn(self.passes.backward(indices), len(indices))
            if time.monotonic() - state.counted > SAVE_EVERY:
                state.save()

    def _learn(self, loss: float, examples: int) -> None:
        """Take a step with the gradient of the last backward pass."""
        state, step = self._state, self.step + 1
        norm = state.clipped(step)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise TrainingError(self._not_finite(what, step))
        rate = state.step(step)
        if self._watch is not None:
            self._watch(StepInfo(step, self.steps, state.progress.epoch + 1, loss, self._best, rate))
        state.progress.batch += 1
        state.progress.loss_sum += loss * examples
        state.progress.seen += examples

    def _finish_epoch(self) -> None:
        state, progress, best = self._state, self._state.progress, self._best
        scores = self._evaluate()
        state.count()
        if (best is None or scores[self.passes.primary] > best) and self.trainable.hook.ready:
            progress.best, state.best = progress.epoch, state.present()
        progress.epoch += 1
        loss, seconds = progress.loss_sum / progress.seen, round(progress.seconds, 3)
        progress.curve += (EpochScore(epoch=progress.epoch, loss=loss, scores=scores, seconds=seconds),)
        progress.batch, progress.loss_sum, progress.seen = 0, 0.0, 0
        state.save()

    @property
    def _best(self) -> float | None:
        """The best epoch's primary metric; None before the first."""
        progress = self._state.progress
        return None if progress.best is None else progress.curve[progress.best].scores[self.passes.primary]

    def _evaluate(self) -> dict[str, float]:
        try:
            return self.passes.evaluate()
        except AnswerError as error:
            raise TrainingError(self._not_finite("model's output", self.step)) from error

    def _not_finite(self, what: str, step: int) -> str:
        for name, values in self.trainable.base.model.named_parameters():
            if (step == 1 or not values.requires_grad) and not bool(values.isfinite().all()):
                return f"The base model holds values that are not finite, such as in {name}; take another one."
        return f"The {what} stopped being finite at step {step} of {self.steps}; try a smaller learning rate."

    def _ask(self) -> None:
        """Raise `PrunedError` if the judge, called with the finished epochs, says to end."""
        progress, steps = self._state.progress, self._state.progress.epoch * self.passes.steps
        if self._judge is not None and progress.curve and not self._judge(progress.curve, steps) and self._heeded:
            raise PrunedError(progress.curve, steps, progress.seconds)
