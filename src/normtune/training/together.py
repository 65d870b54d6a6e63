"""Several trainings in lockstep: one forward and backward pass a step, over the batches of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from normtune.config import RunConfig
from normtune.errors import ConfigError, TrainingError
from normtune.fast.stack import Candidate, Share, Stack
from normtune.training.forward import Passed, Passes
from normtune.training.loop import Judge, Loop, Outcome, PrunedError, Tick

#: What a training of several gives: what it gave, or why it ended early.
Result = Outcome | TrainingError | PrunedError


@dataclass(frozen=True)
class Trial:
    """One run of several that share a pass.

    Attributes:
        config: What to train.
        checkpoint: A file to keep its state in; an unfinished run found there is continued.
        watch: Told after each of its steps.
        judge: Told after each of its epochs; where it answers no, it ends, and the others go on.
    """

    config: RunConfig
    checkpoint: Path | None = None
    watch: Callable[[Tick], None] | None = None
    judge: Judge | None = None


def check(trials: Sequence[Trial], accelerator: Accelerator) -> None:
    """Check that runs can share passes.

    Raises:
        ConfigError: If they cannot.
    """
    configs = [trial.config for trial in trials]
    alike = {config.model_copy(update={"rate": 1.0, "seed": 0}).model_dump_json() for config in configs}
    if len(alike) != 1 or len({(config.rate, config.seed) for config in configs}) < len(configs):
        raise ConfigError("Runs share a pass if they differ in rate or seed, and in nothing else.")
    limit = configs[0].protocol.together
    if limit < len(configs):
        raise ConfigError(f"The protocol lets {limit} candidates share a pass; {len(configs)} were given.")
    if accelerator.log_with:
        raise ConfigError("Trackers log one run at a time; leave out --track, or --together.")


class Together:
    """Trainings of one selection on one task that differ in rate and seed.

    Each keeps its own optimizer, schedule, clipping, best epoch and checkpoint. One that ends early leaves the others
    as they are; one that is behind, after a stop, catches up first.

    Args:
        stack: The model that they share.
        passes: Passes over task and data, as the protocol says.
        loops: The trainings, by what each of them trains.

    Raises:
        ConfigError: If dropout is on, or they are to run in several processes or in mixed precision.
    """

    def __init__(self, stack: Stack, passes: Passes, loops: Mapping[Candidate, Loop]) -> None:
        accelerator = passes.accelerator
        if passes.protocol.dropout:
            raise ConfigError("Candidates share a pass only with dropout off.")
        if accelerator.num_processes > 1 or accelerator.mixed_precision != "no":
            raise ConfigError("Candidates share a pass in one process and one precision; leave out --precision.")
        self._stack, self._passes, self._loops = stack, passes, dict(loops)
        self._wanted: dict[Candidate, np.ndarray] = {}
        self._ended: dict[Candidate, Result] = {}

    def run(self) -> list[Result]:
        """Train all of them to their ends.

        Returns:
            What each gave, in their order.
        """
        model = self._passes.base.model
        was_training = model.training
        with torch.random.fork_rng(), self._stack.installed(), self._passes.ways():
            for candidate in self._loops:
                self._turn(candidate)
            while self._wanted:
                behind = min(self._loops[candidate].step for candidate in self._wanted)
                due = [candidate for candidate in self._wanted if self._loops[candidate].step == behind]
                for candidate, passed in zip(due, self._pass(due), strict=True):
                    self._turn(candidate, passed)
        model.train(was_training)
        return [self._ended[candidate] for candidate in self._loops]

    def _turn(self, candidate: Candidate, passed: Passed | None = None) -> None:
        """Let one go on to its next pass; until there the model is its own."""
        loop = self._loops[candidate]
        self._stack.show(Share(candidate, 0))
        wanted, ended = None, None
        try:
            wanted = loop.next(passed)
        except (TrainingError, PrunedError) as error:
            ended = error
        if wanted is not None:
            self._wanted[candidate] = wanted
        else:
            self._wanted.pop(candidate, None)
            self._ended[candidate] = ended or loop.outcome

    def _pass(self, due: Sequence[Candidate]) -> list[Passed]:
        """One pass over what each wants; the gradient of the sum of the losses is to each that of its own."""
        started, passes = time.monotonic(), self._passes
        batches = [self._wanted[candidate] for candidate in due]
        sizes = [len(batch) for batch in batches]
        self._stack.show(*map(Share, due, sizes))
        outputs = passes.outputs(np.concatenate(batches)).split(sizes)
        losses = torch.stack([passes.loss(own, batch) for own, batch in zip(outputs, batches, strict=True)])
        passes.accelerator.backward(losses.sum())
        seconds = time.monotonic() - started
        return [
            Passed(loss, seconds * size / sum(sizes))
            for loss, size in zip(losses.detach().tolist(), sizes, strict=True)
        ]
