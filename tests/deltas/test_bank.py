"""The bank: every row of a mixed batch gets its own delta's answer, whatever changes meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from normtune.data.images import Picture
from normtune.deltas.answers import Predictor, Text
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.errors import DataError, DeltaError, UnknownNameError
from normtune.methods.expression import select, specify
from normtune.methods.selection import at
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base, wrap
from tests.conftest import BaseFactory, FolderFactory, ModelFactory
from tests.deltas.banked import FIVE, NUMBER, TEXTS, TWO, alone, assert_as_alone, changed
from tests.deltas.moved import moved

SPECS = (TWO, FIVE, NUMBER, TWO)
#: Families and norms beside those of `tests/families`.
SHAPES = [("qwen3", "all-layernorm"), ("gemma2", "all-layernorm"), ("bart", "all-layernorm"), ("t5", "layernorm")]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_text_longer_than_the_model_takes_is_cut_and_harms_no_other_row(
    make_base: BaseFactory, tiny_tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    base = make_base(family)
    base.tokenizer = deepcopy(tiny_tokenizer)
    base.tokenizer.model_max_length = 10**30
    deltas = [changed(base, "layernorm", TWO, seed) for seed in (0, 1)]
    bank = Bank(base)
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta)
    texts = ("a dog", "the cat " * 100)
    prepared = bank.prepare_many(texts, ["0", "1"])
    assert [one.truncated for one in prepared] == [False, True]
    assert_as_alone(base, deltas, bank.logits(prepared), texts)


@pytest.fixture
def bank(tiny_base: Base) -> Bank:
    return Bank(tiny_base, max_batch=3)


@pytest.mark.parametrize(("family", "method"), SHAPES)
def test_rows_of_any_family_are_as_alone(
    make_base: BaseFactory, tiny_tokenizer: PreTrainedTokenizerBase, family: str, method: str
) -> None:
    base = make_base(family)
    base.tokenizer = tiny_tokenizer
    deltas = [changed(base, method, spec, seed) for seed, spec in enumerate(SPECS)]
    bank = Bank(base)
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta)
    assert not any(entry.apart for entry in bank.tasks.values())
    assert_as_alone(base, deltas, bank.logits(bank.prepare_many(TEXTS, list("0123"))), TEXTS)


@pytest.mark.parametrize(
    ("family", "method", "culprit"),
    [
        ("xlnet", "layernorm", "layer_norm"),  # its first dimension is that of the tokens
        ("deberta-v2", "all-layernorm", "encoder.LayerNorm"),  # it normalises what all rows share
        ("deberta", "bitfit", "q_bias"),  # a vector that belongs to no linear layer
    ],
)
def test_what_cannot_differ_from_row_to_row_is_refused_or_runs_apart(
    make_base: BaseFactory, tiny_tokenizer: PreTrainedTokenizerBase, family: str, method: str, culprit: str
) -> None:
    base = make_base(family)
    base.tokenizer = tiny_tokenizer
    deltas = [changed(base, method, spec, seed) for seed, spec in enumerate(SPECS)]
    bank = Bank(base)
    with pytest.raises(DeltaError, match=rf"'0' cannot share batches with others: .*{culprit}.* Add it with apart"):
        bank.add("0", deltas[0])
    assert len(bank) == 0
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta, apart=True)
    assert all(entry.apart for entry in bank.tasks.values())
    assert_as_alone(base, deltas, bank.logits(bank.prepare_many(TEXTS, list("0123"))), TEXTS)


def kinds(base: Base) -> dict[str, tuple[Delta, Text]]:
    """Deltas of every kind that shares batches, with a text for each."""
    some = np.random.default_rng(0).choice(select(base.layout, "layernorm").layout.size, 4000, replace=False)
    vectors = select(base.layout, "all-layernorm") | select(base.layout, "bitfit")
    return {
        "norm": (changed(base, "layernorm", TWO, 1), TEXTS[0]),
        "norms": (changed(base, "all-layernorm", FIVE, 2), TEXTS[1]),
        "biases": (changed(base, "bitfit", NUMBER, 3, center=3.0, scale=2.0), TEXTS[2]),
        "mask": (changed(base, vectors & at(base.layout, some), TWO, 4), TEXTS[3]),
        "head": (changed(base, "head", FIVE, 5), TEXTS[0]),
        "short": (changed(base, "layernorm", TWO, 6, max_length=6), TEXTS[2]),
        "pair": (changed(base, "layernorm", NUMBER, 7, pair=True), (TEXTS[2], TEXTS[1])),
    }


def test_a_batch_of_every_kind_is_answered_as_by_each_delta_alone(tiny_base: Base, bank: Bank) -> None:
    every = kinds(tiny_base)
    for name, (delta, _) in every.items():
        bank.add(name, delta)
    names = [*every, *every]
    texts = [every[name][1] for name in names]
    prepared = bank.prepare_many(texts, names)
    assert [one.truncated for one in prepared] == [name == "short" for name in names]
    assert_as_alone(tiny_base, [every[name][0] for name in names], bank.logits(prepared), texts)
    for name, answer, text in zip(names, bank.predict(texts, names), texts, strict=True):
        with Predictor(tiny_base, every[name][0]) as predictor:
            (expected,) = predictor.predict([text])
        assert answer.label == expected.label
        assert (answer.value, answer.probabilities) == (
            pytest.approx(expected.value, abs=1e-5) if expected.value is not None else None,
            pytest.approx(expected.probabilities, abs=1e-5) if expected.probabilities is not None else None,
        )


def test_in_bfloat16_too(make_base: BaseFactory, tiny_folder: object) -> None:
    base = load_base(str(tiny_folder), dtype="bfloat16")
    deltas = [changed(base, method, TWO, seed) for seed, method in enumerate(("layernorm", "bitfit", "all-layernorm"))]
    bank = Bank(base)
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta)
    rows = bank.logits(bank.prepare_many(TEXTS[:3], list("012")))
    for row, delta, text, other in zip(rows, deltas, TEXTS, [*deltas[1:], deltas[0]], strict=False):
        expected = alone(base, delta, text)
        assert row.dtype == np.float32
        # bfloat16 has eight significant bits, so the same sums in another order differ in the third digit.
        np.testing.assert_allclose(row, expected, atol=0.03)
        assert np.abs(alone(base, other, text) - expected).max() > 0.1


def test_a_delta_of_weights_runs_apart_beside_the_others(tiny_base: Base, bank: Bank) -> None:
    whole, norm, random = (
        changed(tiny_base, method, FIVE, seed) for seed, method in enumerate(("full", "layernorm", "random"))
    )
    with pytest.raises(DeltaError, match="only vectors can differ from row to row"):
        bank.add("whole", whole)
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    bank.add("whole", whole, apart=True)
    bank.add("norm", norm, apart=True)
    bank.add("random", random, apart=True)
    assert {name: entry.apart for name, entry in bank.tasks.items()} == {"whole": True, "norm": False, "random": True}
    names = ["whole", "norm", "random", "norm", "whole"]
    texts = [TEXTS[number % 4] for number in range(5)]
    by_name = {"whole": whole, "norm": norm, "random": random}
    assert_as_alone(tiny_base, [by_name[name] for name in names], bank.logits(bank.prepare_many(texts, names)), texts)
    after = tiny_base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_mask_is_filled_up_with_the_bases_values_even_while_another_delta_is_on_it(
    tiny_base: Base, bank: Bank
) -> None:
    norms = select(tiny_base.layout, "all-layernorm")
    mask = changed(tiny_base, norms & at(tiny_base.layout, range(0, tiny_base.layout.size, 3)), TWO, 4)
    norm = changed(tiny_base, "layernorm", TWO, 5)
    with changed(tiny_base, "full").apply(tiny_base):  # as when a batch of it runs in another thread
        bank.add("mask", mask)
    bank.add("norm", norm)
    rows = bank.logits(bank.prepare_many(TEXTS[:2], ["mask", "norm"]))
    assert_as_alone(tiny_base, [mask, norm], rows, TEXTS[:2])


def test_a_task_is_added_once_the_base_has_its_own_head_again(tiny_base: Base, bank: Bank) -> None:
    number, norm = changed(tiny_base, "full", NUMBER), changed(tiny_base, "layernorm", TWO)
    with ThreadPoolExecutor(1) as pool:
        with bank._on(number):  # as when a batch of it runs in another thread
            added = pool.submit(bank.add, "norm", norm)
            with pytest.raises(TimeoutError):
                added.result(0.2)
        assert added.result() == bank.entry("norm")


def test_an_unknown_task_among_thousands_is_named_in_a_short_sentence(tiny_base: Base, bank: Bank) -> None:
    delta = changed(tiny_base, "layernorm")
    for number in range(60):
        bank.add(f"task-{number:02}", delta)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'task-59'\? Known: task-00, .*, task-49 and 10 more\.$"):
        bank.prepare("a", "tusk-59")


def test_a_prepared_text_keeps_its_task_when_that_is_replaced_or_removed(tiny_base: Base, bank: Bank) -> None:
    old, new = changed(tiny_base, "layernorm", TWO, 1), changed(tiny_base, "layernorm", FIVE, 2)
    bank.add("a", old)
    first = bank.prepare(TEXTS[0], "a")
    bank.add("a", new)
    second = bank.prepare(TEXTS[0], "a")
    bank.remove("a")
    assert "a" not in bank
    assert_as_alone(tiny_base, [old, new], bank.logits([first, second]), [TEXTS[0]] * 2)
    with pytest.raises(UnknownNameError, match="Unknown task 'a'"):
        bank.prepare(TEXTS[0], "a")
    with pytest.raises(UnknownNameError, match="Unknown task 'a'"):
        bank.remove("a")


def test_what_is_added_was_copied(tiny_base: Base, bank: Bank) -> None:
    delta = changed(tiny_base, "layernorm", TWO, 1)
    bank.add("a", delta)
    before = bank.logits([bank.prepare(TEXTS[0], "a")])[0]
    for value in (*delta.values.values(), *delta.head.values()):
        value.zero_()
    np.testing.assert_array_equal(bank.logits([bank.prepare(TEXTS[0], "a")])[0], before)


def test_tasks_replaced_from_other_threads_are_never_mistaken(tiny_base: Base) -> None:
    bank = Bank(tiny_base, max_batch=4)
    versions = [changed(tiny_base, method, TWO, seed) for seed, method in enumerate(("layernorm", "bitfit") * 2)]
    expected = {delta.info.task: alone(tiny_base, delta, TEXTS[0]) for delta in versions}
    for name in "abc":
        bank.add(name, versions[0])

    def replace_often(name: str) -> None:
        for turn in range(60):
            bank.add(name, versions[turn % 4])
            bank.add(f"{name}-other", versions[(turn + 1) % 4])
            bank.remove(f"{name}-other")

    def ask(_: int) -> int:
        for _ in range(15):
            prepared = bank.prepare_many([TEXTS[0]] * 6, list("abcabc"))
            for one, row in zip(prepared, bank.logits(prepared), strict=True):
                np.testing.assert_allclose(row, expected[one.entry.info.task], rtol=1e-5, atol=1e-5)
        return 1

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(replace_often, name) for name in "abc"]
        assert sum(pool.map(ask, range(3))) == 3
        for writer in writers:
            writer.result()


@pytest.mark.parametrize("damage", ["values", "name", "shape", "head", "nan", "labels", "position"])
def test_a_damaged_delta_is_refused_and_the_old_one_stays(tiny_base: Base, bank: Bank, damage: str) -> None:
    delta = changed(tiny_base, "layernorm", TWO, 1)
    bank.add("a", delta)
    before = bank.tasks["a"]
    name = next(iter(delta.values))
    values, head, indices, info = dict(delta.values), dict(delta.head), dict(delta.indices), delta.info
    if damage == "values":
        values[name] = values[name][:-1]
    elif damage == "name":
        values["nothing"], indices["nothing"] = values.pop(name), indices.pop(name)
    elif damage == "shape":
        head["classifier.weight"] = head["classifier.weight"][:, :-1]
    elif damage == "head":
        del head["classifier.bias"]
    elif damage == "nan":
        values[name] = values[name].clone().fill_(float("nan"))
    elif damage == "labels":
        info = info.model_copy(update={"labels": ("one", "two", "three")})
    else:
        indices[name], values[name] = np.array([99]), values[name][:1]
    with pytest.raises(DeltaError, match=r"'a' (is damaged|does not fit)|head of the delta 'a'"):
        bank.add("a", Delta(info, indices, values, head), apart=True)
    assert bank.tasks["a"] is before


def test_added_parameters_that_do_not_fit_are_refused_as_they_are_added(tiny_base: Base, bank: Bank) -> None:
    swap = tiny_base.put_head(TWO, 0)
    tuning = Trainable(tiny_base, specify(tiny_base.layout, "lora@2"))
    delta = Delta.capture(tuning, task="low")
    tuning.undo()
    swap.undo()
    name = next(iter(delta.values))
    for values in ({}, {**delta.values, name: torch.zeros(3)}):
        with pytest.raises(DeltaError, match="does not fit this model"):
            bank.add("low", replace(delta, values=values), apart=True)
        assert "low" not in bank
    bank.add("low", delta, apart=True)
    assert bank.predict(["the cat sat"], "low")[0].label in TWO.labels


def test_outputs_that_are_not_finite_are_an_error_of_their_task(tiny_base: Base, bank: Bank) -> None:
    good, bad = (changed(tiny_base, "layernorm", TWO, seed) for seed in (1, 2))
    bank.add("good", good)
    bank.add("loud", replace(bad, head={name: torch.full_like(value, 3e38) for name, value in bad.head.items()}))
    with pytest.raises(DeltaError, match="The task 'loud' gives a number that is not finite"):
        bank.predict(["the cat sat", "a dog"], ["good", "loud"])
    assert bank.predict(["the cat sat"], "good")[0].label in TWO.labels


def test_a_delta_of_another_base_is_refused(bank: Bank, make_folder: FolderFactory, make_model: ModelFactory) -> None:
    other = load_base(str(make_folder(make_model("bert", seed=7).base_model)))
    with pytest.raises(DeltaError, match="belongs to the base model"):
        bank.add("a", changed(other, "layernorm"))


def test_a_base_that_carries_a_delta_cannot_be_a_banks(tiny_base: Base, bank: Bank) -> None:
    delta = changed(tiny_base, "layernorm")
    bank.add("a", delta)
    prepared = bank.prepare(TEXTS[0], "a")
    with delta.apply(tiny_base):
        with pytest.raises(DeltaError, match="carries a delta"):
            Bank(tiny_base)
        with pytest.raises(DeltaError, match="carries a delta"):
            bank.answer([prepared])
    bank.answer([prepared])


def test_texts_may_come_one_by_one(tiny_base: Base) -> None:
    with Predictor(tiny_base, changed(tiny_base, "layernorm")) as predictor:
        assert len(predictor.predict(text for text in ("a", "the dog"))) == 2
        with pytest.raises(DataError, match="Give a list of texts"):
            predictor.predict(Picture("a.png"))


def test_texts_that_cannot_be_answered_are_told_apart(tiny_base: Base, bank: Bank) -> None:
    bank.add("one", changed(tiny_base, "layernorm"))
    bank.add("two", changed(tiny_base, "layernorm", pair=True))
    with pytest.raises(DataError, match=r"Text 2 of 2 is empty\."):
        bank.predict(["a", " "], "one")
    with pytest.raises(DataError, match=r"The task 'one' reads single texts, not \('a', 'b'\)\."):
        bank.predict([("a", "b")], "one")
    with pytest.raises(DataError, match=r"The task 'two' reads pairs of texts, not 'a'\."):
        bank.predict(["a", ("a", "b")], "two")
    for odd in (None, 7, float("nan"), ("a",), ("a", None), ("a", "b", "c")):
        for task in ("one", "two"):
            with pytest.raises(DataError, match=rf"The task '{task}' reads .* texts?, not "):
                bank.predict([odd], task)  # type: ignore[list-item]
    for odd in (None, "a text"):
        with pytest.raises(DataError, match=rf"Give a list of texts, such as \['a text'\], not {odd!r}\."):
            bank.predict(odd, "one")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 texts, but 1 names"):
        bank.predict(["a", "b"], ["one"])
    with pytest.raises(DataError, match="no texts"):
        bank.predict([], "one")
    with pytest.raises(UnknownNameError, match=r"Unknown task 'tow'\. Did you mean 'two'\?"):
        bank.predict(["a"], "tow")


def test_a_task_costs_its_values_and_no_more(tiny_base: Base, bank: Bank) -> None:
    delta = changed(tiny_base, "layernorm")
    bank.add("a", delta)
    assert bank.tasks["a"].bytes == 4 * (delta.entries + sum(value.numel() for value in delta.head.values()))
    assert list(bank) == ["a"]
    assert len(bank) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["layernorm", "bitfit"])
def test_a_thousand_tasks_on_minilm(minilm: Base, method: str) -> None:
    specs = (TWO, FIVE, NUMBER)
    seeds = [changed(minilm, method, spec, seed, max_length=16 + seed) for seed, spec in enumerate(specs)]
    generator = torch.Generator().manual_seed(0)

    def variation(number: int) -> Delta:
        seed = seeds[number % 3]
        moved = {n: v + 0.02 * torch.randn(v.shape, generator=generator) for n, v in seed.values.items()}
        return replace(seed, values=moved)

    deltas = [variation(number) for number in range(1000)]
    bank = Bank(minilm)
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta)
    order = np.random.default_rng(0).permutation(1000)
    texts = [" ".join(["where is the river", *["and the bird"] * (number % 7)]) for number in order]
    rows = bank.logits(bank.prepare_many(texts, [str(number) for number in order]))
    assert_as_alone(minilm, [deltas[number] for number in order], rows, texts)


def test_a_configuration_may_name_several_ends(make_model: ModelFactory, make_folder: FolderFactory) -> None:
    base = load_base(str(make_folder(make_model("llama", eos_token_id=[3, 4]))))
    bank = Bank(base)
    bank.add("a", moved(base, "layernorm", TWO))
    assert [*bank] == ["a"]


@pytest.mark.parametrize("where", ["bert.encoder.layer.2", "bert.encoder.layer.2.attention.self", "bert.encoder"])
def test_what_the_user_changed_in_the_base_is_computed(tiny_folder: Path, where: str) -> None:
    base = load_base(str(tiny_folder))

    def whole(_: torch.nn.Module, __: object, output: Any) -> None:
        """Adds the mean over the tokens of a text of more than six, which the bank's own check does not have."""
        hidden = output if torch.is_tensor(output) else output[0]
        if hidden.shape[1] > 6:
            hidden += hidden.mean(1, keepdim=True)

    base.model.get_submodule(where).register_forward_hook(whole)
    deltas = [changed(base, "layernorm", spec, seed) for seed, spec in enumerate(SPECS)]
    bank = Bank(base)
    for number, delta in enumerate(deltas):
        bank.add(str(number), delta)
    text = "one old bird likes the great river and the dull film"
    prepared = bank.prepare_many([text] * len(deltas), [str(number) for number in range(len(deltas))])
    assert_as_alone(base, deltas, bank.logits(prepared), [text] * len(deltas))


def test_a_layer_that_is_there_twice_leaves_the_base_whole(make_base: BaseFactory, tiny_tokenizer) -> None:
    base = make_base("bert")
    base.tokenizer = tiny_tokenizer
    layers = base.model.bert.encoder.layer
    layers[1] = layers[0]
    base = wrap(base.model, tiny_tokenizer)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    delta, bank = changed(base, "layernorm"), Bank(base)
    bank.add("one", delta)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert all(isinstance(value, torch.nn.Parameter) for value in base.model.parameters())
    assert_as_alone(base, [delta], bank.logits([bank.prepare("a dog", "one")]), ["a dog"])


def test_a_base_that_was_left_in_training_mode_takes_tasks(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder))
    delta, bank = changed(base, "layernorm"), Bank(base)
    base.model.train()
    bank.add("one", delta)
    assert not bank.entry("one").apart
    assert base.model.training
