"""AdaLoRA against the paper's definition, in float64 and by loops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normtune.errors import SelectionError
from normtune.methods.expression import specify
from normtune.methods.trainable import Trainable
from normtune.models.base import load_base

STEPS, RANK, FIRST = 12, 2, 3
WARM, FINAL = 2, 6  # of 12 steps


def test_it_is_a_product_with_singular_values(tiny_folder: Path) -> None:
    """W + s P diag(lambda) Q (Zhang et al. 2023, equation 3); lambda starts at zero."""
    base = load_base(str(tiny_folder), head=3)
    name = "bert.encoder.layer.1.intermediate.dense"
    own = base.model.get_submodule(name)
    weight, bias = own.weight.detach().double(), own.bias.detach().double()
    inputs = torch.randn(4, weight.shape[1], dtype=torch.float64)
    trainable = Trainable(base, specify(base.layout, f"adalora@{RANK}"))
    module = base.model.get_submodule(name)
    torch.testing.assert_close(module(inputs.float()).double(), inputs @ weight.T + bias, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for leaf in trainable.leaves.values():
            leaf.normal_()
    q, p, values = (trainable.leaves[f"{name}.lora_{part}"].detach().double() for part in "ABE")
    assert (q.shape, p.shape) == ((FIRST, weight.shape[1]), (weight.shape[0], FIRST))
    wanted = inputs @ (weight + 2 * p @ torch.diag(values[:, 0]) @ q).T + bias
    torch.testing.assert_close(module(inputs.float()).double(), wanted, rtol=1e-4, atol=1e-4)
    decayed = {p for group in trainable.param_groups(0.1) if group["weight_decay"] for p in group["params"]}
    assert not decayed & {leaf for name, leaf in trainable.leaves.items() if name.endswith("lora_E")}
    trainable.undo()


def test_the_gradient_has_the_orthogonality_terms(tiny_folder: Path) -> None:
    """The gradient of gamma times the mean of ||P'P - I|| and ||QQ' - I|| is added, checked by differences."""
    base = load_base(str(tiny_folder), head=3)
    trainable = Trainable(base, specify(base.layout, f"adalora@{RANK}"))
    trainable.hook.start(STEPS, 0)
    factors = {name: leaf for name, leaf in trainable.leaves.items() if not name.endswith("lora_E")}

    def penalty(moved: str = "", by: float = 0.0) -> float:
        total = 0.0
        for name, leaf in factors.items():
            matrix = leaf.detach().double().clone()
            matrix[1, 2] += by if name == moved else 0.0
            gram = matrix @ matrix.T if name.endswith("lora_A") else matrix.T @ matrix
            total += float(((gram - torch.eye(FIRST)) ** 2).sum() ** 0.5)
        return 0.5 * total / len(factors)

    for leaf in trainable.leaves.values():
        leaf.grad = torch.ones_like(leaf)
    trainable.hook.gradient(1)
    for name, leaf in list(factors.items())[:2]:
        slope = (penalty(name, 1e-4) - penalty(name, -1e-4)) / 2e-4
        assert abs(float(leaf.grad[1, 2]) - 1 - slope) < 1e-6
    assert all(bool((leaf.grad == 1).all()) for name, leaf in trainable.leaves.items() if name not in factors)
    unused = next(leaf for name, leaf in trainable.leaves.items() if name not in factors)
    unused.grad = None  # as in a matrix that the model does not use
    trainable.hook.gradient(2)
    assert bool((unused.grad == 0).all())
    trainable.undo()


def test_rank_goes_where_it_matters(tiny_folder: Path) -> None:
    """A triplet scores smoothed sensitivities times uncertainties; the budget falls by a cubic (sections 3.2, 3.3)."""
    base = load_base(str(tiny_folder), head=3)
    trainable = Trainable(base, specify(base.layout, f"adalora@{RANK}"))
    leaves, hook = trainable.leaves, trainable.hook
    hook.start(STEPS, 0)
    targets = [name.removesuffix(".lora_E") for name in leaves if name.endswith(".lora_E")]
    mean = {name: torch.zeros(leaf.shape, dtype=torch.float64) for name, leaf in leaves.items()}
    spread = {name: value.clone() for name, value in mean.items()}
    generator, last = torch.Generator().manual_seed(3), None
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.add_(torch.randn(leaf.shape, generator=generator), alpha=0.1)
                leaf.grad = torch.randn(leaf.shape, generator=generator)
        before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        hook.stepped(step)
        assert hook.ready == (step >= STEPS - FINAL)
        if step < STEPS - FINAL:
            for name, leaf in leaves.items():
                sensitivity = (before[name].double() * leaf.grad.double()).abs()
                mean[name] = 0.85 * mean[name] + 0.15 * sensitivity
                spread[name] = 0.85 * spread[name] + 0.15 * (sensitivity - mean[name]).abs()
        if step > WARM and step <= STEPS - FINAL:
            part = (STEPS - FINAL - step) / (STEPS - FINAL - WARM)
            budget = int(len(targets) * (RANK + (FIRST - RANK) * part**3))
            scores = {}
            for target in targets:
                e, q, p = (mean[n] * spread[n] for n in (f"{target}.lora_{part}" for part in "EAB"))
                for row in range(FIRST):
                    scores[target, row] = float(e[row, 0] + q[row].mean() + p[:, row].mean())
            last = set(sorted(scores, key=scores.__getitem__)[-budget:])
        for target in targets:
            values, old = leaves[f"{target}.lora_E"].detach(), before[f"{target}.lora_E"]
            for row in range(FIRST):
                kept = last is None or (target, row) in last
                assert float(values[row, 0]) == (float(old[row, 0]) if kept else 0.0), step
        assert all(torch.equal(before[n], leaf) for n, leaf in leaves.items() if not n.endswith("lora_E"))
    assert last is not None
    assert len(last) == RANK * len(targets)
    trainable.undo()


def test_one_step_is_refused(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder), head=3)
    trainable = Trainable(base, specify(base.layout, "adalora"))
    with pytest.raises(SelectionError, match="2 steps or more"):
        trainable.hook.start(1, 0)
    trainable.hook.start(2, 0)
    trainable.undo()
