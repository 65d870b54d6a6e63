from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import BartLearnedPositionalEmbedding
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from normtune.importance.uses import hooked, uses_of


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(4, 3), Conv1D(4, 3)
        self.table, self.places = nn.Embedding(5, 4, padding_idx=0), BartLearnedPositionalEmbedding(6, 4)
        self.norm, self.other = nn.LayerNorm(4), nn.Conv1d(4, 4, 1)
        self.extra = nn.Parameter(torch.ones(4))

    def forward(self, ids):
        hidden = self.norm(self.table(ids) + self.places(ids)) * self.extra
        return self.conv(self.linear(hidden))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_the_uses_of_each_parameter(model):
    uses = uses_of(model, dict(model.named_parameters()))
    found = {use.name: (use.kind, use.turned) for own in uses.values() for use in own}
    assert found == {
        "linear.weight": ("matrix", False),
        "linear.bias": ("shift", False),
        "conv.weight": ("matrix", True),
        "conv.bias": ("shift", True),
        "table.weight": ("table", False),
        "places.weight": ("table", False),
        "norm.weight": ("scale", False),
        "norm.bias": ("shift", False),
    }
    assert not uses_of(model, {"extra": model.extra})


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.RMSNorm(4, eps=0.1), LlamaRMSNorm(4), GemmaRMSNorm(4)], ids=repr)
def test_what_a_norms_weight_multiplies(norm):
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    ((use,),) = uses_of(norm, {"weight": norm.weight}).values()
    x = 3 * torch.randn(2, 5, 4) + 1
    norm.requires_grad_(True)
    outputs = norm(x)
    (wanted,) = torch.autograd.grad(outputs.sum(), norm.weight)
    torch.testing.assert_close(use.features(x).sum((0, 1)), wanted, rtol=1e-4, atol=1e-5)


def test_a_hook_sees_inputs_outputs_and_rows_and_may_change_them(model):
    seen = {}

    def hook(uses, inputs, output):
        seen.update({use.name: (inputs, output) for use in uses})
        return output * 0 if uses[0].name.startswith("conv") else None

    model.linear.register_forward_hook(lambda _module, _args, output: output + 1)
    ids = torch.tensor([[1, 2, 0]])
    plain = model(ids)
    with hooked(uses_of(model, dict(model.named_parameters())), hook):
        assert not model(ids).any()
    torch.testing.assert_close(model(ids), plain)
    assert seen.keys() == dict(model.named_parameters()).keys() - {"extra", "other.weight", "other.bias"}
    assert seen["table.weight"][0].tolist() == [[1, 2, 0]]
    assert seen["places.weight"][0].tolist() == [[2, 3, 4]]  # the rows it looks up, not its inputs
    inputs, output = seen["linear.weight"]
    torch.testing.assert_close(output, inputs @ model.linear.weight.t() + model.linear.bias)  # before any other hook
    assert [len(module._forward_hooks) for module in model.modules()].count(1) == 1


def test_hooks_are_taken_off_after_an_error(model):
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooked(uses_of(model, dict(model.named_parameters())), broken):
        model(torch.tensor([[1, 2]]))
    assert not any(module._forward_hooks for module in model.modules())
    model(torch.tensor([[1, 2]]))
