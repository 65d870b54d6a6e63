"""Gates on heads or units, which learn which of them a task needs (CoFi, Xia et al. 2022)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normtune.data.encode import Encoded, buckets
from normtune.data.task import Task
from normtune.importance.structure import Structure, ends
from normtune.importance.uses import frozen
from normtune.methods.diff_pruning import FIRST, OFFSET, RATE, gate_of, soft_gate, uniform
from normtune.methods.hooked import generator_of
from normtune.models.base import Base

#: Passes over the examples, and examples per step.
EPOCHS, BATCH = 10, 8


def learnt(
    base: Base, task: Task, encoded: Encoded, structure: Structure, fraction: float, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """How open a gate on each head or unit stays when a fraction of them is to be pruned.

    The outputs of each are multiplied by a hard-concrete gate, drawn anew in each step as in diff pruning. Adam trains
    the gates' logits to minimise ``loss + a (s - t) + b (s - t)^2``: s is the expected fraction of closed gates, and t
    rises to `fraction` in the first half of the steps. The Lagrange multipliers a and b start at zero and are trained
    to maximise it. The model, which has the task's head, does not change; CoFi trains it too, with distillation. `seed`
    seeds the order of the examples and the gates.

    Returns:
        For each matrix whose inputs are heads or units, the logit of each of these, float64.
    """
    counts, labels, loss = ends(base, structure), encoded.labels, task.asks.loss(task)
    assert labels is not None
    logits = {name: torch.full((n,), FIRST, device=base.device, requires_grad=True) for name, n in counts.items()}
    multipliers = torch.zeros(2, device=base.device, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [*logits.values()]}, {"params": [multipliers], "maximize": True}]
    adam, gates = torch.optim.Adam(groups, lr=RATE), dict[str, Tensor]()
    batches = [own for epoch in range(EPOCHS) for own in buckets(encoded.lengths, BATCH, seed=seed, epoch=epoch)]

    def gated(name: str) -> Any:
        def before(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            gate = gates[name].to(args[0].dtype)
            return args[0] * gate.repeat_interleave(args[0].shape[-1] // len(gate)), *args[1:]

        return before

    with ExitStack() as undo, frozen(base.model), torch.enable_grad():
        for name in counts:
            module = base.model.get_submodule(name.removesuffix(".weight"))
            undo.callback(module.register_forward_pre_hook(gated(name)).remove)
        for step, indices in enumerate(batches, 1):
            generator = generator_of(base.device, seed, step)
            gates |= {name: gate_of(soft_gate(own, uniform(own, generator))) for name, own in logits.items()}
            outputs = encoded.answered(base.model(**encoded.batch(indices, base.device)).logits.float(), indices)
            behind = shut(logits) - fraction * min(1.0, 2 * step / len(batches))
            adam.zero_grad()
            (loss(outputs, labels[indices].to(base.device)) + multipliers @ torch.stack((behind, behind**2))).backward()
            adam.step()
    return {name: own.detach().double().cpu().numpy() for name, own in logits.items()}


def shut(logits: dict[str, Tensor]) -> Tensor:
    """The expected fraction of closed gates."""
    return 1 - torch.cat([torch.sigmoid(own - OFFSET) for own in logits.values()]).mean()
