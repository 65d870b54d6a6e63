from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from normtune.errors import ModelError
from normtune.importance import estimators, squares
from normtune.importance.gradients import PerExample
from normtune.importance.tally import Tally
from normtune.models.base import wrap
from normtune.records.fisher import Estimator
from tests.importance.reference import TASKS, assert_same, stay_in_float64, texts
from tests.importance.test_squares import Sizes

#: The norm that the odd modules replace.
PLACE = "bert.encoder.layer.1.output.LayerNorm"


class Unseen(torch.autograd.Function):
    """A scaling as an autograd function of its own."""

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs, weight)
        return inputs * weight

    @staticmethod
    def backward(ctx, grad):
        inputs, weight = ctx.saved_tensors
        return grad * weight, (grad * inputs).flatten(0, -2).sum(0)


class Odd(nn.Module):
    """A module that uses its parameters, 32 wide, as `function` does."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        torch.manual_seed(3)
        self.linear, self.conv, self.table = nn.Linear(32, 32), Conv1D(32, 32), nn.Embedding(32, 32)
        self.norm, self.scale = nn.LayerNorm(32), nn.Parameter(torch.randn(32))
        nn.init.normal_(self.norm.weight)

    def forward(self, x):
        return self.function(self, functional.layer_norm(x, x.shape[-1:]))


class Squared(nn.LayerNorm):
    """A norm that is not linear in its weight."""

    def forward(self, x):
        return functional.layer_norm(x, x.shape[-1:], self.weight**2, self.bias)


def grown(odd, x):
    """Call the layer twice where there are many examples."""
    return odd.linear(x) if len(x) <= 5 else torch.cat([odd.linear(x[:, :1]), odd.linear(x[:, 1:])], 1)


def expert(odd, x):
    """Use the linear layer for one text alone, the norm for all others."""
    odd.first = x[:, :1, :1].detach()
    rare = (odd.first - odd.target).abs() < 1e-9
    return torch.where(rare, odd.linear(x), odd.norm(x)) if rare.any() else odd.norm(x)


def rolled(odd, x):
    """Add a linear layer's output for each position, whatever the text."""
    places = torch.sin(torch.outer(torch.arange(x.shape[1]).to(x.dtype) + 1, torch.arange(32).to(x.dtype) + 1))
    return x + odd.linear(places)


def rows(x):
    """Row numbers that differ between the examples, some of them twice in one."""
    return (x[..., 0] * 9).long().abs() % 32


def tied(odd, x):
    odd.linear.weight = odd.table.weight
    return x + odd.linear(odd.table(rows(x)))


def straight_and_turned(odd, x):
    odd.conv.weight = odd.linear.weight
    return odd.conv(odd.linear(x))


def squared(odd, x):
    odd.norm.__class__ = Squared
    return odd.norm(x)


def hooked_on(odd, x):
    """Use a layer that a user changed by a hook."""
    if not odd.linear._forward_hooks:
        odd.linear.register_forward_hook(lambda _module, _args, output: output.tanh() * 3)
    return odd.linear(x)


def in_place(odd, x):
    hidden = odd.linear(x)
    hidden += x
    return odd.norm(hidden).relu_()


def without_gradient(odd, x):
    with torch.no_grad():
        hidden = odd.linear(x)
    return odd.norm(x) + hidden.detach()


#: Functions, each with its slow parameters; the sums must be right for all.
ODD = {
    "linear": (lambda odd, x: odd.linear(x), set()),
    "linear twice": (lambda odd, x: odd.linear(odd.linear(x).tanh()), set()),
    "turned twice": (lambda odd, x: odd.conv(odd.conv(x).tanh()), set()),
    "linear of flattened tokens": (lambda odd, x: odd.linear(x.flatten(0, 1)).unflatten(0, x.shape[:2]), set()),
    "linear of two dimensions": (lambda odd, x: x + odd.linear(x[:, 0])[:, None], set()),
    "linear of four dimensions": (lambda odd, x: odd.linear(x[:, None].expand(-1, 2, -1, -1)).sum(1), set()),
    "linear of different lengths": (lambda odd, x: odd.linear(x) + odd.linear(x[:, :2]).sum(1, keepdim=True), set()),
    "by name": (lambda odd, x: odd.linear(input=x), set()),
    "in place": (in_place, {"linear.weight", "linear.bias"}),  # torch drops a hook on an in-place change
    "hooked": (hooked_on, set()),
    "without gradient": (without_gradient, set()),
    "norm twice": (lambda odd, x: odd.norm(odd.norm(x).tanh()), set()),
    "norm of heads": (lambda odd, x: odd.norm(x[:, None].expand(-1, 2, -1, -1)).transpose(1, 2).sum(2), set()),
    "not used": (lambda odd, x: x, set()),
    "used for nothing": (lambda odd, x: [odd.norm(x), odd.linear(x)][0], set()),
    "embedding twice": (lambda odd, x: x + odd.table(rows(x)).tanh() + odd.table(rows(2 * x)), set()),
    "positions": (lambda odd, x: x + odd.table(torch.arange(x.shape[1])[None]), set()),
    "positions for each": (lambda odd, x: x + odd.table(torch.arange(x.shape[1]).expand(x.shape[:2])), set()),
    "scaled": (lambda odd, x: x * odd.scale, {"scale"}),
    "unseen": (lambda odd, x: Unseen.apply(x, odd.scale), {"scale"}),
    "squared": (squared, {"norm.weight"}),
    "by its weight": (lambda odd, x: functional.linear(x, odd.linear.weight), {"linear.weight"}),
    "once by its weight": (lambda odd, x: odd.linear(x) @ odd.linear.weight, {"linear.weight"}),
    "straight and turned": (straight_and_turned, set()),
    "table and matrix": (tied, {"linear.weight"}),
    "tokens first": (
        lambda odd, x: odd.linear(x.transpose(0, 1)).transpose(0, 1),
        {"linear.weight", "linear.bias"},
    ),
    "linear of places": (rolled, {"linear.weight", "linear.bias"}),
    "positions without examples": (lambda odd, x: x + odd.table(torch.arange(x.shape[1]))[None], {"table.weight"}),
    "looked up by slicing": (lambda odd, x: x + odd.table.weight[: x.shape[1]], {"table.weight"}),
}


@pytest.fixture(autouse=True)
def _in_float64(monkeypatch):
    stay_in_float64(monkeypatch)


def put(make_model, function):
    model, odd = make_model("bert", num_hidden_layers=2), Odd(function).eval()
    odd(torch.zeros(1, 4, 32))  # some functions change the module when first called
    model.set_submodule(PLACE, odd)
    return wrap(model.requires_grad_(False).double())


def passes(outputs, _):
    return estimators.passes(Estimator(name="exact"), outputs, TASKS["two"], None, ())


def by_hand(base, encoded, numbers=None):
    """Squared gradients summed over examples, each alone and unpadded."""
    own = {place.parameter: base.model.get_parameter(place.parameter) for place in base.layout.body}
    for parameter in own.values():
        parameter.requires_grad_(True)
    sums = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
    for number in range(len(encoded)) if numbers is None else numbers:
        outputs = base.model(**{name: rows[number][None] for name, rows in encoded.fields.items()}).logits
        for value in passes(outputs, None):
            grads = torch.autograd.grad(value.sum(), [*own.values()], retain_graph=True, allow_unused=True)
            for name, grad in zip(own, grads, strict=True):
                sums[name] += 0 if grad is None else grad**2
    for parameter in own.values():
        parameter.requires_grad_(False)
    return sums


def count(base, encoded, batches=None, names=None, *, entries=True):
    """The tally of a `PerExample`, and the `PerExample` itself."""
    names = [place.parameter for place in base.layout.body] if names is None else names
    per_example = PerExample(base, names, encoded)
    tally = Tally(per_example.parameters, names if entries else ())
    for batch in batches or [range(len(encoded))]:
        per_example.add(np.array(batch), passes, tally)
    return tally, per_example


def flat(tally):
    return {name: values.flatten().numpy() for name, values in tally.entries.items()}


def slow_of(per_example):
    return {name.removeprefix(f"{PLACE}.") for name in per_example.slow}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_use_is_never_wrong(case, make_model):
    function, slow = ODD[case]
    base, encoded = put(make_model, function), texts(TASKS["two"])
    wanted = by_hand(base, encoded)
    for batches in ([range(7)], [[4, 1], [3, 0, 5, 6], [2]]):
        tally, per_example = count(base, encoded, batches)
        assert_same(flat(tally), wanted)
        assert slow_of(per_example) == slow
        assert tally.examples == 7
    tally, _ = count(base, encoded, entries=False)
    assert_same(tally.totals(), wanted)


def test_another_way_with_more_examples(make_model):
    base, encoded = put(make_model, grown), texts(TASKS["two"])
    batches = [[0, 1], [2, 3, 4, 5, 6, 0], [1, 2]]
    names = [f"{PLACE}.linear.{leaf}" for leaf in ("weight", "bias")]
    tally, per_example = count(base, encoded, batches, names)
    assert slow_of(per_example) == {"linear.weight", "linear.bias"}
    assert_same(flat(tally), by_hand(base, encoded, [*range(7), 0, 1, 2]))


def test_a_use_that_the_first_examples_did_not_show(make_model):
    base, encoded = put(make_model, lambda odd, x: odd.norm(x)), texts(TASKS["two"])
    odd = base.model.get_submodule(PLACE)
    odd.function, odd.target = expert, torch.inf
    base.model(**encoded.batch([1]))
    odd.target = float(odd.first)
    tally, per_example = count(base, encoded, [[0, 2], [1, 3], [4, 5, 6]])
    wanted = by_hand(base, encoded)
    assert wanted[f"{PLACE}.linear.bias"].any()
    assert_same(flat(tally), wanted)
    assert slow_of(per_example) == {"linear.weight", "linear.bias"}


def test_what_is_at_the_same_place_in_two_examples_is_told_apart(make_model):
    """The answer is read off the last token, so only texts of equal length meet at a position."""
    model = make_model("gpt2", n_layer=2)
    model.set_submodule("transformer.ln_f", Odd(rolled).eval())
    base, encoded = wrap(model.requires_grad_(False).double()), texts(TASKS["two"], (4, 7, 12, 12, 7, 4, 12))
    tally, per_example = count(base, encoded, [[2, 3, 6], [1, 4], [0, 5]])
    assert_same(flat(tally), by_hand(base, encoded))
    assert set(per_example.slow) == {"transformer.ln_f.linear.weight", "transformer.ln_f.linear.bias"}


def tokens_seen(model, layer):
    """A list that gets the number of tokens of each call of a layer's feed-forward part."""
    seen = []
    model.base_model.encoder.layer[layer].intermediate.register_forward_hook(
        lambda _, args, __: seen.append(args[0].shape[1])
    )
    return seen


@pytest.mark.parametrize("family", ["bert", "roberta", "camembert", "xlm-roberta"])
def test_the_last_layer_is_computed_for_the_first_token(family, make_base):
    base, encoded = make_base(family, num_hidden_layers=2), texts(TASKS["two"])
    base.model.double()
    _, per_example = count(base, encoded)
    assert per_example.short
    assert not per_example.slow
    seen = [tokens_seen(base.model, layer) for layer in (0, 1)]
    tally = Tally(per_example.parameters, per_example.parameters)
    per_example.add(np.arange(7), passes, tally)
    assert seen == [[12], [1]]
    assert_same(flat(tally), by_hand(base, encoded))


def every_token(layer):
    """A user's hook on a layer: it adds the second token's output to every token, so to the first."""
    layer.register_forward_hook(lambda _module, _args, output: output + output[:, 1:2])


def in_the_attention(layer):
    """A user's hook on a part that the short way skips."""
    layer.attention.self.register_forward_hook(lambda _module, _args, output: (output[0] * 1.5, *output[1:]))


def not_noticed(layer):
    """A change without a hook, which only the numbers reveal."""
    layer.attention.self.scaling *= 1.5
    layer.attention.self.register_buffer("more", torch.tensor(2.0, dtype=torch.float64))
    kind = type(layer.attention)
    forward = kind.forward
    layer.attention.__class__ = type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "forward": lambda own, *args, **kwargs: tuple(
                value * own.self.more if isinstance(value, torch.Tensor) else value
                for value in forward(own, *args, **kwargs)
            ),
        },
    )


@pytest.mark.parametrize("change", [every_token, in_the_attention, not_noticed])
def test_a_changed_last_layer_is_computed_whole(change, make_base):
    base, encoded = make_base("bert", num_hidden_layers=2), texts(TASKS["two"])
    base.model.double()
    change(base.model.bert.encoder.layer[1])
    tally, per_example = count(base, encoded)
    assert not per_example.short
    assert not per_example.slow
    assert_same(flat(tally), by_hand(base, encoded))


def test_a_layer_in_chunks_of_tokens(make_base):
    """The layer is used once per token, so more often in some batches than in others."""
    base, encoded = make_base("bert", num_hidden_layers=2, chunk_size_feed_forward=1), texts(TASKS["two"])
    base.model.double()
    tally, per_example = count(base, encoded, [[2, 5], [0, 1, 3, 6], [4]])
    assert_same(flat(tally), by_hand(base, encoded))
    assert not per_example.slow


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "gradient"])
@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "t5"])
def test_totals_by_both_ways(family, tokens, make_base, monkeypatch):
    monkeypatch.setattr(squares, "tokens_are_cheaper", lambda *_: tokens)
    base, encoded = make_base(family), texts(TASKS["two"])
    base.model.double()
    tally, _ = count(base, encoded, entries=False)
    assert_same(tally.totals(), by_hand(base, encoded))


def test_one_example_alone(make_base):
    base, encoded = make_base("xlnet"), texts(TASKS["two"])
    base.model.double()
    names = [place.parameter for place in base.layout.body]
    per_example = PerExample(base, names, encoded)
    tally = Tally(per_example.parameters, names)
    per_example.alone(3, passes, tally)
    assert_same(flat(tally), by_hand(base, encoded, [3]))
    assert tally.examples == 0


@pytest.mark.parametrize("family", ["xlnet", "bert"])
def test_only_what_nobody_uses(family, make_base):
    """XLNet's mask embedding is unused, and so are rows of a table that no text looks up."""
    base, encoded = make_base(family), texts(TASKS["two"])
    base.model.double()
    name = "transformer.mask_emb" if family == "xlnet" else "bert.embeddings.token_type_embeddings.weight"
    tally, _ = count(base, encoded, names=[name])
    rows = tally.entries[name]
    assert rows.shape == base.model.get_parameter(name).shape
    assert not (rows if family == "xlnet" else rows[1:]).any()
    assert family == "xlnet" or rows[0].any()


def test_a_model_that_answers_differently_each_time_is_refused(make_base):
    base, encoded = make_base("bert"), texts(TASKS["two"])
    dropping = base.model.bert.embeddings.register_forward_hook(
        lambda _module, _args, output: functional.dropout(output, 0.5, training=True)
    )
    with pytest.raises(ModelError, match="The model is not deterministic: it answers the same examples differently"):
        PerExample(base, ["bert.pooler.dense.bias"], encoded)
    dropping.remove()
    PerExample(base, ["bert.pooler.dense.bias"], encoded)


def test_numbers_that_are_none_are_no_sign_of_chance(make_base):
    base, encoded = make_base("bert"), texts(TASKS["two"])
    base.model.bert.embeddings.word_embeddings.weight[2] = torch.inf  # every text begins with this token
    tally, _ = count(base, encoded, names=["bert.pooler.dense.bias"])
    assert not tally.finite


def test_the_model_is_left_as_it_was(make_base):
    base, encoded = make_base("xlnet"), texts(TASKS["two"])
    model = base.model.train()
    model.transformer.layer[1].eval()
    for parameter in [*model.parameters()][::2]:
        parameter.requires_grad_(True)

    def picture():
        return (
            [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
            {name: module.training for name, module in model.named_modules()},
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        )

    before, values = picture(), {name: value.clone() for name, value in model.state_dict().items()}
    count(base, encoded)
    assert picture() == before
    with pytest.raises(ZeroDivisionError):
        count_with_an_error(base, encoded)
    assert picture() == before
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def count_with_an_error(base, encoded):
    names = [place.parameter for place in base.layout.body]
    per_example = PerExample(base, names, encoded)

    def broken(outputs, numbers):
        yield from passes(outputs, numbers)
        raise ZeroDivisionError

    per_example.add(np.arange(3), broken, Tally(per_example.parameters))


def test_it_works_where_gradients_are_off(make_base):
    base, encoded = make_base("bert", num_hidden_layers=1), texts(TASKS["two"])
    base.model.double()
    wanted = by_hand(base, encoded)
    with torch.no_grad():
        tally, _ = count(base, encoded)
    assert_same(flat(tally), wanted)


def test_the_memory_of_entries_is_bounded_whatever_the_batch(make_base):
    base = make_base("bert", num_hidden_layers=1, intermediate_size=96)
    encoded = texts(TASKS["two"], [4] * 40)
    per_example = PerExample(base, ["bert.encoder.layer.0.intermediate.dense.weight"], encoded)
    with Sizes() as sizes:
        per_example.add(np.arange(40), passes, Tally(per_example.parameters, per_example.parameters))
    assert sizes.largest <= 40 * 4 * 96  # the layer's outputs; all gradients would be 40 x 32 x 96
