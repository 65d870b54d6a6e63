from __future__ import annotations

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from normtune.data.encode import Encoded
from normtune.errors import ConfigError, DataError, ImportanceError, ModelError, SelectionError, UnknownNameError
from normtune.importance.fisher import Estimation, Request, fisher
from normtune.methods.expression import select
from normtune.methods.selection import Selection, everything, nothing, where
from normtune.models.base import wrap
from normtune.records.fisher import ESTIMATORS, Estimator
from tests.importance.reference import LENGTHS, TASKS, assert_same, by_loop, in_float64, stay_in_float64, texts

#: The module, whose name the function shadows.
counting = importlib.import_module("normtune.importance.fisher")

#: Families beside those of `tests/families`, with parts of the names of what is computed example by example.
FAMILIES = {
    "bert": (),
    "gemma": (),
    "t5": ("relative_attention_bias",),
    "umt5": ("relative_attention_bias",),
    "bart": (),
}
LAYERS = {"t5": {"num_layers": 1, "num_decoder_layers": 2}, "umt5": {"num_layers": 1, "num_decoder_layers": 2}}
TYPED = {"bert"}

#: Every kind of task with every estimator for BERT, and one of each for every other family.
CASES = [("bert", task, name) for task in TASKS for name in ESTIMATORS]
CASES += [(family, [*TASKS][i % 4], [*ESTIMATORS][i % 3]) for i, family in enumerate(FAMILIES) if family != "bert"]


@pytest.fixture(autouse=True)
def _in_float64(monkeypatch):
    stay_in_float64(monkeypatch)


@pytest.fixture
def bert(make_base):
    return in_float64(make_base("bert", num_hidden_layers=2))


def layernorm(base):
    return select(base.layout, "layernorm")


def entries_of(found):
    return dict(found.scores.values)


def sum_of(found):
    return sum(found.totals.values())


@pytest.mark.parametrize(("family", "task", "name"), CASES)
def test_every_estimator_is_the_loop_by_hand(family, task, name, make_base):
    base = in_float64(make_base(family, **LAYERS.get(family, {"num_hidden_layers": 2} if family != "bart" else {})))
    task, estimator = TASKS[task], Estimator(name=name, samples=2, seed=3)
    encoded = texts(task, LENGTHS[:5], types=family in TYPED)
    wanted = by_loop(base, task, encoded, estimator, seed=5)
    whole = everything(base.layout)
    found = fisher(base, task, encoded, Request(whole, whole, estimator, (5,), tokens=30))
    assert entries_of(found).keys() == found.totals.keys() == whole.chosen.keys()
    assert_same(entries_of(found), wanted)
    sums = fisher(base, task, encoded, Request(whole, None, estimator, (5,)))
    assert sums.scores is None
    assert_same(sums.totals, wanted)
    for name, values in found.scores.values.items():
        assert float(values.sum()) == pytest.approx(found.totals[name], rel=1e-6)  # kept in float32
    parts = FAMILIES[family]
    if parts is None:
        assert len(found.slow) > len(whole.chosen) / 2
    else:
        assert all(any(part in name for part in parts) for name in found.slow)
        assert all(any(part in name for name in found.slow) for part in parts)


@pytest.mark.parametrize("task", TASKS)
def test_many_samples_converge_to_the_exact(task, bert):
    task = TASKS[task]
    encoded, within = texts(task), layernorm(bert)
    exact = sum_of(fisher(bert, task, encoded, Request(within, estimator=Estimator(name="exact"))))

    def drawn(samples):
        return sum_of(
            fisher(bert, task, encoded, Request(within, estimator=Estimator(name="monte-carlo", samples=samples)))
        )

    assert drawn(300) == pytest.approx(exact, rel=0.1)
    assert drawn(1) != pytest.approx(exact, rel=1e-6)


def test_the_true_labels_matter_to_the_empirical_alone(bert):
    task = TASKS["three"]
    encoded = texts(task)
    others = dataclasses.replace(encoded, labels=(encoded.labels + 1) % 3)
    for name in ESTIMATORS:
        request = Request(layernorm(bert), estimator=Estimator(name=name))
        same = fisher(bert, task, encoded, request).totals == fisher(bert, task, others, request).totals
        assert same == (name != "empirical")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_batches_and_order_do_not_matter(name, bert):
    task = TASKS["three"]
    encoded, whole = texts(task), everything(bert.layout)
    estimator = Estimator(name=name, samples=2)
    first = fisher(bert, task, encoded, Request(whole, whole, estimator, tokens=1))
    order = np.random.default_rng(0).permutation(7)
    for tokens, numbers in [(20, None), (31, order), (10_000, order), (None, order[::-1])]:
        other = fisher(bert, task, encoded, Request(whole, whole, estimator, tokens=tokens), examples=numbers)
        assert other.totals == pytest.approx(first.totals, rel=1e-9, abs=1e-14 * max(first.totals.values()))
        for parameter, values in other.scores.values.items():
            own = first.scores.values[parameter]
            np.testing.assert_allclose(
                values, own, rtol=1e-6, atol=1e-14 * max(map(np.max, entries_of(first).values()))
            )


@pytest.mark.parametrize(("family", "side"), [("bert", "right"), ("t5", "right"), ("xlnet", "left"), ("llama", "left")])
def test_padding_contributes_nothing(family, side, make_base, monkeypatch):
    monkeypatch.setitem(counting.PADDING, "cpu", 10_000)
    base, task = in_float64(make_base(family)), TASKS["two"]
    encoded = texts(task, (5, 50, 4, 6, 5, 7), side=side)
    wanted = by_loop(base, task, encoded)
    whole = everything(base.layout)
    found = fisher(
        base, task, encoded, Request(whole, whole, tokens=10_000)
    )  # all in one batch, as long as the longest
    assert_same(entries_of(found), wanted)
    assert_same(fisher(base, task, encoded, Request(whole, tokens=10_000)).totals, wanted)


@pytest.mark.parametrize("tokens", [1, 30, 500])
@pytest.mark.parametrize("padding", [0, 20, 10_000])
def test_batches_hold_every_example_once_and_no_more_than_they_may(padding, tokens, bert, monkeypatch):
    monkeypatch.setitem(counting.PADDING, "cpu", padding)
    task, numbers = TASKS["two"], np.random.default_rng(1).permutation(60)[:50]
    encoded = texts(task, [*range(3, 50, 4)] * 5)
    batches = [*Estimation(bert, task, encoded, Request(layernorm(bert), tokens=tokens)).batches(numbers)]
    assert sorted(np.concatenate(batches)) == sorted(numbers)
    for batch in batches:
        lengths = encoded.lengths[batch]
        assert len(batch) == 1 or len(batch) * lengths.max() <= tokens
        assert (lengths.max() - lengths).sum() <= padding
    # One more example would have been too much.
    for batch, following in itertools.pairwise(batches):
        lengths = encoded.lengths[[*batch, following[0]]]
        assert len(lengths) * lengths.max() > tokens or (lengths.max() - lengths).sum() > padding


def test_some_examples(bert):
    task = TASKS["three"]
    encoded, whole = texts(task), everything(bert.layout)
    for name in ("empirical", "monte-carlo"):  # a draw depends on the example's number in the data
        estimator = Estimator(name=name)
        found = fisher(bert, task, encoded, Request(whole, whole, estimator), examples=np.array([6, 1, 3]))
        assert_same(entries_of(found), by_loop(bert, task, encoded, estimator, examples=[1, 3, 6]))
        assert sorted(found.examples) == [1, 3, 6]


def test_several_heads_are_averaged(bert):
    task = TASKS["two"]
    encoded, within = texts(task), layernorm(bert)
    alone = [fisher(bert, task, encoded, Request(within, within, head_seeds=(seed,))) for seed in (0, 4, 9)]
    done = []
    found = fisher(bert, task, encoded, Request(within, within, head_seeds=(0, 4, 9), tokens=20), progress=done.append)
    assert sum(done) == 3 * 7
    assert len(done) > 3
    for own, other in zip(found.by_seed, alone, strict=True):
        assert own == pytest.approx(other.totals, rel=1e-9)
    for name, total in found.totals.items():
        assert total == pytest.approx(np.mean([other.totals[name] for other in alone]), rel=1e-9)
        mean = np.mean([other.scores.values[name] for other in alone], axis=0)
        np.testing.assert_allclose(found.scores.values[name], mean, rtol=1e-6)
    assert alone[0].totals != pytest.approx(alone[1].totals, rel=0.01)
    assert_same(entries_of(alone[1]), by_loop(bert, task, encoded, seed=4))


def test_the_models_own_head_plays_no_part(make_base):
    task, totals = TASKS["two"], []
    for seed in (0, 1):
        base = in_float64(make_base("bert", num_hidden_layers=1))
        torch.nn.init.normal_(base.model.classifier.weight, generator=torch.Generator().manual_seed(seed))
        totals.append(fisher(base, task, texts(task), Request(layernorm(base))).totals)
    assert totals[0] == totals[1]


@pytest.mark.parametrize("what", ["layernorm", "random", "bitfit", "mask", "one entry"])
def test_within_a_selection(what, bert):
    task = TASKS["two"]
    encoded, layout = texts(task), bert.layout
    if what == "mask":
        names = ("bert.encoder.layer.1.output.dense.weight", "bert.embeddings.word_embeddings.weight")
        within = Selection(layout, {name: np.arange(1, layout.by_name[name].size, 3) for name in names})
    elif what == "one entry":
        within = Selection(layout, {"bert.encoder.layer.0.output.dense.weight": np.array([77])})
    else:
        within = select(layout, what, seed=1)
    wanted = {name: value.flatten()[within.indices(name)] for name, value in by_loop(bert, task, encoded).items()}
    wanted = {name: value for name, value in wanted.items() if len(value)}
    sums = fisher(bert, task, encoded, Request(within))
    assert sums.totals.keys() == within.chosen.keys()
    assert_same(sums.totals, wanted)
    found = fisher(bert, task, encoded, Request(within, within))
    assert found.scores.within == within
    assert_same(entries_of(found), wanted)
    assert_same(found.totals, wanted)


def test_fewer_entries_than_are_summed(bert):
    task, layout = TASKS["two"], bert.layout
    encoded, name = texts(task), "bert.encoder.layer.1.output.LayerNorm.weight"
    entries = Selection(layout, {name: np.array([3, 5, 31])})
    found = fisher(bert, task, encoded, Request(everything(layout), entries))
    wanted = by_loop(bert, task, encoded)
    assert_same(found.totals, wanted)
    assert found.scores.within == entries
    np.testing.assert_allclose(found.scores.values[name], wanted[name][[3, 5, 31]], rtol=1e-6)
    none = fisher(bert, task, encoded, Request(layernorm(bert), nothing(layout)))
    assert len(none.scores) == 0


def test_what_takes_no_part_is_zero(make_base):
    base, task = in_float64(make_base("xlnet")), TASKS["two"]
    within = where(base.layout, lambda place: place.parameter == "transformer.mask_emb")
    found = fisher(base, task, texts(task), Request(within, within))
    assert found.totals == {"transformer.mask_emb": 0.0}


def test_a_request_that_cannot_be(bert):
    layout = bert.layout
    with pytest.raises(ImportanceError, match="empty set of entries"):
        Request(nothing(layout))
    for seeds in ((), (1, 1), (0, 3, 0)):
        with pytest.raises(ImportanceError, match="one or more different head seeds"):
            Request(everything(layout), head_seeds=seeds)
    some = layernorm(bert)
    with pytest.raises(ImportanceError, match="must be among those summed over"):
        Request(some, everything(layout))
    name = next(iter(some.chosen))
    with pytest.raises(ImportanceError, match="must be among those summed over"):
        Request(Selection(layout, {name: np.arange(5)}), Selection(layout, {name: np.arange(6)}))
    with pytest.raises(UnknownNameError, match="Unknown estimator 'fisher'"):
        Request(some, estimator=Estimator(name="fisher"))
    with pytest.raises(ConfigError, match="at least 1 sample"):
        Request(some, estimator=Estimator(name="monte-carlo", samples=0))


def test_a_selection_of_another_model_is_refused(bert, make_base):
    other = everything(make_base("bert", num_hidden_layers=3).layout)
    with pytest.raises(SelectionError, match="of different models"):
        Request(everything(bert.layout), other)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_labels(name, bert):
    task = TASKS["two"]
    encoded = texts(task)
    blank = dataclasses.replace(encoded, labels=None)
    request = Request(layernorm(bert), estimator=Estimator(name=name))
    if name == "empirical":
        with pytest.raises(DataError, match="The empirical Fisher information of task 'two' needs labels"):
            fisher(bert, task, blank, request)
    else:
        assert fisher(bert, task, blank, request).totals == fisher(bert, task, encoded, request).totals


@pytest.mark.parametrize("examples", [None, np.array([], np.int64), []], ids=["no data", "none of them", "empty list"])
def test_without_examples(examples, bert):
    task = TASKS["two"]
    encoded = texts(task) if examples is not None else Encoded({"input_ids": ()}, None, {"input_ids": 0})
    with pytest.raises(DataError, match="Task 'two' has no examples"):
        fisher(bert, task, encoded, Request(layernorm(bert), estimator=Estimator(name="exact")), examples=examples)


def picture(base):
    model = base.model
    return {
        "flags": {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()},
        "grads": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "modes": {name: module.training for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "labels": (model.config.id2label, model.config.problem_type, model.num_labels, base.head),
        "layout": base.layout.fingerprint,
    }


def bits(base):
    return {name: value.clone().view(torch.uint8) for name, value in base.model.state_dict().items() if value.ndim}


@pytest.mark.parametrize("ending", ["well", "without labels", "not finite", "differing answers", "interrupted"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_model_is_left_as_it_was(ending, training, tiny_base):
    base, task = tiny_base, TASKS["three"]
    encoded, model = texts(task), base.model.train(training)
    for parameter in [*model.parameters()][::2]:
        parameter.requires_grad_(True)
    if ending == "not finite":
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[int(encoded.fields["input_ids"][1][1])] = torch.inf
    if ending == "differing answers":
        model.bert.embeddings.register_forward_hook(
            lambda _module, _args, output: functional.dropout(output, 0.5, training=True)
        )
    if ending == "without labels":
        encoded = dataclasses.replace(encoded, labels=None)
    before, values = picture(base), bits(base)
    expected = {
        "without labels": DataError,
        "not finite": ImportanceError,
        "differing answers": ModelError,
        "interrupted": KeyboardInterrupt,
    }

    def progress(_):
        if ending == "interrupted":
            raise KeyboardInterrupt

    request = Request(everything(base.layout), layernorm(base), head_seeds=(3, 4))
    if ending == "well":
        fisher(base, task, encoded, request)
    else:
        with pytest.raises(expected[ending]):
            fisher(base, task, encoded, request, progress=progress)
    assert picture(base) == before
    assert all(torch.equal(value, values[name]) for name, value in bits(base).items())


def test_dropout_is_off(make_base):
    base, task = make_base("bert", num_hidden_layers=1), TASKS["two"]
    assert base.model.config.hidden_dropout_prob > 0
    request = Request(everything(base.layout))
    still = fisher(base, task, texts(task), request)
    base.model.train()
    assert fisher(base, task, texts(task), request).totals == still.totals
    assert base.model.training


def test_a_model_that_is_not_deterministic_is_refused(make_base):
    base, task = make_base("bert"), TASKS["two"]
    base.model.bert.encoder.layer[1].output.dense.register_forward_hook(
        lambda _module, _args, output: functional.dropout(output, 0.1, training=True)
    )
    with pytest.raises(ModelError, match="not deterministic"):
        fisher(base, task, texts(task), Request(layernorm(base)))


@pytest.mark.parametrize("within", ["layernorm", "full"])
@pytest.mark.parametrize("example", range(7))
def test_an_example_without_a_finite_gradient_is_named(example, within, make_base):
    base, task = make_base("bert", num_hidden_layers=1), TASKS["two"]
    encoded = texts(task)
    ids = tuple(own.clone() for own in encoded.fields["input_ids"])
    ids[example][1] = 39  # a token that no other example has
    encoded = dataclasses.replace(encoded, fields={**encoded.fields, "input_ids": ids})
    base.model.bert.embeddings.word_embeddings.weight[39] = torch.inf
    for tokens in (1, 10_000):
        with pytest.raises(
            ImportanceError, match=rf"gradient of example {example + 1} of the 7 taken of task 'two' is"
        ):
            fisher(base, task, encoded, Request(select(base.layout, within), tokens=tokens))
    rest = np.delete(np.arange(7), example)
    assert np.isfinite(sum_of(fisher(base, task, encoded, Request(layernorm(base)), examples=rest)))


def test_float32_is_close_to_float64(make_base):
    for family in ("bert", "llama"):
        low, high = make_base(family), in_float64(make_base(family))
        task = TASKS["three"]
        one, other = (
            fisher(base, task, texts(task), Request(everything(base.layout), layernorm(base))) for base in (low, high)
        )
        largest = max(other.totals.values())
        assert one.totals == pytest.approx(other.totals, rel=1e-3, abs=1e-9 * largest)
        for name, values in other.scores.values.items():
            np.testing.assert_allclose(one.scores.values[name], values, rtol=1e-2, atol=1e-3 * values.mean())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_bfloat16_base(family, make_model):
    task, found = TASKS["two"], []
    for dtype in (torch.float32, torch.bfloat16):
        base = wrap(make_model(family).requires_grad_(False).to(dtype))
        within = everything(base.layout)
        own = fisher(base, task, texts(task, [9] * 20), Request(within, layernorm(base)))
        assert np.isfinite(list(own.totals.values())).all()
        assert all(values.dtype == np.float64 for values in own.scores.values.values())
        assert {parameter.dtype for parameter in base.model.parameters()} == {dtype}
        found.append(own.totals)
    names = [name for name, total in found[0].items() if total > 1e-9 * max(found[0].values())]
    ranks = spearmanr([found[0][name] for name in names], [found[1][name] for name in names])
    assert ranks.statistic > 0.9


def test_single_precision_does_not_lose_small_squares(make_base):
    """Squares are formed in float32 at least: in bfloat16 and float16, gradients of 1e-5 would vanish."""
    base, task = make_base("bert", num_hidden_layers=1), TASKS["two"]
    base.model.to(torch.float16)
    found = fisher(base, task, texts(task), Request(layernorm(base), layernorm(base)))
    assert all((values > 0).all() for values in found.scores.values.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu(make_base):
    for family in ("bert", "t5", "xlnet"):
        base, task = in_float64(make_base(family)), TASKS["three"]
        whole = everything(base.layout)
        here = fisher(base, task, texts(task), Request(whole, whole))
        base.model.cuda()
        there = fisher(base, task, texts(task), Request(whole, whole))
        base.model.cpu()
        assert there.slow == here.slow
        largest = max(here.totals.values())
        assert there.totals == pytest.approx(here.totals, rel=1e-6, abs=1e-12 * largest)
        for name, values in here.scores.values.items():
            np.testing.assert_allclose(there.scores.values[name], values, rtol=1e-6, atol=1e-12 * largest)
