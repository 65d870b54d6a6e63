"""Child-Tuning-F against the paper's definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normtune.errors import SelectionError
from normtune.methods.child_tuning import child_tuning_f
from normtune.methods.expression import specify
from normtune.methods.trainable import Trainable
from normtune.models.base import load_base


def test_the_gradient_is_kept_with_probability_p_and_divided_by_it(tiny_folder: Path) -> None:
    """g * M / p with M drawn from Bernoulli(p) for each entry and each step (Xu et al. 2021)."""
    base = load_base(str(tiny_folder), head=3)
    trainable = Trainable(base, specify(base.layout, "child-tuning-f@20"))
    trainable.hook.start(2, 7)
    found = []
    for step in (1, 2, 1):
        for parameter in trainable.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        trainable.hook.gradient(step)
        found.append(torch.cat([leaf.grad.reshape(-1) for leaf in trainable.leaves.values()]))
    assert all(torch.equal(value.grad, torch.full_like(value, 3.0)) for value in trainable.head.values())
    kept = [values != 0 for values in found]
    size = len(kept[0])
    for values, mask in zip(found, kept, strict=True):
        assert torch.equal(values, mask * torch.tensor(3.0) / 0.2)
        assert abs(mask.sum() - 0.2 * size) < 5 * (size * 0.2 * 0.8) ** 0.5
    # Steps are independent of each other, and repeating a step repeats its draw.
    assert abs((kept[0] & kept[1]).sum() - 0.04 * size) < 5 * (size * 0.04 * 0.96) ** 0.5
    assert torch.equal(kept[0], kept[2])
    trainable.undo()


@pytest.mark.parametrize("option", [0, 101])
def test_a_share_outside_is_refused(tiny_folder: Path, option: int) -> None:
    with pytest.raises(SelectionError, match="takes a percentage of 1 to 100"):
        child_tuning_f(load_base(str(tiny_folder)).layout, option=option)
