from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normtune.models.precision import Float32Module, in_float32

LOW = [torch.bfloat16, torch.float16]


@pytest.fixture
def inputs():
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [*LOW, torch.float32, torch.float64])
def test_a_module_in_float32_takes_any_float(dtype, inputs):
    linear = nn.Linear(6, 2)
    expected = linear(inputs.to(dtype).float())
    result = in_float32(linear)(inputs.to(dtype))
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_it_raises_named_inputs_and_leaves_whole_numbers_and_the_rest_alone(inputs):
    class Seen(nn.Module):
        def forward(self, first, *, hidden, ids, flag):
            return first.dtype, hidden.dtype, ids.dtype, flag

    seen = in_float32(Seen())(inputs.half(), hidden=inputs.bfloat16(), ids=torch.arange(3), flag="x")
    assert seen == (torch.float32, torch.float32, torch.int64, "x")


def test_gradients_pass_through_it(inputs):
    low = inputs.bfloat16().requires_grad_()
    in_float32(nn.Linear(6, 2))(low).sum().backward()
    assert low.grad.dtype == torch.bfloat16
    assert low.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", LOW)
def test_a_raised_norm_computes_in_float32_and_answers_in_the_models_dtype(dtype, inputs):
    torch.manual_seed(0)
    norm = nn.LayerNorm(6).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    exact = copy.deepcopy(norm).float()(inputs.to(dtype).float())
    Float32Module(norm)
    result = norm(inputs.to(dtype))
    assert norm.weight.dtype == norm.bias.dtype == torch.float32
    assert result.dtype == dtype
    assert torch.equal(result, exact.to(dtype))


@pytest.mark.parametrize("dtype", LOW)
def test_a_raised_norm_holds_updates_that_the_low_dtype_would_lose(dtype):
    norm = nn.LayerNorm(6).to(dtype)
    Float32Module(norm)
    with torch.no_grad():
        norm.weight.add_(1e-5)
    assert (norm.weight != 1).all()
    assert (norm.weight.to(dtype) == 1).all()


def test_undo_puts_the_norm_back_to_the_bit(inputs):
    norm = nn.LayerNorm(6).bfloat16()
    parameters = dict(norm.named_parameters())
    values = {name: value.clone() for name, value in norm.state_dict().items()}
    before = norm(inputs.bfloat16())
    raised = Float32Module(norm)
    with torch.no_grad():
        norm.weight.mul_(3)
    assert not torch.equal(norm(inputs.bfloat16()), before)
    raised.undo()
    assert [*norm.state_dict()] == [*values]
    assert all(norm.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in values.items())
    assert torch.equal(norm(inputs.bfloat16()), before)
    assert not norm._forward_hooks
    assert not norm._forward_pre_hooks


def test_undo_goes_where_the_model_went():
    norm = nn.BatchNorm1d(6).bfloat16()
    raised = Float32Module(norm)
    norm.to("meta")
    raised.undo()
    assert all(value.is_meta for value in (*norm.parameters(), *norm.buffers()))


def test_a_norm_without_bias_is_raised_too(inputs):
    norm = nn.LayerNorm(6, bias=False).bfloat16()
    raised = Float32Module(norm)
    assert norm.bias is None
    assert norm(inputs.bfloat16()).dtype == torch.bfloat16
    raised.undo()
    assert norm.bias is None
    assert norm.weight.dtype == torch.bfloat16
