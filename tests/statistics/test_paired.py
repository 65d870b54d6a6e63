"""Statistics against brute force, published values and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from normtune.statistics.paired import (
    benjamini_hochberg,
    holm,
    kruskal_wallis,
    mean_interval,
    signed_rank,
    smallest_p,
)
from normtune.statistics.published import TABLES
from normtune.statistics.scores import grouped, same_task

# Small whole numbers, so that ties and zeros are common.
PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=9)


def brute_force(differences: list[float]) -> float:
    """Two-sided p by counting every flip of signs, with ranks made by hand."""
    kept = [d for d in differences if d != 0]
    sizes = sorted(map(abs, kept))
    ranks = [np.mean([place + 1 for place, size in enumerate(sizes) if size == abs(d)]) for d in kept]
    seen = abs(sum(rank if d > 0 else -rank for rank, d in zip(ranks, kept, strict=True)))
    flips = [*itertools.product((1, -1), repeat=len(kept))]
    return sum(
        abs(sum(s * rank for s, rank in zip(signs, ranks, strict=True))) >= seen - 1e-9 for signs in flips
    ) / len(flips)


@given(PAIRS)
def test_wilcoxon_is_the_count_over_all_sign_flips_with_ties_and_zeros(pairs):
    first, second = np.array(pairs).T
    assert signed_rank(first, second).p == pytest.approx(brute_force([float(a - b) for a, b in pairs]), abs=1e-12)


@given(PAIRS)
def test_wilcoxon_turns_round_and_scales(pairs):
    first, second = np.array(pairs).T
    ours = signed_rank(first, second)
    other = signed_rank(second / 8, first / 8)
    assert (ours.p, ours.positive, ours.negative) == (other.p, other.negative, other.positive)


def test_wilcoxon_agrees_with_scipys_permutation_test_and_without_ties_with_its_exact_one():
    generator = np.random.default_rng(0)
    for _ in range(5):
        first, second = generator.integers(0, 5, (2, 9)) / 10
        theirs = stats.wilcoxon(np.round(first - second, 9), method=stats.PermutationMethod(n_resamples=10_000))
        assert signed_rank(first, second).p == pytest.approx(theirs.pvalue)
        first, second = generator.normal(size=(2, 30))
        assert signed_rank(first, second).p == pytest.approx(stats.wilcoxon(first, second, method="exact").pvalue)


@pytest.mark.parametrize(("count", "smaller", "p"), [(6, 0, 0.03125), (8, 3, 0.0390625), (10, 8, 0.048828125)])
def test_wilcoxon_has_the_critical_values_of_printed_tables(count, smaller, p):
    # Two-sided, level 0.05: the largest rank sums that reject are 0 of 6, 3 of 8 and 8 of 10.
    differences = np.arange(1.0, count + 1)
    left = smaller
    for rank in range(count, 0, -1):
        if rank <= left:
            differences[rank - 1] *= -1
            left -= rank
    test = signed_rank(differences, np.zeros(count))
    assert (test.negative, test.p) == (smaller, p)


def test_ties_are_seen_through_the_last_bits_of_floats():
    assert 0.3 - 0.2 != 0.2 - 0.1
    test = signed_rank([0.3, 0.2, 0.5], [0.2, 0.1, 0.7])
    assert (test.positive, test.negative, test.p) == (3.0, 3.0, 1.0)


def test_no_difference_at_all():
    same = [0.5, 0.6, 0.7]
    assert signed_rank(same, same).p == signed_rank(same, same).smallest == 1
    assert kruskal_wallis([0.5] * 3, [0.5] * 3) == kruskal_wallis([0.0] * 3, [0.0] * 3) == 1
    assert mean_interval([[0.0]] * 3) == (0, 0)


def test_many_tasks_stay_exact():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 400))
    assert signed_rank(first, second).p == pytest.approx(
        stats.wilcoxon(first, second, method="approx").pvalue, abs=1e-3
    )


def test_the_smallest_p_is_reached_where_all_tasks_agree():
    for count in range(3, 9):
        assert signed_rank(np.arange(1, count + 1), np.zeros(count)).p == smallest_p(count)


def test_kruskal_wallis_by_its_textbook_formula():
    first, second = np.array([1.0, 2.0, 5.0, 7.0]), np.array([3.0, 4.0, 6.0, 8.0, 9.0])
    ranks = np.array([1, 2, 5, 7]).sum(), np.array([3, 4, 6, 8, 9]).sum()
    statistic = 12 / (9 * 10) * (ranks[0] ** 2 / 4 + ranks[1] ** 2 / 5) - 3 * 10
    assert kruskal_wallis(first[:3], second[:3]) == pytest.approx(stats.kruskal(first[:3], second[:3]).pvalue)
    assert stats.kruskal(first, second).pvalue == pytest.approx(stats.chi2.sf(statistic, 1))


def values(split: str, method: str, *, one_value: bool = False) -> np.ndarray:
    from normtune.statistics.published import scores

    table = scores(split)
    return (grouped(table, same_task(table.tasks)) if one_value else table).of(method)


@pytest.mark.parametrize(("split", "printed"), [("dev", 0.56599), ("test", 0.62703), ("pooled", 0.54773)])
def test_the_papers_kruskal_wallis_to_all_digits(split, printed):
    assert round(kruskal_wallis(values(split, "bitfit"), values(split, "layernorm")), 5) == printed


@pytest.mark.parametrize(
    ("split", "one_value", "p"),
    [("dev", False, 0.0391), ("test", False, 0.0234), ("dev", True, 0.078), ("test", True, 0.047)],
)
def test_wilcoxon_on_the_papers_tables(split, one_value, p):
    first, second = (values(split, method, one_value=one_value) for method in ("bitfit", "layernorm"))
    assert round(signed_rank(first, second).p, 3 if one_value else 4) == p
    assert signed_rank(first, second).p == brute_force([round(d, 9) for d in first - second])


def test_scipys_exact_p_forgets_ties():
    # Table 3 has three pairs of tied differences; scipy uses the distribution of the ranks 1 to 9.
    first, second = (np.array(TABLES["test"][method]) for method in ("bitfit", "layernorm"))
    differences = np.round(first - second, 9)
    assert stats.wilcoxon(differences, method="exact").pvalue == 14 / 512
    assert signed_rank(first, second).p == 12 / 512


def test_the_unpaired_test_cannot_tell_layernorm_from_random():
    first, second = (np.array(TABLES["dev"][method]) for method in ("layernorm", "random"))
    assert round(kruskal_wallis(first, second), 3) == 0.453
    assert round(signed_rank(first, second).p, 4) == 0.0078


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_benjamini_hochberg_on_their_own_example():
    # Benjamini and Hochberg (1995), section 3.2: of 15 p-values, four are found at 0.05.
    published = [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
        *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0),
    ]
    assert sum(p <= 0.05 for p in benjamini_hochberg(published)) == 4
    assert sum(p <= 0.05 for p in holm(published)) == 3
    assert benjamini_hochberg([0.2]) == holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_corrections_follow_the_order_of_the_comparisons(ps, random):
    order = [*range(len(ps))]
    random.shuffle(order)
    for correct in (holm, benjamini_hochberg):
        corrected = correct(ps)
        assert correct([ps[place] for place in order]) == pytest.approx([corrected[place] for place in order])
        assert all(p <= q + 1e-12 <= 1 + 2e-12 for p, q in zip(ps, corrected, strict=True))


@pytest.mark.parametrize("seeds", [(1, 1, 1, 1, 1), (3, 2, 5, 1, 4)])
def test_without_the_same_seeds_the_interval_is_scipys_over_the_tasks_means(seeds):
    generator = np.random.default_rng(2)
    tasks = [generator.normal(0.01, 0.02, count) for count in seeds]
    theirs = stats.ttest_1samp([task.mean() for task in tasks], 0).confidence_interval(0.9)
    assert mean_interval(tasks, level=0.9) == pytest.approx((theirs.low, theirs.high))


def test_seeds_that_push_all_tasks_alike_widen_the_interval():
    # By the textbook's sums of squares: totals of rows and columns against the grand total.
    table = np.array([[1.0, 4.0, 6.0], [2.0, 4.0, 9.0], [0.0, 3.0, 8.0], [3.0, 6.0, 7.0]])
    correction = table.sum() ** 2 / 12
    rows, columns = (table.sum(1) ** 2).sum() / 3 - correction, (table.sum(0) ** 2).sum() / 4 - correction
    t, s, e = rows / 3, columns / 2, ((table**2).sum() - correction - rows - columns) / 6
    assert s > 5 * e
    freedom = (t + s - e) ** 2 / (t**2 / 3 + s**2 / 2 + e**2 / 6)
    half = stats.t.ppf(0.975, max(freedom, 2)) * ((t + s - e) / 12) ** 0.5
    assert mean_interval(table) == pytest.approx((table.mean() - half, table.mean() + half))
    # The same differences without a common order of seeds: tasks alone count.
    table = np.sort(table) - [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    shuffled = np.array([np.roll(row, place) for place, row in enumerate(table)])
    assert np.ptp(mean_interval(shuffled)) < np.ptp(mean_interval(table))


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.93, 0.975), (2, 0.875, 0.975)])
@pytest.mark.parametrize("tasks", [3, 5, 8])
@pytest.mark.parametrize(
    ("of_tasks", "of_seeds", "rest"),
    [
        *((1, 0, 0), (1, 0, 1), (0, 0, 1), (1, 0.3, 0.3), (1, 1, 1)),
        *((0.1, 0.3, 0.1), (0, 0.5, 1), (0.1, 0.3, 0.3), (0, 1, 1)),
    ],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(tasks, seeds, least, most, of_tasks, of_seeds, rest):
    normal = np.random.default_rng(4).normal
    shared = normal(0, of_tasks, (20_000, tasks, 1)) + normal(0, of_seeds, (20_000, 1, seeds))
    low, high = mean_interval(shared + normal(0, rest, (20_000, tasks, seeds)))
    assert least <= np.mean((low <= 0) & (high >= 0)) <= most
