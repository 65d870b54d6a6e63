"""What a training carries from step to step, so that it can be stopped anywhere and continued from its checkpoint."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from normtune.config import Protocol, Strict
from normtune.errors import TrainingError
from normtune.files import read_tensors, write_tensors
from normtune.methods.trainable import Trainable
from normtune.modes import unwatched
from normtune.records.run import EpochScore

_log = logging.getLogger(__name__)


class Progress(Strict, frozen=False):
    """How far a training has come.

    Attributes:
        format: Version of the checkpoint's layout.
        run: Identity of the run that it belongs to.
        epoch: Epochs finished.
        batch: Batches finished in the present epoch.
        loss_sum: Sum of the losses over the examples of the present epoch so far.
        seen: Number of these examples.
        seconds: Time spent.
        curve: The epochs finished.
        best: Position in `curve` of the best epoch, or None before the first.
        schedule: State of the learning-rate schedule.
    """

    format: int = 1
    run: str
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    curve: tuple[EpochScore, ...] = ()
    best: int | None = None
    schedule: dict[str, Any] = Field(default_factory=dict)


class State:
    """AdamW, warm-up and linear decay, the progress, the best epoch's values, and the checkpoint of all of these.

    `steps` is the training's total; the checkpoint is kept in `file`, if any, and only the same `run` continues it.
    """

    def __init__(
        self,
        trainable: Trainable,
        protocol: Protocol,
        accelerator: Accelerator,
        *,
        rate: float,
        steps: int,
        run: str,
        file: Path | None,
    ) -> None:
        optimizer = torch.optim.AdamW(trainable.param_groups(protocol.weight_decay), lr=rate, fused=True)
        self._schedule = get_linear_schedule_with_warmup(optimizer, round(steps * protocol.warmup_fraction), steps)
        self._optimizer = accelerator.prepare(optimizer)
        self._trainable, self._parameters = trainable, list(trainable.parameters())
        self._accelerator, self._clip, self._file = accelerator, protocol.clip, file
        self.progress = Progress(run=run)
        #: The best epoch's values.
        self.best: dict[str, Tensor] = {}
        #: When time was last counted; each checkpoint counts it.
        self.counted = time.monotonic()

    @unwatched
    def clipped(self, number: int) -> Tensor:
        """Clip the gradient of a step, once the method's hook has changed it; return its norm before clipping."""
        self._accelerator.unscale_gradients()
        self._trainable.hook.gradient(number)
        return torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)

    @unwatched
    def step(self, number: int) -> float:
        """Take a step of the optimizer, clear the gradient, and return the learning rate of the step."""
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.step()
        self._trainable.hook.stepped(number)
        self._schedule.step()
        self._optimizer.zero_grad()
        return rate

    def count(self) -> None:
        """Count the time since it was last counted."""
        now = time.monotonic()
        self.progress.seconds += now - self.counted
        self.counted = now

    def present(self) -> dict[str, Tensor]:
        """The values as they are now."""
        own = self._trainable
        now = {**prefixed("values", own.values()), **prefixed("head", own.head_values())}
        return {**now, **prefixed("statistics", own.statistics_values())}

    def put(self, present: dict[str, Tensor]) -> None:
        """Set the values to what `present` gave."""
        self._trainable.load(*(unprefixed(part, present) for part in ("values", "head", "statistics")))

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, if there is to be one."""
        self.count()
        if self._file is None or not self._accelerator.is_main_process:
            return
        tensors = {**prefixed("now", self.present()), **prefixed("best", self.best)}
        tensors |= {**prefixed("random", _random_states()), **prefixed("hook", self._trainable.hook.state())}
        for number, parameter in enumerate(self._parameters):
            tensors.update(prefixed(f"optimizer/{number}", self._optimizer.state[parameter]))
        self.progress.schedule = self._schedule.state_dict()
        content = {name: value.contiguous() for name, value in tensors.items()}
        write_tensors(self._file, "state", self.progress, content)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this run."""
        self.counted = time.monotonic()
        stored = None if self._file is None else _read(self._file, self.progress.run)
        if stored is None:
            return
        self.progress, tensors = stored
        self.put(unprefixed("now", tensors))
        self._trainable.hook.load(unprefixed("hook", tensors))
        self.best = unprefixed("best", tensors)
        random = unprefixed("random", tensors)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        for number, parameter in enumerate(self._parameters):
            state = unprefixed(f"optimizer/{number}", tensors)
            self._optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in state.items()}
        self._schedule.load_state_dict(dict(self.progress.schedule))
        # The schedule restores only its own count; the optimizer gets the rate that it last set.
        for group, rate in zip(self._optimizer.param_groups, self.progress.schedule["_last_lr"], strict=True):
            group["lr"] = rate


def _read(file: Path, run: str) -> tuple[Progress, dict[str, Tensor]] | None:
    """The content of a checkpoint; None if there is none, it is damaged, or it belongs to another run."""
    if not file.is_file():
        return None
    try:
        progress, tensors = read_tensors(file, "checkpoint", "state", Progress, TrainingError)
    except TrainingError as error:
        _log.warning("%s The run that it belongs to starts over.", error)
        return None
    return (progress, tensors) if progress.run == run else None


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under names that begin with `prefix`."""
    return {f"{prefix}/{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `prefixed` put under `prefix`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _random_states() -> dict[str, Tensor]:
    """The random states that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
