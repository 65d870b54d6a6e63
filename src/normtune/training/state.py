"""What a training carries from step to step: optimizer, schedule, how far it is, and the best epoch's values."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from normtune.config import Protocol
from normtune.methods.trainable import Trainable
from normtune.modes import unwatched
from normtune.training.checkpoint import Checkpoint, Progress, pack, random_states, set_random_states, unpack


class State:
    """AdamW, warm-up and linear decay, and the file that all of it is kept in.

    Args:
        trainable: What trains.
        protocol: Weight decay, warm-up and clipping.
        accelerator: Where it runs.
        rate: Peak learning rate.
        steps: Steps in all.
        run: Identity of the run; a checkpoint of another run is not continued.
        file: The checkpoint, or None to keep none.
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
        self.saved = self._counted = time.monotonic()

    @unwatched
    def clipped(self) -> Tensor:
        """Clip the gradient; its norm before that."""
        norm: Tensor = self._accelerator.clip_grad_norm_(self._parameters, self._clip)
        return norm

    @unwatched
    def step(self) -> float:
        """One step of the optimizer along the gradient, which is then gone, at the learning rate returned."""
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return rate

    def advance(self, **changes: object) -> None:
        """Change the progress, and count the time since it was last counted."""
        now = time.monotonic()
        seconds = self.progress.seconds + now - self._counted
        self._counted = now
        self.progress = self.progress.model_copy(update={"seconds": seconds, **changes})

    def present(self) -> dict[str, Tensor]:
        """The values as they are now."""
        return {**pack("values", self._trainable.values()), **pack("head", self._trainable.head_values())}

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        self.saved = time.monotonic()
        if self._file is None or not self._accelerator.is_main_process:
            return
        tensors = {f"now/{name}": value for name, value in self.present().items()}
        tensors.update({f"best/{name}": value for name, value in self.best.items()})
        tensors.update(pack("random", random_states()))
        for number, parameter in enumerate(self._parameters):
            tensors.update(pack(f"optimizer/{number}", dict(self._optimizer.state[parameter])))
        self.progress = self.progress.model_copy(update={"schedule": _plain(self._schedule.state_dict())})
        Checkpoint(self.progress, tensors).save(self._file)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this run."""
        self.saved = self._counted = time.monotonic()
        stored = Checkpoint.load(self._file, self.progress.run) if self._file is not None else None
        if stored is None:
            return
        self.progress = stored.progress
        now = unpack("now", stored.tensors)
        self._trainable.load(unpack("values", now), unpack("head", now))
        self.best = unpack("best", stored.tensors)
        set_random_states(unpack("random", stored.tensors))
        for number, parameter in enumerate(self._parameters):
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
