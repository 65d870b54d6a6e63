"""The C++ kernels against torch in float64 and against scipy, and how they are built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from normtune.errors import ConfigError
from normtune.fast.kernels import kernels
from tests.conftest import needs_compiler

pytestmark = needs_compiler

LENGTHS = [(7,), (1, 5, 0, 16, 17), (40, 3), (129,)]
HALF = 1 << 31


def parts(lengths: tuple[int, ...], heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Queries, keys and values of such texts, and where these start."""
    generator = torch.Generator().manual_seed(sum(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return torch.randn(int(starts[-1]), 3 * heads * width, generator=generator, dtype=torch.float64), starts


def attention(qkv: Tensor, starts: Tensor, heads: int, scale: float) -> Tensor:
    """Text by text, head by head."""
    texts = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        query, key, value = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in qkv[start:end].chunk(3, 1))
        texts.append((((query @ key.mT) * scale).softmax(-1) @ value).transpose(0, 1).flatten(1))
    return torch.cat(texts)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("width", [8, 12, 16, 32, 64])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_attention_and_its_gradient_are_torchs(
    lengths: tuple[int, ...], width: int, dtype: torch.dtype, bound: float
) -> None:
    (qkv, starts), heads, scale = parts(lengths, 3, width), 3, width**-0.5
    qkv.requires_grad_()
    expected = attention(qkv, starts, heads, scale)
    gradient = torch.randn_like(expected)
    (to_qkv,) = torch.autograd.grad(expected, qkv, gradient)
    own = qkv.detach().to(dtype)
    found, sums = kernels().attend(own, starts, heads, scale, 0, 0)
    back = kernels().attend_back(gradient.to(dtype), own, sums, starts, heads, scale, 0, 0)
    assert found.dtype == back.dtype == dtype
    assert (found - expected).abs().max() <= bound * expected.abs().max()
    assert (back - to_qkv).abs().max() <= bound * to_qkv.abs().max()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("width", [8, 12, 32])
@pytest.mark.parametrize("threshold", [0, HALF])
def test_attention_over_bfloat16_is_float32s_rounded(lengths: tuple[int, ...], width: int, threshold: int) -> None:
    (qkv, starts), ways = parts(lengths, 3, width), (3, width**-0.5, 99, threshold)
    own = qkv.bfloat16()
    gradient = torch.randn(len(own), 3 * width).bfloat16()
    expected, exact_sums = kernels().attend(own.float(), starts, *ways)
    found, sums = kernels().attend(own, starts, *ways)
    assert torch.equal(found, expected.bfloat16())
    assert torch.equal(sums, exact_sums)
    back = kernels().attend_back(gradient, own, sums, starts, *ways)
    assert torch.equal(back, kernels().attend_back(gradient.float(), own.float(), sums, starts, *ways).bfloat16())


def test_scores_far_from_zero_neither_overflow_nor_vanish() -> None:
    qkv, starts = parts((9, 5), 2, 16)
    qkv[:, :32] = 30.0 * qkv[:, :32] - 100.0
    qkv[:, 32:64] += 40.0
    expected = attention(qkv, starts, 2, 0.25)
    found, sums = kernels().attend(qkv.float(), starts, 2, 0.25, 0, 0)
    assert bool(sums.isfinite().all())
    torch.testing.assert_close(found.double(), attention(qkv.float().double(), starts, 2, 0.25), rtol=2e-3, atol=2e-3)
    assert bool(expected.isfinite().all())


@pytest.mark.parametrize("lengths", [(7,), (3, 20)])
def test_gradients_with_dropout_are_the_differences_of_outputs(lengths: tuple[int, ...]) -> None:
    qkv, starts = parts(lengths, 2, 8)
    gradient = torch.randn(len(qkv), 16, dtype=torch.float64)

    def outputs(at: Tensor) -> Tensor:
        found: Tensor = kernels().attend(at, starts, 2, 0.3, 12345, HALF)[0]
        return found

    sums = kernels().attend(qkv, starts, 2, 0.3, 12345, HALF)[1]
    back = kernels().attend_back(gradient, qkv, sums, starts, 2, 0.3, 12345, HALF)
    for _ in range(5):
        step = torch.randn_like(qkv)
        change = (outputs(qkv + 1e-6 * step) - outputs(qkv - 1e-6 * step)) / 2e-6
        assert float((change * gradient).sum()) == pytest.approx(float((back * step).sum()), rel=1e-6, abs=1e-8)


def mask(seed: int, rate: float, rows: int = 400, width: int = 100) -> np.ndarray:
    """What dropout makes of ones."""
    values, one = torch.ones(rows, width), torch.ones(width)
    kernels().join(torch.zeros(rows, width), values, values, one, one, 1e-12, seed, round(rate * 2**32))
    return values.numpy()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_has_its_rate_and_is_independent(rate: float) -> None:
    found = [mask(seed, rate) for seed in (1, 2, 1 << 32, (1 << 32) + 1, 12345678901234567)]
    for one in found:
        kept = np.unique(one)
        assert kept == pytest.approx([0.0, 1 / (1 - rate)])
    dropped = np.array([one.ravel() == 0.0 for one in found], float) - rate
    deviation = np.sqrt(rate * (1 - rate))
    bound = 4.5 / np.sqrt(dropped.shape[1])
    assert np.abs(dropped.mean(1)).max() < bound * deviation
    # Masks of like seeds are neither alike nor one another's shifts; neighbours and rows know nothing of each other.
    for shift in (0, 1, 2, 15, 16, 100, 101):
        turned = np.roll(dropped, shift, 1)
        between = dropped @ turned.T / dropped.shape[1] / deviation**2
        own = np.eye(len(found), dtype=bool) if shift == 0 else np.zeros((len(found),) * 2, bool)
        assert np.abs(between[~own]).max() < bound
    # Rows drop as many as chance has it.
    counts = (found[0] == 0.0).sum(1)
    assert counts.var() == pytest.approx(100 * rate * (1 - rate), rel=0.25)


def test_the_same_seed_drops_the_same() -> None:
    assert np.array_equal(mask(7, 0.1), mask(7, 0.1))
    assert not np.array_equal(mask(7, 0.1), mask(8, 0.1))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_how_many_threads_there_are_changes_no_draw(threads: None) -> None:
    (qkv, starts), found = parts((30, 20, 5), 4, 8), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append([mask(3, 0.2), kernels().attend(qkv, starts, 4, 0.3, 5, HALF)[0].numpy()])
    for one in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], one, strict=True))


@pytest.mark.parametrize("width", [5, 16, 37, 384])
@pytest.mark.parametrize("threshold", [0, HALF])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_joined_norm_and_its_gradients_are_torchs(
    width: int, threshold: int, dtype: torch.dtype, bound: float
) -> None:
    generator = torch.Generator().manual_seed(width)
    residual, values, gradient = (torch.randn(33, width, generator=generator, dtype=torch.float64) for _ in range(3))
    weight, bias = (torch.randn(width, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    ones = torch.ones(33, width, dtype=torch.float64)
    kernels().join(torch.zeros_like(ones), ones, ones, weight.detach(), bias.detach(), 1e-6, 99, threshold)
    residual.requires_grad_()
    values.requires_grad_()
    expected = torch.nn.functional.layer_norm(residual + values * ones, (width,), weight, bias, 1e-6)
    grads = torch.autograd.grad(expected, [residual, values, weight, bias], gradient)
    given = [each.detach().to(dtype, copy=True) for each in (residual, values, weight, bias)]
    found, mean, scale = kernels().join(*given[:2], *given[1:], 1e-6, 99, threshold)
    to_joined, to_values, to_weight, to_bias = kernels().join_back(
        gradient.to(dtype), given[1], mean, scale, given[2], 99, threshold, True
    )
    to_values = to_values if threshold else to_joined
    for one, two in zip([expected, *grads], [found, to_joined, to_values, to_weight, to_bias], strict=True):
        assert (one - two).abs().max() <= bound * one.abs().max()
    without = kernels().join_back(gradient.to(dtype), given[1], mean, scale, given[2], 99, threshold, False)
    assert torch.equal(without[0], to_joined)


@pytest.mark.parametrize("width", [5, 16, 37, 384])
@pytest.mark.parametrize("threshold", [0, HALF])
def test_bfloat16_is_joined_to_float32(width: int, threshold: int) -> None:
    residual, values = torch.randn(33, width), torch.randn(33, width).bfloat16()
    norm, ways = (torch.randn(width), torch.randn(width)), (1e-6, 99, threshold)
    both, written = values.float(), torch.empty_like(residual)
    expected = kernels().join(residual, both, both, *norm, *ways)
    found = kernels().join(residual, values, written, *norm, *ways)
    assert torch.equal(written, both)
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
    with pytest.raises(RuntimeError, match="joined to float32"):
        kernels().join(residual.double(), values, written.double(), *(part.double() for part in norm), *ways)


@pytest.mark.parametrize("count", [1, 16, 40000])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 2e-7), (torch.bfloat16, 4e-3)])
def test_gelu_is_x_times_the_normal_distribution(count: int, dtype: torch.dtype, bound: float) -> None:
    x = torch.linspace(-9.0, 9.0, count, dtype=torch.float64).to(dtype)
    gradient = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact, grads = x.double().numpy(), gradient.double().numpy()
    density = np.exp(-0.5 * exact**2) / np.sqrt(2 * np.pi)
    expected = exact * ndtr(exact), grads * (ndtr(exact) + exact * density)
    found, back = kernels().gelu(x), gradient.clone()
    kernels().gelu_back(back, x)
    for one, two in zip(expected, (found, back), strict=True):
        assert np.abs(two.double().numpy() - one).max() <= bound * np.abs(one).max() + 1e-300


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(kernels().gelu(x), kernels().gelu(x.float()).bfloat16())


def test_without_a_compiler_or_with_a_failing_one_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"need a C\+\+ compiler, and 'no-such-compiler' is none; use --layers fused"):
        kernels.__wrapped__()
    failing = tmp_path / "c++"
    failing.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(ConfigError, match=r"could not be built; use --layers fused.*error: no such thing"):
        kernels.__wrapped__()
    assert list((tmp_path / "built" / "normtune").iterdir()) == []
