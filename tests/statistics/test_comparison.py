"""Pairs of methods: corrections, effects and verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.statistics.comparison import compare, warnings
from normtune.statistics.paired import holm
from normtune.statistics.published import scores
from normtune.statistics.scores import ScoreTable


def table(**methods: list[float]) -> ScoreTable:
    values = np.array([*methods.values()]).T[:, None, :]
    return ScoreTable(tuple(methods), tuple(f"t{n}" for n in range(len(values))), tuple(values), (("",),) * len(values))


BASE = [0.5, 0.6, 0.7, 0.8, 0.55, 0.65, 0.75, 0.85]
TINY = [0.001, -0.001, 0.002, -0.002, 0.003, -0.003, 0.0, 0.0015]


def test_every_two_methods_or_one_against_the_others():
    paper = scores("dev")
    assert len(compare(paper).pairs) == 6
    pairs = compare(paper, "layernorm").pairs
    assert [(p.first, p.second) for p in pairs] == [(m, "layernorm") for m in ("full", "bitfit", "random")]
    with pytest.raises(UnknownNameError, match="Did you mean 'layernorm'"):
        compare(paper, "layernrom")


def test_corrections_run_over_the_pairs():
    pairs = compare(scores("dev")).pairs
    assert [pair.holm for pair in pairs] == holm([pair.signed_rank.p for pair in pairs])
    assert [pair.equivalence_holm for pair in pairs] == holm([pair.equivalence for pair in pairs])
    assert all(pair.signed_rank.p <= pair.fdr <= pair.holm for pair in pairs)
    for pair in pairs:
        assert pair.equivalent == (pair.smallest_margin_holm <= 0.01)


def test_effects():
    (found,) = compare(table(a=[0.1 + 0.2, 0.8, 0.7, 0.6], b=[0.3, 0.7, 0.75, 0.5])).pairs
    assert (found.mean, found.median) == (pytest.approx(0.0375), pytest.approx(0.05))
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)


def test_the_four_verdicts():
    far = [value + 0.05 + 0.01 * n / 8 for n, value in enumerate(BASE)]
    near = [value + 0.001 * (n + 1) / 2 for n, value in enumerate(BASE)]
    wild = [value + 0.1 * (-1) ** n for n, value in enumerate(BASE)]
    same = [value + tiny for value, tiny in zip(BASE, TINY, strict=True)]
    found = [compare(table(a=other, b=BASE)).pairs[0].verdict for other in (far, near, wild, same)]
    assert found == ["different", "different within the margin", "undecided", "equivalent"]


def test_the_unpaired_test_overlooks_random():
    pairs = {(pair.first, pair.second): pair for pair in compare(scores("dev")).pairs}
    assert pairs["layernorm", "random"].overlooked


def test_a_tie_says_nothing_so_that_fewer_tasks_are_left():
    tied = [*BASE[:4], *(value + 0.01 for value in BASE[4:])]
    assert warnings(compare(table(a=tied, b=BASE)))[0].startswith(
        "With 4 tasks on which two methods differ (of 8) the exact test cannot give a p below 0.1250"
    )
    once = [*BASE[:-1], BASE[-1] + 0.01]
    assert warnings(compare(table(a=once, b=BASE)))[0].startswith("With 1 task on which two methods differ (of 8)")
    assert warnings(compare(table(a=BASE, b=BASE)))[0].startswith("With 0 tasks on which two methods differ (of 8)")
    assert not any("exact test" in text for text in warnings(compare(table(a=BASE[::-1], b=BASE))))


def test_a_pair_with_ties_beside_a_clear_one():
    """Holm doubles the smallest p alone, so that six tasks are enough for the second pair."""
    more = [*BASE, 0.45, 0.95]
    tied = [*more[:4], *(value + 0.01 * (n + 1) for n, value in enumerate(more[4:]))]
    found = compare(table(ref=more, a=[value - 0.01 for value in more], b=tied), "ref")
    assert [pair.verdict for pair in found.pairs] == ["different", "different"]
    assert not any("exact test" in text for text in warnings(found))


def test_a_seed_that_shifts_all_tasks_is_no_difference():
    """Three seeds shift all of eight tasks by +3, +1 and -2 points."""
    noise = np.random.default_rng(0).normal(0, 0.001, (8, 3))
    first = np.array(BASE)[:, None] + [[0.03, 0.01, -0.02]] + noise
    values = tuple(np.stack(both, 1) for both in zip(first, np.repeat(np.array(BASE)[:, None], 3, 1), strict=True))
    found = compare(ScoreTable(("a", "b"), tuple("abcdefgh"), values, (("0", "1", "2"),) * 8))
    (pair,) = found.pairs
    assert (pair.different, pair.equivalent) == (True, False)
    assert any(text.startswith("Wilcoxon's test tells a from b, but its tasks share") for text in warnings(found))


def test_what_cannot_be_compared():
    with pytest.raises(DataError, match="at least two methods; got a"):
        compare(table(a=BASE))
    with pytest.raises(DataError, match="at least 3 tasks; there are 2: t0, t1"):
        compare(table(a=BASE[:2], b=BASE[:2]))
    with pytest.raises(DataError, match="1,001 tasks"):
        compare(table(a=[0.1] * 1001, b=[0.1] * 1001))


@pytest.mark.parametrize(
    "options", [{"alpha": 0}, {"alpha": 1e-40}, {"alpha": 0.6}, {"margin": 0}, {"margin": 1}, {"margin": float("nan")}]
)
def test_settings_out_of_range(options):
    with pytest.raises(ConfigError):
        compare(table(a=BASE, b=TINY), **options)
