"""What the rest of the package requires of every method: one table of tests for all of METHODS."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normtune.config import protocol
from normtune.data.encode import encode
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.errors import DeltaError, ModelError, SelectionError
from normtune.evaluation import logits
from normtune.importance.task_masks import measure
from normtune.methods.expression import specify, tune
from normtune.methods.top import Top
from normtune.methods.trainable import Hook, Spec, Trainable
from normtune.models.base import Base, load_base, wrap
from normtune.training import loop
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from tests.conftest import TEXT_METHODS as METHODS
from tests.training.test_session import StoppedError, assert_same_delta, comparable, data

TEXTS = Split.of_texts(("the cat sat", "a good film", "one dull old book is not very great"))
LABELLED = replace(TEXTS, labels=np.array([0, 1, 2]))
TASK = Task("mine", "Mine", "classification", ("a", "b", "c"), ("accuracy",))
# Once measured, child-tuning-d is the same as fish-mask.
EVERY = pytest.mark.parametrize("method", [name for name in METHODS if name != "child-tuning-d"])


#: The base that tests share while each leaves it as it was, with its values.
_SHARED: dict[Path, tuple[Base, dict[str, Tensor]]] = {}
#: By method, a trained delta and the model's answers before the method was undone.
_TRAINED: dict[str, tuple[Delta, np.ndarray]] = {}


@pytest.fixture
def base(tiny_folder: Path) -> Iterator[Base]:
    if tiny_folder not in _SHARED:
        made = load_base(str(tiny_folder), head=3)
        _SHARED[tiny_folder] = made, state(made)
    found, before = _SHARED[tiny_folder]
    yield found
    if not same(before, state(found)) or any(p.requires_grad for p in found.model.base_model.parameters()):
        del _SHARED[tiny_folder]


@pytest.fixture(scope="module")
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


def state(base: Base) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in base.model.state_dict().items()}


def batch(base: Base) -> dict[str, Tensor]:
    return encode(TEXTS, base.need_tokenizer(), 16).batch([0, 1, 2])


def spec_of(base: Base, method: str) -> Spec:
    """The method's spec, measured on the task where the method requires that."""
    spec = specify(base.layout, method, seed=5)
    if isinstance(spec, Top):
        return measure(base, spec, TaskData(TASK, {"train": LABELLED}, "memory"), LABELLED, 16).selection
    return spec


def trained(base: Base, method: str, steps: int = 3) -> Trainable:
    """The method on the base after a few large steps with much weight decay."""
    trainable = Trainable(base, spec_of(base, method))
    trainable.hook.start(steps, 5)
    optimizer = torch.optim.AdamW(trainable.param_groups(0.5), lr=0.05)
    for step in range(1, steps + 1):
        base.model(**batch(base), labels=torch.tensor([0, 1, 2])).loss.backward()
        trainable.hook.gradient(step)
        optimizer.step()
        trainable.hook.stepped(step)
        optimizer.zero_grad()
    return trainable


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@EVERY
def test_it_counts_what_an_optimizer_sees(base: Base, method: str) -> None:
    spec = spec_of(base, method)
    trainable = Trainable(base, spec)
    counts = specify(base.layout, method).counts(base.layout)
    groups = trainable.param_groups(0.1)
    seen = sum(leaf.numel() for leaf in trainable.leaves.values())
    assert len(spec) == counts.selected
    assert len(spec) == seen or type(trainable.hook) is not Hook or getattr(spec, "network", False)
    assert sum(p.numel() for group in groups for p in group["params"]) - seen == counts.trained - counts.selected
    assert counts.total == base.layout.size + base.layout.head_size + spec.added
    assert {p for group in groups for p in group["params"]} == {p for p in base.model.parameters() if p.requires_grad}
    trainable.undo()


@EVERY
def test_its_fingerprint_says_what_trains(base: Base, method: str) -> None:
    one, again, other = (specify(base.layout, method, seed=seed).fingerprint for seed in (5, 5, 6))
    assert one == again
    assert (one == other) is not METHODS[method].seeded
    assert len({specify(base.layout, name).fingerprint for name in METHODS}) == len(METHODS)


@EVERY
def test_nothing_else_moves_and_undo_is_to_the_bit(base: Base, method: str) -> None:
    before, flags = state(base), {p: p.requires_grad for p in base.model.parameters()}
    own = {*vars(base.model)}
    trainable = trained(base, method)
    places = {place.parameter for place in trainable.spec.places} | trainable.head.keys()
    for name, parameter in base.model.named_parameters():
        if name in before and name not in places:
            assert torch.equal(before[name], parameter), name
    trainable.undo()
    assert same(before, state(base))
    assert {*vars(base.model)} == own
    assert {p: p.requires_grad for p in base.model.parameters()} == flags
    assert all(p.grad is None for p in base.model.parameters())


@EVERY
def test_its_state_comes_back(base: Base, method: str) -> None:
    trainable = trained(base, method)
    values, head, found = trainable.values(), trainable.head_values(), logits(base, encoded(base))
    assert all(value.dtype == torch.float32 and value.ndim == 1 for value in values.values())
    trainable.undo()
    again = Trainable(base, spec_of(base, method))
    again.load(values, head)
    assert same(again.values(), values)
    assert np.array_equal(logits(base, encoded(base)), found)
    again.undo()


@EVERY
def test_stopped_and_continued_it_gives_the_same_bits(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Killed in the second of two epochs, two steps each."""
    run = session.prepare(data(), method, 1e-3, 0, protocol("small", epochs=2, batch_size=20, dropout=True))
    whole, delta = session.run(run)

    def kill(tick: StepInfo) -> None:
        monkeypatch.setattr(loop, "SAVE_EVERY", 0.0 if tick.step == 3 else 60.0)  # saved before the last step
        if tick.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.run(run, checkpoint=tmp_path / "state", watch=kill)
    seen: list[int] = []
    again, other = session.run(run, checkpoint=tmp_path / "state", watch=lambda tick: seen.append(tick.step))
    assert seen == [4]
    assert comparable(again) == comparable(whole)
    assert_same_delta(delta, other)
    assert delta.entries == whole.counts.selected == len(session.spec(method))


def encoded(base: Base):  # type: ignore[no-untyped-def]
    return encode(TEXTS, base.need_tokenizer(), 16)


def captured(base: Base, method: str) -> tuple[Delta, np.ndarray]:
    """A trained delta, and the model's answers before the method was undone."""
    if method not in _TRAINED or base.model.dtype != torch.float32:
        trainable = trained(base, method)
        delta, found = Delta.capture(trainable, method=method, task="mine", max_length=16), logits(base, encoded(base))
        trainable.undo()
        if base.model.dtype != torch.float32:
            return delta, found
        _TRAINED[method] = delta, found
    return _TRAINED[method]


@EVERY
def test_its_delta_answers_as_it_did_and_leaves_no_trace(base: Base, method: str, tmp_path: Path) -> None:
    trainable = trained(base, method)
    (spec, _), delta = trainable.result(), Delta.capture(trainable, method=method, task="mine", max_length=16)
    found = logits(base, encoded(base))
    trainable.undo()
    before = state(base)
    loaded = Delta.load(delta.save(tmp_path / "delta"))
    assert loaded.entries == len(specify(base.layout, method))
    with loaded.apply(base):
        assert np.array_equal(logits(base, encoded(base)), found)
    assert same(before, state(base))
    assert loaded.spec(base).fingerprint == spec.fingerprint or METHODS[method].read


@EVERY
def test_merged_it_is_a_plain_model(base: Base, method: str, tmp_path: Path) -> None:
    delta, found = captured(base, method)
    before = state(base)
    if specify(base.layout, method).cost != "none":
        with pytest.raises(DeltaError, match=f"{method} adds .* cannot be merged"):
            merge(delta, base, tmp_path / "merged")
        assert same(before, state(base))
        return
    merge(delta, base, tmp_path / "merged")
    assert same(before, state(base))
    plain = load_base(str(tmp_path / "merged"), keep_head=True)
    np.testing.assert_allclose(logits(plain, encoded(plain)), found, rtol=1e-5, atol=1e-5)
    assert [*plain.model.state_dict()] == [*base.model.state_dict()]


@EVERY
def test_a_bank_answers_with_it_in_the_same_call_as_with_others(base: Base, method: str) -> None:
    deltas = {name: captured(base, name) for name in (method, "layernorm")}
    bank = Bank(base)
    for name, (delta, _) in deltas.items():
        bank.add(name, delta, apart=True)
    prepared = bank.prepare_many([text for text in TEXTS.texts for _ in deltas], [*deltas] * len(TEXTS))
    found = bank.logits(prepared)
    for number, name in enumerate(deltas):
        np.testing.assert_allclose(np.stack(found[number :: len(deltas)]), deltas[name][1], rtol=1e-4, atol=1e-5)


def test_in_a_new_process_they_answer_the_same(base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    found = {}
    for method in METHODS:
        delta, answers = captured(base, method)
        delta.save(tmp_path / method)
        found[method] = answers.tolist()
    code = f"""
import json, sys
from pathlib import Path
from normtune.data.encode import encode
from normtune.data.task import Split
from normtune.deltas.delta import Delta
from normtune.evaluation import logits
from normtune.models.base import load_base
import torch
torch.set_num_threads(1)
base = load_base({str(tiny_folder)!r})
texts = Split.of_texts({TEXTS.texts!r})
answers = {{}}
for method in {[*METHODS]!r}:
    with Delta.load(Path({str(tmp_path)!r}) / method).apply(base):
        answers[method] = logits(base, encode(texts, base.tokenizer, 16)).tolist()
print(json.dumps(answers))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == found


ADDING = [name for name, method in METHODS.items() if method.read is not None]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.selects])
def test_what_is_no_selection_stands_alone_in_a_name(base: Base, method: str) -> None:
    for text in (f"{method} + layernorm", f"layernorm & {method}"):
        with pytest.raises(SelectionError, match="stands alone"):
            specify(base.layout, text)
    with pytest.raises(SelectionError, match=r"@ takes a number|takes no number"):
        specify(base.layout, f"{method}@2-3")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.hooked])
def test_a_hook_that_was_not_called_is_said(base: Base, method: str) -> None:
    trainable = Trainable(base, specify(base.layout, method))
    with pytest.raises(ModelError, match="its hook must be started"):
        Delta.capture(trainable)
    trainable.undo()


def test_what_was_undone_gives_no_delta(base: Base) -> None:
    trainable = Trainable(base, specify(base.layout, "layernorm"))
    trainable.undo()
    with pytest.raises(ModelError, match="capture the delta before undo"):
        Delta.capture(trainable)


@pytest.mark.parametrize("method", ADDING)
def test_added_parameters_that_do_not_fit_are_refused_and_leave_the_base(base: Base, method: str) -> None:
    delta, _ = captured(base, method)
    before = state(base)
    name = next(iter(delta.values))
    for values in ({}, {**delta.values, name: torch.zeros(3)}, {**delta.values, "more": torch.zeros(3)}):
        with pytest.raises(DeltaError, match="does not fit this model"):
            Delta(delta.info, {}, values, delta.head).apply(base)
        assert same(before, state(base))
    for added in ({}, {"method": "nobody's"}, {**(delta.info.added or {}), "targets": ["nowhere"]}):
        damaged = Delta(delta.info.model_copy(update={"added": added}), {}, delta.values, delta.head)
        with pytest.raises(DeltaError):
            damaged.apply(base)
        assert same(before, state(base))


@pytest.mark.parametrize("method", ADDING)
def test_two_on_one_base_are_refused(base: Base, method: str) -> None:
    trainable = Trainable(base, specify(base.layout, method))
    for other in (method, "bitfit"):
        with pytest.raises(ModelError, match="being tuned already"):
            Trainable(base, specify(base.layout, other))
    trainable.undo()


def test_lora_is_the_papers_update(base: Base) -> None:
    """W x + (alpha / r) B A x (Hu et al. 2021, section 4.1), with B = 0 in the beginning."""
    layer = "bert.encoder.layer.1.attention.self.query"
    own: Any = base.model.get_submodule(layer)
    weight, bias = own.weight.detach().double(), own.bias.detach().double()
    inputs = torch.randn(4, weight.shape[1], dtype=torch.float64)
    spec = specify(base.layout, "lora@2")
    assert len(spec) == 2 * 3 * 2 * (32 + 32)  # rank x layers x (query, value) x (rows + columns)
    trainable = Trainable(base, spec)
    module = base.model.get_submodule(layer)
    torch.testing.assert_close(module(inputs.float()).double(), inputs @ weight.T + bias, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for leaf in trainable.leaves.values():
            leaf.normal_()
    a, b = (trainable.leaves[f"{layer}.lora_{part}.weight"].detach().double() for part in "AB")
    wanted = inputs @ weight.T + bias + 4 / 2 * inputs @ a.T @ b.T
    torch.testing.assert_close(module(inputs.float()).double(), wanted, rtol=1e-4, atol=1e-4)
    trainable.undo()


@EVERY
def test_statistics_that_a_norm_keeps_as_it_trains_are_put_back(tiny_folder: Path, method: str) -> None:
    base = load_base(str(tiny_folder), head=3)
    base.model.set_submodule("bert.pooler.activation", torch.nn.BatchNorm1d(32))
    found = wrap(base.model, base.tokenizer)
    found.model.train()
    before = state(found)
    trained(found, method).undo()
    assert same(before, state(found))


@EVERY
def test_a_damaged_delta_is_refused_before_the_base_is_touched(base: Base, method: str) -> None:
    delta, _ = captured(base, method)
    before = state(base)
    name, values = next(iter(delta.values.items()), next(iter(delta.head.items())))
    wrong = {"short": values[:-1], "one": values[:1], "not finite": torch.full_like(values, torch.nan)}
    for what, changed in wrong.items():
        part = "values" if delta.values else "head"
        if part == "head" and what != "not finite":
            continue
        damaged = replace(delta, **{part: {**getattr(delta, part), name: changed}})
        with pytest.raises(DeltaError):
            damaged.apply(base)
        assert same(before, state(base)), what


@pytest.mark.parametrize("method", ADDING)
def test_added_parameters_are_not_rounded_into_a_base(tiny_folder: Path, method: str) -> None:
    low = load_base(str(tiny_folder), head=3, dtype="bfloat16")
    delta, _ = captured(low, method)
    reason = (
        "without rounding; load it in float32" if specify(low.layout, method).cost == "none" else "cannot be merged"
    )
    with pytest.raises(DeltaError, match=reason):
        delta.apply(low, merge=True)
    delta.apply(low).remove()


def test_models_that_share_an_encoder_are_changed_one_at_a_time(make_base, make_model):
    first, other = make_base("bert"), make_model("bert", seed=1)
    other.bert = first.model.bert
    second = wrap(other)
    before = copy.deepcopy(first.model.state_dict())
    tuning = tune(first, "layernorm")
    delta = Delta.capture(tuning, task="t")
    with pytest.raises(ModelError, match="being tuned already"):
        tune(second, "layernorm")
    tuning.undo()
    with delta.apply(first), pytest.raises(ModelError, match="carries a delta"):
        tune(second, "layernorm")
    tune(second, "layernorm").undo()
    assert all(torch.equal(value, before[name]) for name, value in first.model.state_dict().items())
