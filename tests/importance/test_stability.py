"""Adding examples until they are enough, against Fisher information of each group computed on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from normtune.data.encode import Encoded
from normtune.importance import stability
from normtune.importance.fisher import Estimation, Fisher, Request, fisher
from normtune.importance.stability import GROUPS, halves, overlap, rounds, until_stable
from normtune.importance.tally import Tally
from normtune.methods.expression import select
from normtune.methods.selection import at, nothing
from normtune.models.base import Base
from normtune.records.fisher import Estimator, Tolerance
from tests.importance.reference import TASKS, texts

TASK = TASKS["three"]


class Ticks:
    """A stand-in for an estimation: counts how often each example was added."""

    def __init__(self, available: int) -> None:
        self._names = {"ticks": torch.zeros(available)}

    def tally(self) -> Tally:
        return Tally(self._names, ("ticks",))

    def batches(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(numbers), 5):
            yield numbers[start : start + 5]

    def add(self, batch: np.ndarray, tally: Tally) -> None:
        tally.add("ticks", torch.bincount(torch.from_numpy(batch), minlength=len(self._names["ticks"])))
        tally.examples += len(batch)


def ticks(tally: Tally) -> np.ndarray:
    return tally.entries["ticks"].numpy()


def states(available: int, seed: int = 0) -> Iterator[tuple[np.ndarray, list[Tally]]]:
    estimation: Any = Ticks(available)
    return rounds(estimation, available, seed)


@pytest.fixture(autouse=True)
def _first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look is after 64 examples here, whatever the package's own choice."""
    assert stability.FIRST >= GROUPS
    assert stability.GROWTH == 2
    monkeypatch.setattr(stability, "FIRST", 64)


@pytest.fixture(scope="module")
def base(make_base) -> Base:
    return make_base("bert", num_hidden_layers=2)


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """150 short texts."""
    return texts(TASK, lengths=np.random.default_rng(1).integers(3, 9, 150).tolist(), seed=1)


@pytest.fixture
def request_(base: Base) -> Request:
    return Request(select(base.layout, "full"), select(base.layout, "layernorm"))


def assert_same_fisher(found: Fisher, wanted: Fisher) -> None:
    assert sorted(found.examples) == sorted(wanted.examples)
    largest = max(wanted.totals.values())
    for one, other in zip(found.by_seed, wanted.by_seed, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-7 * largest)
    assert found.scores is not None
    assert wanted.scores is not None
    for name, values in wanted.scores.values.items():
        np.testing.assert_allclose(found.scores.values[name], values, rtol=1e-4)


def test_looks_are_at_every_doubling_and_at_the_end() -> None:
    assert [len(order) for order, _ in states(400)] == [64, 128, 256, 400]
    assert [len(order) for order, _ in states(128)] == [64, 128]
    assert [len(order) for order, _ in states(40)] == [40]


@pytest.mark.parametrize("available", [8, 45, 150])
def test_each_example_is_in_exactly_one_group(available: int) -> None:
    for order, groups in states(available):
        own = np.array([ticks(group) for group in groups])
        assert own.shape == (GROUPS, available)
        wanted = np.zeros(available)
        wanted[order] = 1
        np.testing.assert_array_equal(own.sum(0), wanted)
        assert len({*order}) == len(order)
        sizes = own.sum(1)
        assert sizes.max() - sizes.min() <= 1
        assert [group.examples for group in groups] == sizes.tolist()


def test_halves_are_disjoint_and_balanced_in_seven_ways() -> None:
    for order, tallies in states(100):
        groups = np.array([ticks(group) for group in tallies])
        signs = []
        for one, other in halves(tallies):
            np.testing.assert_array_equal(ticks(one) + ticks(other), groups.sum(0))  # each once, on one side
            assert one.examples + other.examples == len(order)
            assert (one.examples, other.examples) == (ticks(one).sum(), ticks(other).sum())
            sides = np.array([1 if (ticks(one) * group).any() else -1 for group in groups])
            assert sides.sum() == 0  # four groups on either side
            signs.append(sides)
        assert len(signs) == 7
        # Any two groups are on the same side in three of the ways, and apart in four: the design is balanced.
        together = np.array(signs).T @ np.array(signs)
        np.testing.assert_array_equal(together, 8 * np.eye(GROUPS) - 1)


def test_the_order_is_random_and_seeded() -> None:
    one, same, other = ([*states(100, seed)][-1][0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert sorted(one) == sorted(other) == [*range(100)]
    assert (one != np.arange(100)).any()


def test_all_examples_give_what_fisher_gives_on_them(base: Base, encoded: Encoded, request_: Request) -> None:
    found, known = until_stable(base, TASK, encoded, request_, Tolerance(of="mask", tolerance=0.0))
    assert (known.reached, known.examples, known.available) == (False, 150, 150)
    assert [look.examples for look in known.looks] == [64, 128, 150]
    assert_same_fisher(found, fisher(base, TASK, encoded, request_))


def test_some_give_what_fisher_gives_on_those(base: Base, encoded: Encoded, request_: Request) -> None:
    found, known = until_stable(base, TASK, encoded, request_, Tolerance(tolerance=0.99, seed=5))
    assert (known.reached, known.examples, len(known.looks)) == (True, 64, 1)
    assert {*found.examples} != {*range(64)}
    assert_same_fisher(found, fisher(base, TASK, encoded, request_, examples=np.sort(found.examples)))


def thirty(base: Base) -> tuple[Encoded, Request]:
    """Thirty short texts, and every entry of the model."""
    whole = select(base.layout, "full")
    return texts(TASK, lengths=np.random.default_rng(2).integers(3, 9, 30).tolist(), seed=2), Request(whole, whole)


Groups = tuple[list[np.ndarray], list[Fisher]]


@pytest.fixture(scope="module")
def by_group(base: Base) -> Callable[[int], Groups]:
    """The eight groups of `count` of the texts, and each group's own Fisher information, computed once."""
    order = np.random.default_rng([2, 0xF15]).permutation(30)
    encoded, request = thirty(base)

    @cache
    def make(count: int) -> Groups:
        groups = [order[:count][number::8] for number in range(8)]
        return groups, [fisher(base, TASK, encoded, request, examples=group) for group in groups]

    return make


@pytest.mark.parametrize("of", ["ranking", "mask", "least-mask"])
def test_a_look_by_hand(base: Base, of, by_group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement and its error from each group's own Fisher information, by scipy and plain sorting."""
    monkeypatch.setattr(stability, "FIRST", 15)
    encoded, request = thirty(base)
    whole = request.within
    asked = Tolerance(of=of, tolerance=0.0, fraction=0.2, seed=2)
    _, known = until_stable(base, TASK, encoded, request, asked)
    assert [look.examples for look in known.looks] in ([15, 30], [15])
    assert known.looks[0].agreement < 1
    places = {place.parameter: place for place in whole}
    inside = sorted({place.component for place in whole if place.layer is not None})
    components = [[p.parameter for p in whole if p.component == name] for name in inside]
    signs = np.array([[(-1) ** (row & group).bit_count() for group in range(8)] for row in range(1, 8)])
    for look in known.looks:
        groups, own = by_group(look.examples)
        shares = []
        for row in signs:
            halves = []
            for side in (1, -1):
                members = [g for g in range(8) if row[g] == side]
                count = sum(len(groups[g]) for g in members)
                halves.append({
                    name: sum(own[g].scores.values[name] * len(groups[g]) for g in members) / count  # type: ignore[union-attr]
                    for name in places
                })
            if of == "ranking":
                means = [[np.concatenate([half[n] for n in names]).mean() for names in components] for half in halves]
                tau = kendalltau(*means).statistic
                shares.append((tau + 1) / 2)
            else:
                flat = [np.concatenate([half[name] for name in places]) for half in halves]
                size = round(0.2 * flat[0].size)
                picked = [np.argsort(-values if of == "mask" else values, kind="stable")[:size] for values in flat]
                shares.append(len({*picked[0]} & {*picked[1]}) / size)
        assert look.agreement == pytest.approx(np.mean(shares), abs=2e-4)
        assert look.error == pytest.approx(np.std(shares, ddof=1) / 7**0.5, abs=2e-4)


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.1, 0.2, 0.5])
def test_it_stops_at_the_first_look_that_is_good_enough(
    base: Base, encoded: Encoded, request_: Request, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "FIRST", 8)
    _, known = until_stable(base, TASK, encoded, request_, Tolerance(tolerance=tolerance))
    enough = [look.agreement - look.error >= 1 - tolerance for look in known.looks]
    assert known.reached == enough[-1]
    assert not any(enough[:-1])
    assert known.examples == known.looks[-1].examples
    assert known.reached or known.examples == 150


@pytest.mark.parametrize(("shares", "stops"), [((0.5, 0.905, 0.95, 0.9), 2), ((0.5, 0.6, 0.7, 0.8), None)])
def test_the_error_counts(
    base: Base, encoded: Encoded, request_: Request, shares, stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up agreements: 0.905 alone would meet a tolerance of 0.1, but not once its error is subtracted."""
    monkeypatch.setattr(stability, "FIRST", 19)
    spread = np.array([-3, -2, -1, 0, 1, 2, 3]) / 100
    made_up = iter(np.concatenate([share + spread for share in shares]).tolist())
    monkeypatch.setattr(stability, "agreement", lambda *_: next(made_up))
    _, known = until_stable(base, TASK, encoded, request_, Tolerance(tolerance=0.1))
    looks = 4 if stops is None else stops + 1
    assert (known.reached, len(known.looks)) == (stops is not None, looks)
    assert [look.agreement for look in known.looks] == pytest.approx(shares[:looks])
    assert [look.error for look in known.looks] == pytest.approx([np.std(spread, ddof=1) / 7**0.5] * looks)


def test_an_agreement_at_the_limit_stops_only_without_an_error(
    base: Base, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = texts(TASK, lengths=[5] * 20)
    for values, reached in (([0.5] * 7, True), ([0.25, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5], False)):
        made_up = iter(values)
        monkeypatch.setattr(stability, "agreement", lambda *_, own=made_up: next(own))
        _, known = until_stable(base, TASK, few, request_, Tolerance(tolerance=0.5))
        assert (known.reached, known.looks[0].agreement) == (reached, 0.5)


@pytest.mark.parametrize("available", [1, 3, 7])
def test_too_few_for_halves_are_all_taken_without_a_look(base: Base, request_: Request, available: int) -> None:
    few = texts(TASK, lengths=[5] * available)
    for of in ("ranking", "mask"):
        found, known = until_stable(base, TASK, few, request_, Tolerance(of=of, tolerance=0.9))  # type: ignore[arg-type]
        assert (known.reached, known.examples, known.looks) == (False, available, ())
        assert_same_fisher(found, fisher(base, TASK, few, request_))


def test_other_heads_take_the_same_examples(base: Base, encoded: Encoded) -> None:
    within = select(base.layout, "layernorm")
    asked = Tolerance(tolerance=0.5, seed=1)
    request = Request(within, within, Estimator(name="monte-carlo", seed=3), head_seeds=(4, 0, 1))
    done: list[int] = []
    found, known = until_stable(base, TASK, encoded, request, asked, progress=done.append)
    alone, known_alone = until_stable(
        base, TASK, encoded, Request(within, within, request.estimator, head_seeds=(4,)), asked
    )
    assert known == known_alone  # the first seed decides how many
    assert found.by_seed[0] == pytest.approx(alone.by_seed[0])
    assert len({tuple(own.values()) for own in found.by_seed}) == 3
    assert_same_fisher(found, fisher(base, TASK, encoded, request, examples=found.examples))
    assert sum(done) == 3 * known.examples


def test_the_same_seed_gives_the_same(base: Base, encoded: Encoded, request_: Request) -> None:
    one, same, other = (
        until_stable(base, TASK, encoded, request_, Tolerance(tolerance=0.5, seed=seed)) for seed in (0, 0, 1)
    )
    assert one[1] == same[1]
    assert one[0].by_seed == same[0].by_seed
    np.testing.assert_array_equal(one[0].examples, same[0].examples)
    assert one[0].by_seed != other[0].by_seed


def test_the_model_is_left_as_it_was(base: Base, encoded: Encoded, request_: Request) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in base.model.parameters()]
    until_stable(base, TASK, encoded, request_, Tolerance(tolerance=0.9))
    after = base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert after.keys() == before.keys()
    assert [parameter.requires_grad for parameter in base.model.parameters()] == flags


def test_groups_are_fisher_of_their_examples(base: Base, encoded: Encoded) -> None:
    within = select(base.layout, "layernorm")
    request = Request(within)
    estimation = Estimation(base, TASK, encoded, request)
    with estimation.head(0):
        order, groups = [*rounds(estimation, 150, 0)][-1]
    for number, group in enumerate(groups):
        wanted = fisher(base, TASK, encoded, request, examples=order[number::8])
        sums = {name: total / group.examples for name, total in group.totals().items()}
        assert sums == pytest.approx(wanted.totals, rel=1e-4)


def test_overlap(base: Base) -> None:
    layout = base.layout
    one = at(layout, [0, 5, 2000, 2001])
    assert overlap(one, one) == 1
    assert overlap(one, at(layout, [1, 5, 2000, 3000])) == 0.5
    assert overlap(one, at(layout, [1, 6, 7, 3000])) == 0
    assert overlap(nothing(layout), nothing(layout)) == 1
