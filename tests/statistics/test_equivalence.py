"""Equivalence against the definition: two t-tests, and an interval within a margin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from normtune.statistics.paired import equivalence, holm, smallest_margins
from normtune.statistics.published import TABLES

SEEDS = st.integers(0, 10_000)


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The differences, with one seed a task."""
    return np.subtract(first, second)[:, None]


def sample(seed: int, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    second = generator.uniform(0.5, 0.9, count)
    return second + generator.normal(generator.normal(0, 0.01), 0.01, count), second


@given(SEEDS, st.floats(0.001, 0.1))
def test_p_is_the_larger_of_two_one_sided_t_tests(seed, margin):
    first, second = sample(seed)
    above = stats.ttest_rel(first + margin, second, alternative="greater").pvalue
    below = stats.ttest_rel(first - margin, second, alternative="less").pvalue
    assert equivalence(paired(first, second), margin=margin) == pytest.approx(max(above, below), rel=1e-6)


@given(SEEDS, st.sampled_from([0.01, 0.05, 0.1]))
def test_the_smallest_margin_just_passes_and_holds_the_interval(seed, alpha):
    first, second = sample(seed)
    smallest = smallest_margins([paired(first, second)], alpha)[0]
    assert equivalence(paired(first, second), margin=smallest) == pytest.approx(alpha)
    low, high = stats.ttest_rel(first, second).confidence_interval(1 - 2 * alpha)
    assert smallest == pytest.approx(max(abs(low), abs(high)))


def test_sides_are_alike():
    first, second = sample(1)
    assert equivalence(paired(first, second)) == equivalence(paired(second, first))


@pytest.mark.parametrize(("difference", "p"), [(0.005, 0.0), (0.0, 0.0), (0.02, 1.0)])
def test_the_same_difference_everywhere(difference, p):
    second = np.array([0.5, 0.61, 0.72])
    first = second + difference
    assert equivalence(paired(first, second)) == p
    assert smallest_margins([paired(first, second)]) == [pytest.approx(difference)]


@pytest.mark.parametrize("of_seeds", [0.0, 0.5, 1.0])
def test_a_mean_at_the_margin_passes_about_as_often_as_the_level_says(of_seeds):
    """Also where a seed shifts all tasks the same way: on the tasks' means alone, 16 % and 29 % would pass."""
    normal, draws = np.random.default_rng(5).normal, 4000
    tables = 1 + normal(0, of_seeds, (draws, 1, 3)) + normal(0, 0.7, (draws, 8, 3)) + normal(0, 0.5, (draws, 8, 1))
    assert np.mean([equivalence(table, margin=1.0) <= 0.05 for table in tables]) <= 0.065


def test_on_the_papers_tables():
    pairs = [paired(TABLES[split]["bitfit"], TABLES[split]["layernorm"]) for split in ("dev", "test")]
    assert [round(equivalence(pair), 4) for pair in pairs] == [0.0235, 0.1462]
    assert [round(smallest_margins([pair])[0], 4) for pair in pairs] == [0.009, 0.0118]


@given(st.lists(SEEDS, min_size=1, max_size=5, unique=True))
def test_the_corrected_smallest_margins_just_pass_holm(seeds):
    pairs = [paired(*sample(seed)) for seed in seeds]
    margins = smallest_margins(pairs)

    def corrected(margin: float) -> list[float]:
        return holm([equivalence(pair, margin=margin) for pair in pairs])

    for place, margin in enumerate(margins):
        assert corrected(margin + 1e-9)[place] <= 0.05 < corrected(margin - 1e-9)[place]
