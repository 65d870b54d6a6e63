from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normtune.importance.uses import Watch

EXAMPLES, TOKENS, WIDTH = 3, 4, 5


class Norm(torch.autograd.Function):
    """A scaling that torch's modes do not see."""

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs, weight)
        return inputs * weight

    @staticmethod
    def backward(ctx, grad):
        inputs, weight = ctx.saved_tensors
        return grad * weight, (grad * inputs).flatten(0, -2).sum(0)


def chunked(p, x):
    scale, shift = p.long.chunk(2)
    return x * scale + shift


def in_place(p, x):
    hidden = functional.linear(x, p.square, p.bias)
    hidden += x
    hidden = hidden * p.scale
    return hidden.relu_()


def rows(x):
    """Row numbers that differ between the examples, some of them twice in one."""
    return (x[..., 0] * 10).long().abs() % 6


#: What a model may do with its parameters (x is of shape (B, T, 5)), where every use is understood.
REGULAR = {
    "linear": lambda p, x: functional.linear(x, p.matrix, p.seven),
    "linear of two dimensions": lambda p, x: functional.linear(x[:, 1], p.matrix, p.seven),
    "linear of four dimensions": lambda p, x: functional.linear(x.unflatten(1, (2, 2)), p.matrix, p.seven),
    "linear of flattened tokens": lambda p, x: functional.linear(x.flatten(0, 1), p.matrix).unflatten(0, x.shape[:2]),
    "addmm of flattened tokens": lambda p, x: torch.addmm(p.bias, x.flatten(0, 1), p.square).view(x.shape),
    "linear twice": lambda p, x: functional.linear(functional.linear(x, p.square, p.bias).tanh(), p.square, p.bias),
    "linear of different lengths": lambda p, x: (
        functional.linear(x, p.square).sum(1) + functional.linear(x[:, :2], p.square).sum(1)
    ),
    "only the bias trains": lambda p, x: functional.linear(x, torch.ones(5, 5).double(), p.bias),
    "changed in place": in_place,
    "layer norm": lambda p, x: functional.layer_norm(x, [5], p.scale, p.bias),
    "layer norm without bias": lambda p, x: functional.layer_norm(x, [5], weight=p.scale, eps=0.1),
    "rms norm": lambda p, x: functional.rms_norm(x, [5], p.scale, 0.1),
    "scale": lambda p, x: x * p.scale,
    "scale from the left": lambda p, x: p.scale * x,
    "torch.mul": lambda p, x: torch.mul(p.scale, x),
    "shift": lambda p, x: x + p.bias,
    "shift from the left": lambda p, x: p.bias + x,
    "torch.add": lambda p, x: torch.add(x, p.bias),
    "one plus": lambda p, x: x * (1 + p.scale),
    "one plus, the other way": lambda p, x: x * (p.scale + 1.0),
    "one plus, in float": lambda p, x: (x.float() * (1.0 + p.scale.float())).double(),
    "cast": lambda p, x: x * p.scale.to(torch.float32).to(x.dtype).type_as(x).contiguous(),
    "scale of heads": lambda p, x: (x.unflatten(1, (2, 2)).transpose(1, 2) * p.scale).flatten(1, 2),
    "scale and shift by the same": lambda p, x: (x * p.scale).tanh() + p.scale,
    "several times": lambda p, x: ((x * p.scale).tanh() * p.scale + p.bias).tanh() + p.bias,
    "embedding": lambda p, x: functional.embedding(rows(x), p.table),
    "embedding with padding": lambda p, x: functional.embedding(rows(x), p.table, padding_idx=2),
    "embedding with padding from the end": lambda p, x: functional.embedding(rows(x), p.table, -2),
    "embedding twice": lambda p, x: (
        functional.embedding(rows(x), p.table).tanh() + functional.embedding(rows(x * 2), p.table)
    ),
    "positions for all": lambda p, x: x[..., :4] + functional.embedding(torch.arange(4)[None], p.table),
    "positions for each": lambda p, x: x[..., :4] + functional.embedding(torch.arange(4).expand(len(x), 4), p.table),
    "norm by name": lambda p, x: functional.layer_norm(input=x, normalized_shape=[5], weight=p.scale, bias=p.bias),
    "embedding by name": lambda p, x: functional.embedding(input=rows(x), weight=p.table),
    "detached": lambda p, x: x * p.scale + (x * p.bias).detach() + x * p.bias.detach(),
    "made like it": lambda p, x: x * p.scale + torch.zeros_like(p.bias) + p.bias.new_ones(5),
    "not used": lambda p, x: x + 0 * x,
    "used for nothing": lambda p, x: [x * p.scale, x * 2][1],
    "without gradient": lambda p, x: [x * p.scale, without_gradient(p, x)][1] * 2,
}

#: The same, where something is not understood; what else the model does still is.
IRREGULAR = {
    "squared": lambda p, x: x * p.scale**2,
    "one minus": lambda p, x: x * (1 - p.scale),
    "minus": lambda p, x: x - p.bias,
    "divided": lambda p, x: x / p.scale,
    "times a number": lambda p, x: x * (2 * p.scale),
    "times itself": lambda p, x: x * (p.scale * p.scale),
    "added with a factor": lambda p, x: torch.add(x, p.bias, alpha=3),
    "one plus with a factor": lambda p, x: x * torch.add(p.scale, 1, alpha=2),
    "split": chunked,
    "indexed": lambda p, x: x * p.scale[0],
    "viewed": lambda p, x: x * p.scale.view(1, 1, 5),
    "in a list": lambda p, x: x * torch.cat([p.scale[:2], p.bias[2:]]),
    "in a longer list": lambda p, x: x * torch.stack([p.scale, p.bias]).sum(0),
    "in place": lambda p, x: x.clone().mul_(p.scale),
    "along the tokens": lambda p, x: x[:, :, :4] * p.four[:, None],
    "matmul": lambda p, x: x @ p.square,
    "transposed": lambda p, x: functional.linear(x, p.square.t()),
    "einsum": lambda p, x: torch.einsum("bti,oi->bto", x, p.matrix),
    "baddbmm": lambda p, x: torch.baddbmm(p.bias, x, p.square.expand(len(x), 5, 5)),
    "addmm with factors": lambda p, x: torch.addmm(p.bias, x.flatten(0, 1), p.square, beta=2).view(x.shape),
    "norm of two dimensions": lambda p, x: functional.layer_norm(x, [4, 5], p.whole),
    "batch norm": lambda p, x: functional.batch_norm(x.mean(1), None, None, p.scale, training=True),
    "looked up by slicing": lambda p, x: x[..., :4] + p.table[:4],
    "its norm": lambda p, x: x * p.square.norm(),
    "by name": lambda p, x: functional.linear(input=x, weight=p.square, bias=p.bias),
    "product by name": lambda p, x: torch.mul(input=x, other=p.scale) + torch.add(input=p.bias, other=x),
    "a relative position for all": lambda p, x: (
        x + functional.embedding((torch.arange(4)[:, None] + torch.arange(3))[None], p.table).sum((2, 3))[..., None]
    ),
    "a relative position of each pair": lambda p, x: (
        x + functional.embedding(torch.arange(6)[:, None] * torch.arange(4) % 6, p.table).sum((0, 2))[:, None]
    ),
    "positions without examples": lambda p, x: x[..., :4] + functional.embedding(torch.arange(4), p.table)[None],
}


@torch.no_grad()
def without_gradient(p: nn.ParameterDict, x: Tensor) -> Tensor:
    return functional.linear(x * p.scale, p.square, p.bias)


@pytest.fixture
def parameters():
    generator = torch.Generator().manual_seed(1)
    shapes = {"matrix": (7, 5), "square": (5, 5), "table": (6, 4), "whole": (4, 5)}
    shapes |= {"scale": (5,), "bias": (5,), "seven": (7,), "four": (4,), "long": (10,)}
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return nn.ParameterDict({name: nn.Parameter(value, requires_grad=False) for name, value in made.items()})


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(EXAMPLES, TOKENS, WIDTH, generator=generator, dtype=torch.float64)


def answers(outputs):
    """One number an example, in which everything takes part differently."""
    weights = torch.linspace(1, 2, outputs[0].numel(), dtype=outputs.dtype).view(outputs.shape[1:])
    return (outputs * weights).tanh().flatten(1).sum(1)


def watched(function, parameters, x, ways=None):
    """Per-example gradients put together from the factors, by name."""
    factors = defaultdict(list)
    watch = Watch(dict(parameters), len(x), lambda name, factor: factors[name].append(factor), ways)
    with watch:
        outputs = function(parameters, x)
    if outputs.requires_grad:
        answers(outputs).sum().backward()
    found = {name: torch.zeros(len(x), *value.shape, dtype=torch.float64) for name, value in parameters.items()}
    for name, uses in factors.items():
        for factor in uses:
            assert factor.grad.shape[0] == len(x)
            for i in range(len(x)):
                found[name][i] += gradient(factor, i, parameters[name])
    return watch, found


def gradient(factor, i, parameter):
    if factor.kind == "vector":
        return factor.grad[i].sum(0)
    total = torch.zeros_like(parameter)
    for out, seen in zip(factor.grad[i], factor.inputs[i], strict=True):
        if factor.kind == "table":
            total[seen] += out
        else:
            total += torch.outer(seen, out) if factor.turned else torch.outer(out, seen)
    return total


def by_hand(function, parameters, x):
    own = dict(parameters)
    found = {name: torch.zeros(len(x), *value.shape, dtype=torch.float64) for name, value in own.items()}
    parameters.requires_grad_(True)
    for i in range(len(x)):
        value = answers(function(parameters, x[i : i + 1])).sum()
        if value.requires_grad:
            grads = torch.autograd.grad(value, [*own.values()], allow_unused=True)
            for name, grad in zip(own, grads, strict=True):
                found[name][i] = 0 if grad is None else grad
    parameters.requires_grad_(False)
    return found


@pytest.mark.parametrize("case", REGULAR)
def test_what_is_understood_is_right(case, parameters):
    function, x = REGULAR[case], data()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if case in {"cast", "one plus, in float"} else {}
    wanted = by_hand(function, parameters, x)
    watch, found = watched(function, parameters, x)
    assert not watch.irregular
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    # The second time it is known how the examples lie, in another number of them as well.
    for again in (data(1), data(1)[:2], data(1)[:1]):
        watch, found = watched(function, parameters, again, watch.ways)
        assert not watch.irregular
        for name, value in by_hand(function, parameters, again).items():
            torch.testing.assert_close(found[name], value, **tolerance)


@pytest.mark.parametrize("case", IRREGULAR)
def test_what_is_not_understood_is_said_and_the_rest_is_right(case, parameters):
    function, x = IRREGULAR[case], data()
    # A batch norm has no per-example gradients at all.
    wanted = by_hand(function, parameters, x) if case != "batch norm" else None
    watch, found = watched(function, parameters, x)
    assert watch.irregular
    for name in parameters.keys() - watch.irregular if wanted else ():
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("function", [*REGULAR.values(), *IRREGULAR.values()], ids=[*REGULAR, *IRREGULAR])
def test_the_outputs_are_the_models_own(function, parameters):
    x = data()
    with torch.no_grad():
        plain = function(parameters, x)
    with Watch(dict(parameters), len(x), lambda *_: None):
        seen = function(parameters, x)
    assert torch.equal(plain, seen.detach())


def test_the_kinds(parameters):
    def function(p, x):
        hidden = functional.linear(x, p.square, p.bias) * p.scale
        return torch.addmm(p.seven, hidden[:, 0], p.matrix.detach().t()), functional.embedding(rows(x), p.table)

    factors = {}
    with Watch(dict(parameters), EXAMPLES, factors.__setitem__):
        one, other = function(parameters, data())
    (one.sum() + other.sum()).backward()
    shapes = {name: (own.kind, own.turned, tuple(own.grad.shape)) for name, own in factors.items()}
    assert shapes == {
        "square": ("matrix", False, (3, 4, 5)),
        "bias": ("vector", False, (3, 4, 5)),
        "scale": ("vector", False, (3, 4, 5)),
        "seven": ("vector", False, (3, 1, 7)),
        "table": ("table", False, (3, 4, 4)),
    }
    assert not factors["square"].grad.requires_grad
    assert not factors["square"].inputs.requires_grad


def test_how_the_examples_lie(parameters):
    def ways(function):
        return dict(watched(function, parameters, data())[0].ways)

    assert ways(REGULAR["linear"]) == {"matrix": ["batched"], "seven": ["batched"]}
    assert ways(REGULAR["linear of flattened tokens"]) == {"matrix": ["flattened"]}
    assert ways(REGULAR["positions for all"]) == {"table": ["shared"]}
    assert ways(REGULAR["several times"]) == {"scale": ["batched"] * 2, "bias": ["batched"] * 2}
    first = watched(lambda p, x: x.transpose(0, 1) * p.scale, parameters, data())[0]
    assert first.irregular == {"scale"}  # 4 tokens come first, which 3 examples cannot share


def test_a_function_that_modes_do_not_see_gives_nothing(parameters):
    watch, found = watched(lambda p, x: Norm.apply(x, p.scale) * p.bias, parameters, data())
    assert watch.ways.keys() == {"bias"}  # so that a check against plain differentiation finds it
    assert not found["scale"].any()


def test_a_use_beyond_the_known_ones_is_irregular(parameters):
    watch, _ = watched(lambda p, x: x * p.scale, parameters, data())
    again, _ = watched(lambda p, x: (x * p.scale) * p.scale + p.bias, parameters, data(), watch.ways)
    assert again.irregular == {"scale", "bias"}


def test_several_passes_hand_over_anew(parameters):
    taken = []
    with Watch({"scale": parameters.scale}, EXAMPLES, lambda name, factor: taken.append((name, factor.grad))):
        outputs = data() * parameters.scale
    for _ in range(2):
        outputs.sum().backward(retain_graph=True)
    assert [name for name, _ in taken] == ["scale", "scale"]
    torch.testing.assert_close(taken[0][1], taken[1][1])


def test_nothing_is_kept_on_the_parameters(parameters):
    before = {name: (value.clone(), value.requires_grad) for name, value in parameters.items()}
    for function in (*REGULAR.values(), *IRREGULAR.values()):
        watched(function, parameters, data())
    for name, value in parameters.items():
        assert value.grad is None
        assert torch.equal(value, before[name][0])
        assert value.requires_grad == before[name][1]
        assert not value._backward_hooks
