"""Wanda's inputs, against a loop over single tokens in float64, and by hand."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from normtune.data.encode import Encoded
from normtune.errors import ImportanceError
from normtune.importance.activations import feature_norms
from normtune.importance.masks import top
from normtune.importance.scores import Inputs, magnitude, wanda
from normtune.methods.expression import select
from normtune.models.base import Base, wrap
from tests.importance.reference import TASKS, in_float64, stay_in_float64, texts

SAMPLE = texts(TASKS["two"], (5, 9, 3), types=True)


def by_loop(base: Base, encoded: Encoded) -> dict[str, np.ndarray]:
    """|w| times its input's norm, for each parameter that torch's linear, norm and embedding functions see.

    Token by token, with the sums kept entry by entry.
    """
    model = base.model.eval()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sums = defaultdict[str, Any](float)
    originals = functional.linear, functional.layer_norm, functional.embedding, torch.addmm

    def tokens(x):
        return x.detach().reshape(-1, x.shape[-1])

    def see(parameter, row):
        if id(parameter) in names:
            sums[names[id(parameter)]] = sums[names[id(parameter)]] + row**2

    def linear(x, weight, bias=None):
        for token in tokens(x):
            see(weight, token.expand(weight.shape))
            see(bias, torch.ones(weight.shape[0], dtype=torch.float64))
        return originals[0](x, weight, bias)

    def addmm(bias, x, weight):
        for token in tokens(x):
            see(weight, token[:, None].expand(weight.shape))
            see(bias, torch.ones(weight.shape[1], dtype=torch.float64))
        return originals[3](bias, x, weight)

    def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
        for token in tokens(x):
            see(weight, (token - token.mean()) / (token.var(unbiased=False) + eps).sqrt())
            see(bias, torch.ones_like(token))
        return originals[1](x, shape, weight, bias, eps)

    def embedding(ids, weight, *more, **named):
        for number in ids.flatten():
            see(weight, (torch.arange(len(weight)) == number)[:, None].expand(weight.shape).double())
        return originals[2](ids, weight, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        for name, own in (("linear", linear), ("layer_norm", layer_norm), ("embedding", embedding)):
            patch.setattr(functional, name, own)
        patch.setattr(torch, "addmm", addmm)
        for number in range(len(encoded)):
            model(**{field: rows[number][None] for field, rows in encoded.fields.items()})
    values = {name: model.get_parameter(name).detach().abs() for name in sums}
    return {name: (values[name] * torch.sqrt(sums[name])).flatten().numpy() for name in sums}


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "opt"])
def test_wanda_is_the_loop_over_tokens(make_base, family: str) -> None:
    base = in_float64(make_base(family))
    sample = SAMPLE if family == "bert" else texts(TASKS["two"], (5, 9, 3))
    expected = by_loop(base, sample)
    candidates = select(base.layout, "full")
    assert {*candidates.chosen} <= expected.keys()
    found = wanda(Inputs(base, candidates, texts=sample))
    for name in candidates.chosen:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    part = select(base.layout, "random + layernorm")
    for name, values in wanda(Inputs(base, part, texts=sample)).values.items():
        assert np.array_equal(values, found.values[name][part.indices(name)])


@pytest.mark.parametrize("family", ["llama", "gemma2", "t5"])
def test_a_norm_of_a_familys_own_multiplies_the_normalised_input(monkeypatch, make_base, family: str) -> None:
    stay_in_float64(monkeypatch)
    base = in_float64(make_base(family))
    norms = select(base.layout, "all-layernorm")
    seen = defaultdict[str, Any](float)
    handles = []
    for name, module in base.model.named_modules():
        if f"{name}.weight" in norms.chosen:

            def watch(module, args, output, name=f"{name}.weight"):
                (x,) = args
                for token in x.detach().reshape(-1, x.shape[-1]):
                    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
                    seen[name] = seen[name] + token**2 / (token.square().mean() + eps)

            handles.append(module.register_forward_hook(watch))
    sample = texts(TASKS["two"], (5, 9, 3))
    for number in range(len(sample)):
        base.model(**sample.batch([number]))
    for handle in handles:
        handle.remove()
    found = feature_norms(base, sample, norms.chosen)
    assert found.keys() == seen.keys() == {*norms.chosen}
    for name, squares in seen.items():
        np.testing.assert_allclose(found[name], squares.sqrt().numpy(), rtol=1e-6, err_msg=name)


class Tiny(nn.Module):
    """A layer over two features per token, small enough for Wanda by hand."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input_ids):
        return self.layer(torch.tensor([[3.0, 0.0], [4.0, 1.0]])[input_ids])


@pytest.mark.parametrize("turned", [False, True])
def test_two_by_two_by_hand(turned: bool) -> None:
    weight = torch.tensor([[1.0, -20.0], [-2.0, 5.0]])
    layer = Conv1D(2, 2) if turned else nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(weight.t() if turned else weight)
    base = cast(Base, SimpleNamespace(model=Tiny(layer), device="cpu"))
    sample = Encoded({"input_ids": (torch.tensor([0, 1]), torch.tensor([0, 0]))}, None, {"input_ids": 0})
    # Three tokens (3, 0) and one (4, 1): norms sqrt(27 + 16) and 1; sqrt(4) for a bias.
    norms = feature_norms(base, sample, ["layer.weight", "layer.bias"])
    expected = np.array([[43**0.5, 1.0], [43**0.5, 1.0]])
    np.testing.assert_allclose(norms["layer.weight"], (expected.T if turned else expected).flatten())
    np.testing.assert_allclose(norms["layer.bias"], [2.0, 2.0])
    # |w| times the norm: 6.6 and 20 in the first row, 13.1 and 5 in the second, where magnitude takes the other.
    assert np.abs(weight.numpy() * expected).argmax(1).tolist() == [1, 0]
    assert weight.abs().argmax(1).tolist() == [1, 1]


def test_the_model_is_left_as_it_was(tiny_base: Base) -> None:
    model = tiny_base.model.train()
    candidates = select(tiny_base.layout, "full")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    once, again = (wanda(Inputs(tiny_base, candidates, texts=SAMPLE)) for _ in range(2))
    assert all(np.array_equal(values, again.values[name]) for name, values in once.values.items())  # without dropout
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wanda_and_magnitude_rank_otherwise(tiny_base: Base) -> None:
    given = Inputs(tiny_base, select(tiny_base.layout, "full"), texts=SAMPLE)
    assert top(wanda(given), fraction=0.1) != top(magnitude(given), fraction=0.1)


def test_a_tied_embedding_is_no_one_input(make_base) -> None:
    base = wrap(AutoModelForCausalLM.from_config(make_base("gpt2").model.config))
    with pytest.raises(ImportanceError, match=r"'transformer.wte.weight' is used as a table and as a matrix, so that"):
        wanda(Inputs(base, select(base.layout, "full"), texts=texts(TASKS["two"], (5, 9))))


def test_what_has_no_input_is_refused(make_base) -> None:
    base = make_base("xlnet")
    with pytest.raises(ImportanceError, match="no linear layer, convolution, norm or embedding uses it"):
        wanda(Inputs(base, select(base.layout, "full"), texts=texts(TASKS["two"], (5, 9))))
