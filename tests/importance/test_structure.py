"""Michel's first-order scores against a factor on each head and unit, differentiated one example at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from normtune.errors import SelectionError
from normtune.importance.structure import Structure, ends, first_order, lowest
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from tests.conftest import BaseFactory
from tests.importance.reference import TASKS, in_float64, texts

MATRIX = {
    ("bert", "heads"): "bert.encoder.layer.{}.attention.output.dense",
    ("bert", "units"): "bert.encoder.layer.{}.output.dense",
    ("gpt2", "heads"): "transformer.h.{}.attn.c_proj",
    ("gpt2", "units"): "transformer.h.{}.mlp.c_proj",
}


def by_factor(base: Base, task: Any, sample: Any, module: str, groups: int) -> np.ndarray:
    """The mean over examples of |dL / d xi|, xi being a factor on each group of the module's inputs."""
    total = np.zeros(groups)
    for number in range(len(sample)):
        factor = torch.ones(groups, dtype=torch.float64, requires_grad=True)

        def scaled(_: Any, args: Any, factor: torch.Tensor = factor) -> Any:
            return (args[0] * factor.repeat_interleave(args[0].shape[-1] // groups), *args[1:])

        handle = base.model.get_submodule(module).register_forward_pre_hook(scaled)
        outputs = base.model(**sample.batch([number])).logits
        handle.remove()
        label = int(sample.labels[number])
        (grad,) = torch.autograd.grad(-torch.log_softmax(outputs, 1)[0, label], factor)
        total += grad.abs().numpy()
    return total / len(sample)


@pytest.mark.parametrize(("family", "structure"), MATRIX)
def test_it_is_the_derivative_by_a_factor(make_base: BaseFactory, family: str, structure: Structure) -> None:
    base, task = in_float64(make_base(family)), TASKS["three"]
    sample = texts(task, (5, 9, 3))
    swap = base.put_head(HeadSpec(task.kind, task.labels), 0)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    found = first_order(base, task, sample, structure)
    groups = 4 if structure == "heads" else base.model.config.to_dict().get("intermediate_size", 128)
    for layer in range(3):
        module = MATRIX[family, structure].format(layer)
        wanted = by_factor(base, task, sample, module, groups)
        np.testing.assert_allclose(found[f"{module}.weight"], wanted / np.linalg.norm(wanted), rtol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    gone = lowest(base, found, 0.25)
    assert len(gone) == round(0.25 * 3 * groups) * 32 * (8 if structure == "heads" else 1)
    swap.undo()


def test_whole_heads_go_the_lowest_first(make_base: BaseFactory) -> None:
    base = make_base("bert")
    scores = {name: np.zeros(count) for name, count in ends(base, "heads").items()}  # ties do not split a head
    first, *_ = scores
    scores[first][2] = -1.0
    gone = lowest(base, scores, 1 / 12)
    assert {*gone.chosen} == {first}
    assert np.array_equal(gone.indices(first) % 32, np.tile(np.arange(16, 24), 32))
    assert len(lowest(base, scores, 0.5)) == 6 * 8 * 32


def test_a_family_whose_blocks_are_not_known_is_refused(make_base: BaseFactory) -> None:
    with pytest.raises(SelectionError, match="does not know where the blocks"):
        ends(make_base("t5"), "heads")
