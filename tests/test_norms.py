"""docs/norms.md: the equations are torch's, each shortcoming holds, and the page is what the script says."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "norms.py"


@pytest.fixture(scope="module")
def norms() -> ModuleType:
    found = importlib.util.spec_from_file_location("norms", SCRIPT)
    assert found is not None
    assert found.loader is not None
    sys.modules["norms"] = module = importlib.util.module_from_spec(found)  # dataclasses look the module up there
    found.loader.exec_module(module)
    return module


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs whose mean and spread differ by row and column, a weight and a bias."""
    torch.manual_seed(0)
    x = torch.randn(6, 16, dtype=torch.float64) * torch.rand(16).add(0.5) + torch.arange(6.0)[:, None]
    return x, torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_the_equations_are_those_of_torch(norms: ModuleType, given: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = given
    close(norms.layer_norm(x, weight, bias), functional.layer_norm(x, (16,), weight, bias, norms.EPS))
    batch = functional.batch_norm(x, None, None, weight, bias, training=True, eps=norms.EPS)
    close(norms.batch_norm(x, weight, bias), batch)
    close(norms.rms_norm(x, weight), functional.rms_norm(x, (16,), weight, norms.EPS))


def test_a_row_by_hand(norms: ModuleType) -> None:
    """Of 1, 2, 6 the mean is 3 and the variance 14 / 3."""
    row, two = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
    expected = [2 * (x - 3) / math.sqrt(14 / 3 + norms.EPS) + 2 for x in (1, 2, 6)]
    close(norms.layer_norm(row, two, two), torch.tensor([expected], dtype=torch.float64), atol=1e-12)


def test_1_outputs_vary_with_small_batches(norms: ModuleType) -> None:
    batch, layer = norms.batch_size().values()
    assert batch == sorted(batch, reverse=True)
    assert batch[-5] / batch[-1] == pytest.approx(4, rel=0.1)  # 16 and 256: one over the root of the size
    assert max(layer) < 1e-12
    close(norms.NORMS["BatchNorm"](norms.normal(2, 4)).abs(), torch.ones(2, 4, dtype=torch.float64), atol=0.01)
    with pytest.raises(ValueError, match="more than 1 value"):
        torch.nn.BatchNorm1d(4)(torch.zeros(1, 4))


def test_2_one_set_of_statistics_does_not_fit_the_steps(norms: ModuleType) -> None:
    batch, layer = norms.recurrent().values()
    assert batch[0] < batch[1] < batch[2] < batch[3] < 1 < batch[-1]
    assert batch[0] < 0.6
    assert all(value == pytest.approx(1, abs=1e-3) for value in layer)


def test_3_a_shift_at_inference_comes_through(norms: ModuleType) -> None:
    batch, layer = norms.inference().values()
    assert batch == pytest.approx([*norms.SHIFTS], abs=0.05)
    assert layer == pytest.approx([0] * 5, abs=1e-9)
    x = norms.normal(8, 4)
    for module, same in ((torch.nn.BatchNorm1d(4), False), (torch.nn.LayerNorm(4), True)):
        assert torch.equal(module.double().train()(x), module.eval()(x)) is same


def test_4_outputs_depend_on_the_other_examples(norms: ModuleType) -> None:
    batch, layer = norms.dependence().values()
    assert (batch > 0).all()
    assert norms.to_others(batch) > 0.2
    assert torch.equal(layer, layer.diagonal().diag())
    x, step = norms.normal(norms.EXAMPLES, 16), 1e-6 * norms.normal(1, 16, seed=1)
    moved = norms.NORMS["BatchNorm"](torch.cat([x[:1] + step, x[1:]])) - norms.NORMS["BatchNorm"](x)
    assert (moved[1:].norm(dim=1) <= 1.01 * batch[1:, 0] * step.norm()).all()
    assert (moved[1:].norm(dim=1) > 0.05 * batch[1:, 0] * step.norm()).all()


def test_5_the_gradient_grows_with_depth(norms: ModuleType) -> None:
    batch, layer = norms.depth().values()
    assert batch[0] ** (1 / norms.LAYERS) == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=0.01)
    assert layer[0] ** (1 / norms.LAYERS) == pytest.approx(1, abs=0.02)
    for one, three in zip(norms.depth(width=64).values(), norms.depth(scale=3.0, width=64).values(), strict=True):
        assert one == pytest.approx(three, rel=0.02)


def test_variants(norms: ModuleType, given: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = given
    close(norms.simple_norm(x), torch.nn.LayerNorm(16, norms.EPS, elementwise_affine=False)(x))
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    kept = functional.layer_norm(x, (16,), weight, bias) + weight * mean / (variance + norms.EPS).sqrt()
    close(norms.variance_norm(x, weight, bias), kept)
    close(norms.rms_norm(x - mean, weight), functional.layer_norm(x, (16,), weight, None))


def test_power_norm(norms: ModuleType, given: tuple[Tensor, Tensor, Tensor]) -> None:
    """The examples of a batch are independent; on a batch that repeats, output and gradient become exact."""
    x, weight, bias = given
    alone = norms.PowerNorm(torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64))
    together = replace(alone)
    assert torch.equal(
        alone(x[:1].clone().requires_grad_(), weight, bias), together(x.requires_grad_(), weight, bias)[:1]
    )
    x = x.detach()
    exact, lagging = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = weight * exact / (exact.square().mean(0) + norms.EPS).sqrt() + bias
    loss = norms.normal(6, 16, seed=2)
    [gradient] = torch.autograd.grad((out * loss).sum(), exact)
    for _ in range(200):
        again = together(lagging, weight, bias)
        [approximate] = torch.autograd.grad((again * loss).sum(), lagging)
    close(again, out)
    close(together(x[:2], weight, bias), again[:2])  # as at inference
    close(approximate, gradient, atol=1e-4)  # one has EPS inside the mean square, the other beside it


def test_normformer(norms: ModuleType) -> None:
    torch.manual_seed(0)
    x, added = torch.randn(2, 5, 32), {}
    for extra in (False, True):
        layer = norms.NormFormer(32, 4, extra)
        torch.nn.init.zeros_(layer.down.weight)
        before = layer(x)
        with torch.no_grad():
            layer.out.weight.mul_(10)
            layer.out.bias.mul_(10)
            added[extra] = float((layer(x) - x - layer.down.bias).norm() / (before - x - layer.down.bias).norm())
        added[extra, "entries"] = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert added[False] == pytest.approx(10, rel=1e-3)
    assert added[True] == pytest.approx(1, rel=1e-2)
    assert added[True, "entries"] - added[False, "entries"] == 10 * 32 + 4


@pytest.mark.slow
def test_the_picture_is_drawn(norms: ModuleType, tmp_path: Path) -> None:
    with matplotlib.rc_context():
        norms.draw(str(tmp_path / "norms.svg"))
    assert (tmp_path / "norms.svg").read_text(encoding="utf-8").count('<g id="axes_') == 6


def test_the_page_is_what_the_script_says(norms: ModuleType) -> None:
    page = (ROOT / "docs" / "norms.md").read_text(encoding="utf-8")
    assert "\n".join(norms.rows()) + "\n\n" in page
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        assert block in SCRIPT.read_text(encoding="utf-8")
