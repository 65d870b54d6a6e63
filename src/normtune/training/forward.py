"""Passes over a task's examples, in training and in scoring."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normtune.config import Memory, Protocol
from normtune.data.encode import Encoded, buckets
from normtune.data.task import Task
from normtune.errors import ConfigError
from normtune.evaluation import logits, score_outputs
from normtune.fast.prefix import StateCache
from normtune.fast.ways import choose
from normtune.models.base import Base


class Passes:
    """A base model's passes over one task.

    Args:
        base: The base model, with the head and with all that trains in place.
        task: The task, for its loss and metrics.
        train: The examples to learn from.
        pick: The examples on which the best epoch is picked.
        protocol: How it is trained.
        accelerator: Where.
        memory: What is kept for the backward pass; it changes no number.
        plain: Whether it is computed by plain torch, without any faster way.
        kept: Where hidden states are kept from run to run.

    Attributes:
        columns: Which of the head's outputs are the task's.

    Raises:
        ConfigError: If products are to be bfloat16 with a model that is not float32, mixed precision or plain torch.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        train: Encoded,
        pick: Encoded,
        protocol: Protocol,
        accelerator: Accelerator,
        *,
        memory: Memory = "plain",
        plain: bool = False,
        kept: StateCache | None = None,
    ) -> None:
        mixed = accelerator.mixed_precision != "no"
        if protocol.products == "bfloat16" and (plain or mixed or base.model.dtype != torch.float32):
            raise ConfigError(
                "A protocol's products=bfloat16 needs a float32 model in the fast ways; leave out --precision and"
                " --plain, or products=bfloat16."
            )
        self.base, self.protocol, self.accelerator = base, protocol, accelerator
        options: dict[str, Any] = {"memory": memory, "mixed": mixed, "plain": plain, "kept": kept or StateCache()}
        self.ways = choose(base, dropout=protocol.dropout, products=protocol.products, **options)
        exact = protocol.products == "float32"
        self._exact = self.ways if exact else choose(base, dropout=protocol.dropout, **{**options, "kept": None})
        self._model = accelerator.prepare(base.model)
        self._take(task, train, pick)

    def _take(self, task: Task, train: Encoded, pick: Encoded, columns: slice = slice(None)) -> None:
        self.task, self.train, self.pick, self.columns = task, train, pick, columns
        self._train_states, self._pick_states = self.ways.states(train, pick)
        self._loss = task.asks.loss(task)

    def on(self, task: Task, train: Encoded, pick: Encoded, columns: slice) -> Self:
        """Passes of the same model over another task, whose part of the head's outputs is at `columns`."""
        other = copy.copy(self)
        other._take(task, train, pick, columns)
        return other

    @property
    def primary(self) -> str:
        """Name of the score by which the best epoch is picked."""
        return self.task.primary

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.train) / self.protocol.batch_size)

    def batches(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The training examples of each batch of an epoch, by their positions."""
        return buckets(self.train.lengths, self.protocol.batch_size, seed=seed, epoch=epoch)

    def backward(self, indices: np.ndarray) -> float:
        """Forward and backward over the training examples at `indices`; their mean loss."""
        accelerator = self.accelerator
        mine = indices[accelerator.process_index :: accelerator.num_processes]
        # Each process takes its share of the batch; the factor makes their mean the batch's mean. A process that
        # gets none of a short last batch still takes part, with a weight of zero.
        factor = len(mine) * accelerator.num_processes / len(indices)
        mine = mine if len(mine) else indices[:1]
        labels = self.train.labels
        assert labels is not None
        wanted = labels[mine].to(accelerator.device)  # copied before a GPU is busy with the forward pass
        share = self._loss(self._outputs(mine), wanted) * factor
        accelerator.backward(share)
        return float(accelerator.reduce(share.detach(), "mean"))

    def _outputs(self, indices: np.ndarray) -> Tensor:
        """Outputs for the training examples at `indices`, float32 or better, as `Encoded.answered` gives them."""
        accelerator = self.accelerator
        with accelerator.autocast():
            if self._train_states is not None:
                outputs: Tensor = self._train_states.logits(self._model, indices, accelerator.device)
            else:
                outputs = self._model(**self.train.batch(indices, accelerator.device)).logits
        outputs = self.train.answered(outputs, indices)
        return outputs[..., self.columns].to(torch.promote_types(outputs.dtype, torch.float32))

    def evaluate(self) -> dict[str, float]:
        """All metrics on the examples that the best epoch is picked on.

        Raises:
            AnswerError: If an output is not finite.
        """
        return self._scores(self.pick, logits(self.base, self.pick, ways=self.ways, states=self._pick_states))

    def score(self, encoded: Encoded) -> dict[str, float]:
        """All metrics on `encoded` of the model as it is now, in float32."""
        (states,) = self._exact.states(encoded)
        with self._exact.context():
            outputs = logits(self.base, encoded, ways=self._exact, states=states)
        return self._scores(encoded, outputs)

    def _scores(self, encoded: Encoded, outputs: np.ndarray) -> dict[str, float]:
        assert encoded.labels is not None
        return score_outputs(outputs[..., self.columns], encoded.labels.numpy(), self.task)


def train_mode(model: nn.Module, *, dropout: bool, statistics: bool = False) -> None:
    """Put a model into the mode that it trains in, with dropout on, in every module that has any, or off.

    BatchNorm normalises by its running statistics and leaves them alone or, with `statistics`, normalises by the batch
    and updates them.
    """
    model.train(dropout)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(statistics)
