"""Diff pruning against the paper's definition, in float64 and with torch's own derivatives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normtune.errors import SelectionError
from normtune.methods import diff_pruning as code
from normtune.methods.diff_pruning import DiffPruning, diff_pruning, gate_of, slope_of, soft_gate
from normtune.methods.selection import Selection
from normtune.models.base import load_base
from normtune.models.layout import Layout
from tests.conftest import BaseFactory

SIZE = 40


def drawn(alpha: Tensor, noise: Tensor) -> Tensor:
    """z = min(1, max(0, s (r - l) + l)), s = sigmoid(log u - log(1 - u) + alpha) (Guo et al. 2021, section 3.1)."""
    soft = torch.sigmoid(noise.log() - (1 - noise).log() + alpha)
    return (soft * 3.0 - 1.5).clamp(0, 1)


def test_gates_and_their_slopes() -> None:
    alpha = torch.linspace(-4, 4, 200, dtype=torch.float64, requires_grad=True)
    noise = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = drawn(alpha, noise)
    [slope] = torch.autograd.grad(wanted.sum(), alpha)
    soft = soft_gate(alpha.detach(), noise)
    torch.testing.assert_close(gate_of(soft), wanted.detach())
    torch.testing.assert_close(slope_of(soft), slope)
    assert {0.0, 1.0} <= {float(value) for value in gate_of(soft)}


@pytest.fixture(scope="module")
def layout(make_base: BaseFactory) -> Layout:
    return make_base("bert", num_hidden_layers=1).layout


def made(layout: Layout) -> tuple[DiffPruning, dict[str, nn.Parameter], Tensor]:
    """The hook on a layout's parameters, these parameters, and a linear loss: one coefficient for each entry."""
    generator = torch.Generator().manual_seed(0)
    leaves = {p.parameter: nn.Parameter(torch.randn(p.shape, generator=generator)) for p in layout.body}
    return DiffPruning(layout, SIZE, leaves), leaves, torch.randn(layout.size, generator=generator)


def flat(leaves: dict[str, nn.Parameter]) -> Tensor:
    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves.values()])


def test_it_trains_differences_and_gates_and_keeps_the_largest(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves of a training by plain gradient descent, against autograd on the paper's objective.

    It is L(theta + z_g z w) + lambda sum sigmoid(alpha - log(-l / r)) sigmoid(alpha_g - log(-l / r)), in float64, with
    the same uniform numbers.
    """
    monkeypatch.setattr(code, "PENALTY", 0.02)
    monkeypatch.setattr(code, "FIRST", 0.5)
    noises: list[list[Tensor]] = []
    uniform = code.uniform

    def told(like: Tensor, generator: torch.Generator) -> Tensor:
        noises[-1].append(uniform(like, generator))
        return noises[-1][-1]

    monkeypatch.setattr(code, "uniform", told)
    hook, leaves, slopes = made(layout)
    origin, lengths = flat(leaves).double(), torch.tensor([leaf.numel() for leaf in leaves.values()])
    noises.append([])
    hook.start(6, 9)
    w = torch.zeros(layout.size, dtype=torch.float64, requires_grad=True)
    alpha = torch.full((layout.size,), 0.5, dtype=torch.float64, requires_grad=True)
    group = torch.full((len(lengths),), 0.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([alpha, group], lr=0.1)
    offset, each = math.log(1.5 / 1.5), lambda values: values.repeat_interleave(lengths)

    def placed(noise: list[Tensor]) -> Tensor:
        own = torch.cat(noise[1:]).double()
        return origin + drawn(alpha, own) * each(drawn(group, noise[0].double())) * w

    for step in range(1, 4):
        noise = noises[-1]
        theta = placed(noise)
        torch.testing.assert_close(flat(leaves).double(), theta.detach(), rtol=1e-5, atol=1e-6)
        count = (torch.sigmoid(alpha - offset) * each(torch.sigmoid(group - offset))).sum()
        loss = (slopes.double() * theta + 0.1 * theta**2).sum()
        pulls = torch.autograd.grad(loss + 0.02 * count, (w, alpha, group))
        for leaf, part in zip(leaves.values(), slopes.split(lengths.tolist()), strict=True):
            leaf.grad = part.view_as(leaf) + 0.2 * leaf.detach()
        hook.gradient(step)
        found = torch.cat([leaf.grad.reshape(-1) for leaf in leaves.values()])
        torch.testing.assert_close(found.double(), pulls[0], rtol=1e-4, atol=1e-5)
        alpha.grad, group.grad = pulls[1:]
        adam.param_groups[0]["lr"] = 0.1 * (4 - step) / 3
        adam.step()
        with torch.no_grad():
            w -= 0.1 * pulls[0]
            for leaf in leaves.values():
                leaf -= 0.1 * leaf.grad
        assert not hook.ready
        noises.append([])
        hook.stepped(step)
    assert hook.ready
    difference = placed(noises[-1]).detach() - origin
    kept = difference.abs().argsort()[-SIZE:]
    wanted = origin.clone()
    wanted[kept] += difference[kept]
    torch.testing.assert_close(flat(leaves).double(), wanted, rtol=1e-5, atol=1e-6)
    for step in range(4, 7):
        for leaf in leaves.values():
            leaf.grad = torch.ones_like(leaf)
        hook.gradient(step)
        assert sum(int(leaf.grad.sum()) for leaf in leaves.values()) == SIZE
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.add_(1.0)  # as momentum might, everywhere
        hook.stepped(step)
    wanted[kept] += 3 * 10  # at ten times the rate, which has fallen to a half by then
    torch.testing.assert_close(flat(leaves).double(), wanted, rtol=1e-5, atol=1e-6)
    spec, values = hook.result({name: leaf.detach().reshape(-1) for name, leaf in leaves.items()})
    assert isinstance(spec, Selection)
    positions = torch.cat(
        [torch.zeros(0, dtype=torch.long)] + [torch.from_numpy(spec.indices(n)) + s for n, s in starts(layout)]
    )
    assert set(positions.tolist()) == set(kept.tolist())
    assert torch.equal(torch.cat([*values.values()]), flat(leaves)[positions])


def starts(layout: Layout) -> list[tuple[str, int]]:
    found, start = [], 0
    for place in layout.body:
        found.append((place.parameter, start))
        start += place.size
    return found


def test_its_size_is_half_a_per_cent_unless_given(tiny_folder: Path) -> None:
    layout = load_base(str(tiny_folder)).layout
    assert len(diff_pruning(layout)) == round(0.005 * layout.size)
    assert len(diff_pruning(layout, option=7)) == 7
    for size in (0, layout.size + 1):
        with pytest.raises(SelectionError, match="takes a number of entries of 1 to"):
            diff_pruning(layout, option=size)
