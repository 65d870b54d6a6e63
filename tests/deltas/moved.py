"""Shared by the tests of deltas that leave normtune: a delta whose every value moved, and plain answers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from normtune.deltas.delta import Delta
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from normtune.models.head import HeadSpec

THREE = HeadSpec("classification", ("no", "may be", 'a "yes"'))
NUMBER = HeadSpec("regression")


def moved(base: Base, method: str, spec: HeadSpec = THREE, **info: object) -> Delta:
    """A delta whose values all moved a little; the base is left as it was."""
    swap = base.put_head(spec, 3)
    tuning = Trainable(base, select(base.layout, method))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    delta = Delta.capture(tuning, **{"method": method, "task": "mine", **info})
    tuning.undo()
    swap.undo()
    return delta


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Three examples that every family takes: no padding, the end token last."""
    ids = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answers(model: torch.nn.Module, fields: dict[str, Tensor]) -> Tensor:
    """The logits of a model, as plain torch computes them."""
    with torch.inference_mode():
        logits: Tensor = model.eval()(**fields).logits
    return logits.float()


def applied(base: Base, delta: Delta) -> Tensor:
    """The logits of the base with the delta applied; it is removed afterwards."""
    with delta.apply(base):
        return answers(base.model, inputs(base.model))


def state(base: Base) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def assert_untouched(base: Base, before: dict[str, Tensor], config: str) -> None:
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)
    assert base.model.config.to_json_string() == config
