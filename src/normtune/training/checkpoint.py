"""The state of a training between two steps, so that it can be stopped anywhere and continued."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from normtune.config import Strict
from normtune.files import write_atomically
from normtune.records.run import EpochScore


class Progress(Strict):
    """How far a training is.

    Attributes:
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

    run: str
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    curve: tuple[EpochScore, ...] = ()
    best: int | None = None
    schedule: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Checkpoint:
    """A training's whole state: numbers and tensors.

    Attributes:
        progress: The numbers.
        tensors: Present and best values, the optimizer's state and the random states, by name.
    """

    progress: Progress
    tensors: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write it to `path`, over what was there, whole or not at all."""
        content = serialise(
            {name: t.contiguous() for name, t in self.tensors.items()}, {"state": self.progress.model_dump_json()}
        )
        write_atomically(path, content)

    @classmethod
    def load(cls, path: Path, run: str) -> Checkpoint | None:
        """The checkpoint at `path` if there is one, it can be read and it belongs to `run`."""
        try:
            with safe_open(path, "pt") as stored:
                progress = Progress.model_validate(json.loads((stored.metadata() or {})["state"]))
                if progress.run != run:
                    return None
                return cls(progress, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            # Nothing is lost by starting over: a checkpoint is written whole, so this one is of another version.
            return None


def pack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under names that begin with `prefix`."""
    return {f"{prefix}/{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `pack` put under `prefix`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def random_states() -> dict[str, Tensor]:
    """The random states that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Set the random states to what `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
