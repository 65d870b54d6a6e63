"""Passes over a task's examples: how a protocol has the model computed, in training and in scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from normtune.config import Products, Protocol
from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.errors import ConfigError
from normtune.evaluation import EVAL_TOKENS, logits, loss_of, score_outputs
from normtune.fast.dropping import dropout_of
from normtune.fast.fused import fused
from normtune.fast.linear import fast_linear
from normtune.fast.memory import Memory, memory_of
from normtune.fast.prefix import Prefix, States
from normtune.models.base import Base


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


class Passes:
    """A base model's passes over one task.

    Args:
        base: The base model, with the head and with all that trains in place.
        goal: Task and data.
        protocol: How the model is computed.
        accelerator: Where.
        prefix: The frozen prefix of what trains, where the protocol keeps it.
        memory: What is kept for the backward pass; it changes no number.

    Raises:
        ConfigError: If a prefix is to be kept with dropout on, products are to be lowered that are not float32, or
            layers fused that keep less memory or mix precisions.
    """

    def __init__(
        self,
        base: Base,
        goal: Goal,
        protocol: Protocol,
        accelerator: Accelerator,
        *,
        prefix: Prefix | None = None,
        memory: Memory = "plain",
    ) -> None:
        if prefix is not None and protocol.dropout:
            raise ConfigError("A prefix is computed once only with dropout off.")
        plain = base.model.dtype == torch.float32 and accelerator.mixed_precision == "no"
        if "bfloat16" in {protocol.products, protocol.inference_products} and not plain:
            raise ConfigError(
                "--products and --inference-products lower those of a float32 model; leave out --dtype and --precision,"
                " or them."
            )
        if protocol.layers != "torch" and (memory != "plain" or accelerator.mixed_precision != "no"):
            raise ConfigError("Fused layers keep what they need in one precision; leave out --memory and --precision.")
        self.base, self.goal, self.protocol, self.accelerator = base, goal, protocol, accelerator
        self._prefix, self._memory = prefix, memory
        self._states = None if prefix is None else prefix.states_of(goal.train, goal.pick)
        self._model = accelerator.prepare(base.model)
        self._loss = loss_of(goal.task)

    @contextmanager
    def ways(self) -> Iterator[None]:
        """Within this context the model is computed as the protocol says."""
        with self._ways(self.protocol.inference_products):
            yield

    @contextmanager
    def _ways(self, inference: Products) -> Iterator[None]:
        model, products = self.base.model, self.protocol.products
        with ExitStack() as stack:
            stack.enter_context(dropout_of(self.protocol.dropout_generator))
            stack.enter_context(fast_linear(products))
            if self.protocol.layers != "torch":
                compiled = self.protocol.layers == "compiled"
                stack.enter_context(fused(model, products, inference=inference, compiled=compiled))
            stack.enter_context(memory_of(model, self._memory))
            yield

    def backward(self, indices: np.ndarray) -> float:
        """Forward and backward over the training examples at `indices`; their mean loss."""
        accelerator = self.accelerator
        mine = indices[accelerator.process_index :: accelerator.num_processes]
        # Each process takes its share of the batch; the factor makes their mean the batch's mean. A process that
        # gets none of a short last batch still takes part, with a weight of zero.
        factor = len(mine) * accelerator.num_processes / len(indices)
        mine = mine if len(mine) else indices[:1]
        share = self.loss(self.outputs(mine), mine) * factor
        accelerator.backward(share)
        return float(accelerator.reduce(share.detach(), "mean"))

    def outputs(self, indices: np.ndarray) -> Tensor:
        """Outputs for the training examples at `indices`, float32 or better, of shape (examples, outputs)."""
        accelerator = self.accelerator
        with accelerator.autocast():
            if self._states is not None:
                outputs: Tensor = self._states[0].logits(self._model, indices, accelerator.device)
            else:
                outputs = self._model(**self.goal.train.batch(indices, accelerator.device)).logits
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def loss(self, outputs: Tensor, indices: np.ndarray) -> Tensor:
        """The mean loss of `outputs` for the training examples at `indices`."""
        labels = self.goal.train.labels
        assert labels is not None
        return self._loss(outputs, labels[indices].to(self.accelerator.device))

    def picked(self) -> np.ndarray:
        """The outputs, of shape (examples, outputs), for what the best epoch is picked on."""
        states = self._states[1] if self._states else None
        return self._evaluated(self.goal.pick, states, self.protocol.inference_products)

    def score(self, encoded: Encoded) -> dict[str, float]:
        """All metrics on `encoded` of the model as it is now, in float32, by the layers that the protocol names."""
        assert encoded.labels is not None
        prefix, exact = self._prefix, self.protocol.inference_products == "float32"
        states = prefix.states(encoded) if prefix is not None and exact else None
        with self._ways("float32"):
            outputs = self._evaluated(encoded, states, "float32")
        return score_outputs(outputs, encoded.labels.numpy(), self.goal.task)

    def _evaluated(self, encoded: Encoded, states: States | None, products: Products) -> np.ndarray:
        tokens = EVAL_TOKENS if self.protocol.layers != "torch" else None
        return logits(self.base, encoded, states=states, tokens=tokens, products=products)
