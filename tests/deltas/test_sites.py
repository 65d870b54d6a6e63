"""Sites: each row with its own values, against a float64 loop over the rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from normtune.deltas.sites import AnySite, HeadSite, LinearSite, NormSite, Site, site_of
from normtune.errors import ModelError

ROWS, TOKENS, WIDTH = 3, 4, 8


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(row: Tensor, eps: float) -> Tensor:
    row = row.double()
    return (row - row.mean(-1, keepdim=True)) / (row.var(-1, keepdim=True, unbiased=False) + eps).sqrt()


@pytest.mark.parametrize("shape", [(ROWS, TOKENS, WIDTH), (ROWS, WIDTH), (ROWS * TOKENS, WIDTH), (ROWS, 2, 2, WIDTH)])
@pytest.mark.parametrize("given", [("weight",), ("bias",), ("weight", "bias"), ()])
@pytest.mark.parametrize("common", [False, True])
def test_norms(shape: tuple[int, ...], given: tuple[str, ...], common: bool) -> None:
    norm = nn.LayerNorm(WIDTH)
    with torch.no_grad():
        norm.weight.copy_(drawn(WIDTH, seed=1))
        norm.bias.copy_(drawn(WIDTH, seed=2))
    site = NormSite(norm)
    rows = {name: drawn(1 if common else ROWS, WIDTH, seed=3 + len(name)) for name in given}
    site.values = {name: value[0] if common else value for name, value in rows.items()}
    inputs = drawn(*shape)
    with torch.inference_mode():
        got = norm(inputs.clone()).reshape(ROWS, -1, WIDTH)
    for row, (one, result) in enumerate(zip(inputs.reshape(ROWS, -1, WIDTH), got, strict=True)):
        own = {name: value[0 if common else row].double() for name, value in rows.items()}
        weight, bias = own.get("weight", norm.weight.double()), own.get("bias", norm.bias.double())
        torch.testing.assert_close(result.double(), normalised(one, norm.eps) * weight + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [LinearSite, AnySite])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_layers(kind: type[Site], biased: bool) -> None:
    linear = nn.Linear(WIDTH, 5)
    site, inputs, biases = kind(linear), drawn(ROWS, TOKENS, WIDTH), drawn(ROWS, 5, seed=1)
    if biased:
        site.values["bias"] = biases
    with torch.inference_mode():
        got = linear(inputs)
    for row in range(ROWS):
        own = biases[row] if biased else linear.bias
        expected = inputs[row].double() @ linear.weight.double().T + own.double()
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in linear.named_parameters()] == ["weight", "bias"]


def test_other_norms() -> None:
    norm = LlamaRMSNorm(WIDTH)
    site, inputs, weights = AnySite(norm), drawn(ROWS, TOKENS, WIDTH), drawn(ROWS, WIDTH, seed=1)
    site.values["weight"] = weights
    got = norm(inputs)
    for row in range(ROWS):
        one = inputs[row].double()
        expected = one / (one.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[row].double()
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(norm.weight, nn.Parameter)
    site.values.clear()
    torch.testing.assert_close(norm(inputs), LlamaRMSNorm(WIDTH)(inputs))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(4, WIDTH), (4, TOKENS, WIDTH)])
def test_heads(biased: bool, shape: tuple[int, ...]) -> None:
    head = nn.Linear(WIDTH, 2)
    site, inputs = HeadSite(head), drawn(*shape)
    weights = [drawn(outputs, WIDTH, seed=outputs) for outputs in (2, 5, 1)]
    weights.append(weights[0])
    biases = [drawn(len(weight), seed=9) for weight in weights]
    site.bind(list(zip(weights, biases if biased else [None] * 4, strict=True)))
    with torch.inference_mode():
        got = head(inputs)
    assert got.shape == (*shape[:-1], 5)
    for row, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        expected = inputs[row].double() @ weight.double().T + (bias.double() if biased else 0)
        torch.testing.assert_close(got[row, ..., : len(weight)].double(), expected, rtol=1e-5, atol=1e-5)
        assert not got[row, ..., len(weight) :].any()
    with pytest.raises(ModelError, match="rows of a batch"):
        head(inputs[:3])


def test_rows_that_do_not_fit_are_refused() -> None:
    norm = nn.LayerNorm(WIDTH)
    NormSite(norm).values["weight"] = drawn(ROWS, WIDTH)
    with pytest.raises(ModelError, match="rows of a batch"):
        norm(drawn(TOKENS, ROWS, WIDTH))


def test_which_site_a_vector_gets() -> None:
    assert site_of(nn.LayerNorm(4), "weight") is NormSite
    assert site_of(nn.Linear(4, 4), "bias") is LinearSite
    assert site_of(nn.RMSNorm(4), "weight") is AnySite
    assert site_of(nn.Conv1d(4, 4, 1), "bias") is AnySite
    odd = nn.Module()
    odd.register_parameter("q_bias", nn.Parameter(torch.zeros(4)))
    assert site_of(odd, "q_bias") is None
