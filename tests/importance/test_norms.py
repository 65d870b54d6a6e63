from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normtune.data.encode import Encoded, encode
from normtune.data.task import Split
from normtune.fast.first_token import FAMILIES
from normtune.importance import gradients, norms
from normtune.importance.fisher import Counter, Fisher, Request, fisher
from normtune.importance.gradients import PerExample
from normtune.importance.masks import top
from normtune.importance.norms import FusedNorms
from normtune.importance.scores import Scores
from normtune.importance.squares import norm_sums
from normtune.importance.tally import Tally
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.records.fisher import ESTIMATORS, Estimator
from tests.conftest import BaseFactory
from tests.importance.reference import TASKS, assert_same, by_loop, in_float64, texts

#: The module, whose name the function took.
counting: ModuleType = importlib.import_module("normtune.importance.fisher")

BOTH = "layernorm + attention-layernorm"

#: Of unequal lengths, as people write them.
SENTENCES = (
    "She left the keys under the third flower pot, where nobody would think of looking.",
    "It rains.",
    "The committee has not yet said whether it will meet again before the summer.",
    "What the bridge costs is known; who pays for it, how long the work takes and which road stays open is not.",
    "Why me?",
    "Two of the seven boats that set out on Sunday came back with broken masts, and the oldest of them did not.",
    "Nobody asked the children what they thought.",
)


@pytest.fixture(autouse=True)
def _even_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused layers for as few tokens as the tests have."""
    monkeypatch.setattr(norms, "WORTH", 0)


def fused_plan(base: Base, encoded: Encoded, method: str = BOTH) -> bool:
    """Whether normalisations' gradients come out of fused layers."""
    return PerExample(base, select(base.layout, method).chosen, encoded).plan.norms is not None


def entries_of(found: Fisher) -> dict[str, np.ndarray]:
    assert found.scores is not None
    return dict(found.scores.values)


def measured(base: Base, task: str, encoded: Encoded, within: Selection, **more: Any) -> Fisher:
    return fisher(base, TASKS[task], encoded, Request(within, within, **more))


def wanted_of(base: Base, task: str, encoded: Encoded, within: Selection, **more: Any) -> dict[str, Tensor]:
    found = by_loop(base, TASKS[task], encoded, names=within.chosen, **more)
    return {name: value.flatten()[within.indices(name)] for name, value in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_is_the_loop_by_hand(family: str, estimator: str, make_base: BaseFactory) -> None:
    base, task = in_float64(make_base(family)), [*TASKS][FAMILIES.index(family)]
    encoded, own = texts(TASKS[task], types=family == "bert"), Estimator(name=estimator, samples=2, seed=3)
    within = select(base.layout, BOTH)
    found = measured(base, task, encoded, within, estimator=own, head_seeds=(5,), tokens=30)
    assert_same(entries_of(found), wanted_of(base, task, encoded, within, estimator=own, seed=5))
    assert not found.slow
    assert fused_plan(base, encoded)


@pytest.mark.parametrize(
    "method", ["layernorm", "attention-layernorm", "layernorm@2", "layernorm@0", "output.LayerNorm.bias", "mask"]
)
def test_whatever_normalisations_are_wanted(method: str, make_base: BaseFactory) -> None:
    base = in_float64(make_base("bert"))
    encoded, layout = texts(TASKS["three"]), base.layout
    if method == "mask":
        names = [f"bert.encoder.layer.{layer}.output.LayerNorm.weight" for layer in (0, 2)]
        within = Selection(layout, {name: np.array([1, 5, 31]) for name in names})
    elif method == "output.LayerNorm.bias":
        names = [f"bert.encoder.layer.{layer}.output.LayerNorm.bias" for layer in range(3)]
        within = Selection(layout, {name: np.arange(32) for name in names})
    else:
        within = select(layout, method)
    found = measured(base, "three", encoded, within)
    wanted = wanted_of(base, "three", encoded, within)
    assert_same(entries_of(found), wanted)
    assert_same(found.totals, wanted)
    assert PerExample(base, within.chosen, encoded).plan.norms is not None


def test_padding_contributes_nothing(make_base: BaseFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(counting.PADDING, "cpu", 10_000)
    for family in ("bert", "roberta"):
        base = in_float64(make_base(family))
        encoded, within = texts(TASKS["two"], (5, 50, 4, 6, 5, 7)), select(base.layout, BOTH)
        counter = Counter(base, TASKS["two"], encoded, Request(within, tokens=10_000))
        assert [len(batch) for batch in counter.batches(np.arange(6))] == [6]  # all as long as the longest
        assert counter.plan.norms is not None
        found = measured(base, "two", encoded, within, tokens=10_000)
        assert_same(entries_of(found), wanted_of(base, "two", encoded, within))


@pytest.fixture(scope="module")
def in_double(minilm: Base) -> Base:
    """A copy of MiniLM in float64, with a head of its own."""
    whole = copy.deepcopy(minilm)
    return in_float64(whole)


def test_minilm_on_real_texts_is_the_loop_in_float64(minilm: Base, in_double: Base) -> None:
    split = Split.of_texts(SENTENCES, labels=np.array([1, 0, 1, 0, 0, 1, 1]))
    encoded = encode(split, minilm.need_tokenizer(), 128)
    assert len(set(encoded.lengths)) > 4
    within = select(minilm.layout, BOTH)
    wanted = wanted_of(in_double, "two", encoded, within)
    exact = measured(in_double, "two", encoded, select(in_double.layout, BOTH))
    assert_same(entries_of(exact), wanted)
    single = measured(minilm, "two", encoded, within)
    assert fused_plan(minilm, encoded)
    largest = max(float(values.max()) for values in wanted.values())
    assert_same(entries_of(single), wanted, rtol=1e-3, zero=1e-6)
    assert single.totals == pytest.approx({n: float(v.sum()) for n, v in wanted.items()}, rel=1e-4, abs=1e-9 * largest)
    reference = Scores(within, {name: values.numpy().astype(np.float32) for name, values in wanted.items()})
    for fraction in (0.05, 0.1, 0.2, 0.5):
        assert single.scores is not None
        assert top(single.scores, fraction=fraction) == top(reference, fraction=fraction)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (6, 4, 4, 1), (1, 7, 0, 7), (15,)])
def test_sums_of_rows_are_each_examples_own(lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    grad, inputs = (torch.randn(15, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mean = inputs.mean(1, keepdim=True)
    scale = 1 / (inputs.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    before = grad.clone()
    weight, bias = norm_sums(grad, lengths, (inputs, mean, scale)), norm_sums(grad, lengths)
    assert torch.equal(grad, before)
    for example, length in enumerate(lengths):
        norm = nn.LayerNorm(4, dtype=torch.float64)
        own = slice(sum(lengths[:example]), sum(lengths[:example]) + length)
        norm(inputs[own]).backward(grad[own])
        assert norm.weight.grad is not None
        assert norm.bias.grad is not None
        torch.testing.assert_close(weight[example], norm.weight.grad, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(bias[example], norm.bias.grad, rtol=1e-12, atol=1e-12)


def test_rows_given_to_another_example_are_found(make_base: BaseFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row too far: the check on the first examples sees it, and the gradients come out another way."""
    base = in_float64(make_base("bert"))
    encoded, within = texts(TASKS["two"]), select(base.layout, "layernorm")
    assert fused_plan(base, encoded, "layernorm")
    monkeypatch.setattr(norms, "norm_sums", lambda grad, *others: norm_sums(grad.roll(1, 0), *others))
    assert not fused_plan(base, encoded, "layernorm")
    found = measured(base, "two", encoded, within)
    assert_same(entries_of(found), wanted_of(base, "two", encoded, within))


def hooked(layer: Any) -> None:
    """A change in a part that fused layers pass by."""
    layer.output.dense.register_forward_hook(lambda _module, _args, output: output * 1.5)


def hooked_in_the_norm(layer: Any) -> None:
    """Another."""
    layer.attention.output.LayerNorm.register_forward_pre_hook(lambda _module, args: (args[0] * 1.5 + 1,))


def replaced(layer: Any) -> None:
    """A part of a user's own."""

    class Own(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).tanh()

    own = Own(32, 48, dtype=torch.float64).requires_grad_(False)
    own.load_state_dict(layer.intermediate.dense.state_dict())
    layer.intermediate.dense = own


def not_noticed(layer: Any) -> None:
    """One that nothing shows: only the numbers tell."""
    kind = type(layer.output)

    def forward(own: Any, hidden: Tensor, inputs: Tensor) -> Tensor:
        result: Tensor = own.LayerNorm(own.dense(hidden) * 1.5 + inputs)
        return result

    layer.output.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "forward": forward})


def another_activation(layer: Any) -> None:
    """One that fused layers do not know."""
    layer.intermediate.intermediate_act_fn = nn.SiLU()


CHANGES = [hooked, hooked_in_the_norm, replaced, not_noticed, another_activation]


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_is_computed_as_it_is(change: Any, number: int, make_base: BaseFactory) -> None:
    base = in_float64(make_base("bert"))
    change(base.model.bert.encoder.layer[number])
    encoded, within = texts(TASKS["two"]), select(base.layout, BOTH)
    found = measured(base, "two", encoded, within)
    assert_same(entries_of(found), wanted_of(base, "two", encoded, within))
    # What is done to the last layer's feed-forward part runs there too: it is torch's.
    assert fused_plan(base, encoded) == (number == 2 and change is not_noticed)


@pytest.mark.parametrize(("one", "other", "fuses"), [(0, 1, True), (0, 2, False)])
def test_layers_that_share_a_norm(one: int, other: int, fuses: bool, make_base: BaseFactory) -> None:
    base = in_float64(make_base("bert"))
    layers = base.model.bert.encoder.layer
    layers[other].output.LayerNorm = layers[one].output.LayerNorm
    base.refresh()
    encoded, within = texts(TASKS["two"]), select(base.layout, BOTH)
    found = measured(base, "two", encoded, within)
    assert_same(entries_of(found), wanted_of(base, "two", encoded, within))
    assert fused_plan(base, encoded) == fuses


def test_what_else_is_wanted_or_elsewhere_stays(make_base: BaseFactory) -> None:
    base, encoded = make_base("bert"), texts(TASKS["two"])
    assert fused_plan(base, encoded)
    for method in ("full", "bitfit", "output.dense", "layernorm + pooler.dense"):
        assert not fused_plan(base, encoded, method)
    for other in (make_base("bert", hidden_act="gelu_new"), make_base("electra"), make_base("mpnet")):
        assert not fused_plan(other, encoded, "layernorm")
    base.model.bfloat16()
    assert not fused_plan(base, encoded)


def test_weights_are_laid_out_once_and_the_model_is_left_as_it_was(make_base: BaseFactory) -> None:
    base, encoded = make_base("bert"), texts(TASKS["two"])
    model = base.model.train()
    for parameter in [*model.parameters()][::2]:
        parameter.requires_grad_()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    names = select(base.layout, BOTH).chosen
    per_example = PerExample(base, names, encoded)
    assert per_example.plan.norms is not None

    def passes(outputs: Tensor, _: np.ndarray) -> Iterator[Tensor]:
        yield outputs[:, 0]
        if broken:
            raise ZeroDivisionError

    for broken in (False, True):
        tally = Tally([], names, per_example.parameters)
        if broken:
            with pytest.raises(ZeroDivisionError):
                per_example.add(np.arange(7), passes, tally)
        else:
            per_example.add(np.arange(7), passes, tally)
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training
        assert "forward" not in vars(model.bert.encoder)


def test_heads_share_what_was_laid_out_and_few_tokens_do_without(
    make_base: BaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(gradients, "FusedNorms", lambda *of: made.append(of) or FusedNorms(*of))
    base = in_float64(make_base("bert"))
    encoded, within = texts(TASKS["two"]), select(base.layout, "layernorm")
    found = measured(base, "two", encoded, within, head_seeds=(3, 4))
    assert len(made) == 1
    monkeypatch.setattr(norms, "WORTH", int(encoded.lengths.sum()) + 1)
    plain = measured(base, "two", encoded, within, head_seeds=(3, 4))
    assert len(made) == 1
    for one, other in zip(found.by_seed, plain.by_seed, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
