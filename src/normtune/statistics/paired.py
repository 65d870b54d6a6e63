"""Statistics on the scores of two methods: pure functions over two arrays, the scores of both on the same tasks.

The last bits of a score depend on how it was computed: 0.3 - 0.2 and 0.2 - 0.1 differ. So ties are looked for after
rounding to twelve digits of the largest score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

#: The fewest tasks that make a sample.
LEAST = 3
_DIGITS = 12
_HALVINGS = 60


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test.

    Attributes:
        positive: Sum of the ranks of the positive differences.
        negative: Sum of the ranks of the negative ones.
        p: Two-sided p, from the exact permutation distribution.
        smallest: The smallest p that this many tasks with a difference allow.
    """

    positive: float
    negative: float
    p: float
    smallest: float


def kruskal_wallis(first: ArrayLike, second: ArrayLike) -> float:
    """The p of the Kruskal-Wallis test as the paper used it: as if the two methods had been scored on unrelated tasks.

    It is from the chi-squared distribution, corrected for ties; 1 if all scores are the same.
    """
    a, b = _rounded(np.array([first, second]), _size(first, second))
    return 1.0 if np.ptp([a, b]) == 0 else float(stats.kruskal(a, b).pvalue)


def signed_rank(first: ArrayLike, second: ArrayLike) -> SignedRank:
    """Wilcoxon's signed-rank test by its exact permutation distribution, ties and zeros included.

    Differences of zero are left out, equal ones share the mean of their ranks, and a dynamic program sums the
    distribution of just these ranks over all sign flips. `scipy.stats.wilcoxon(method="exact")` takes that of ranks
    without ties even where there are ties; its `PermutationMethod` agrees with this. If no task has a difference, the p
    is 1.
    """
    differences = rounded_differences(first, second)
    differences = differences[differences != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(differences))).astype(np.int64)  # mid-ranks are halves
    positive, total = int(doubled[differences > 0].sum()), int(doubled.sum())
    chances = _chances(doubled)
    distance = np.abs(2 * np.arange(total + 1) - total)
    return SignedRank(
        positive=positive / 2,
        negative=(total - positive) / 2,
        p=min(1.0, float(chances[distance >= abs(2 * positive - total)].sum())),
        smallest=smallest_p(len(differences)),
    )


def smallest_p(tasks: int) -> float:
    """The smallest two-sided p that a test by sign flips can give with this many tasks."""
    return min(1.0, 2.0 ** (1 - tasks))


def equivalence(differences: Sequence[Floats], margin: float = 0.01) -> float:
    """The p of two one-sided t-tests that the mean difference is below a margin (TOST; Schuirmann 1987).

    It is the larger of their two p, and at most alpha where the 1 - 2 alpha interval of `mean_interval` lies within the
    margin. `differences` are as there.
    """
    return _p(*_size_and_error(differences), margin)


def smallest_margins(pairs: Sequence[Sequence[Floats]], alpha: float = 0.05) -> list[float]:
    """For each of several comparisons the smallest margin that passes after Holm's correction for all of them.

    Args:
        pairs: For each comparison its differences, as in `mean_interval`.
        alpha: The level.

    Returns:
        The margins; a single comparison is not corrected.
    """
    facts = [_size_and_error(differences) for differences in pairs]
    margins = []
    for place, own in enumerate(facts):
        low, high = _smallest(*own, alpha), _smallest(*own, alpha / len(facts))
        for _ in range(_HALVINGS if high > low else 0):
            middle = (low + high) / 2
            passes = holm([_p(*each, middle) for each in facts])[place] <= alpha
            low, high = (low, middle) if passes else (middle, high)
        margins.append(high)
    return margins


def mean_interval(differences: Sequence[Floats] | Floats, *, level: float = 0.95) -> tuple[Any, Any]:
    """A Student's t interval for the mean difference over tasks, where tasks and seeds are both samples.

    A seed can shift all tasks the same way, as the head's initial values do, and more tasks do not average that out.
    For n tasks with the same k seeds each, the variance of the mean is (T + S - E) / (n k), with T, S and E from
    `mean_squares` (Scheffé 1959, section 7.4), and its degrees of freedom are Satterthwaite's (1946), but at least
    min(n, k) - 1. If S is at most E, or tasks differ in their number of seeds, only the tasks' means are used, as in a
    paired t-test.

    Args:
        differences: For each task the differences of its seeds, first method minus second; or many such tables at once,
            as an array [..., tasks, seeds].
        level: The confidence level.

    Returns:
        The lower and the upper end.
    """
    mean, error, freedom = _mean_and_error(differences)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    return mean - half, mean + half


def seeds_shift(differences: Sequence[Floats]) -> bool:
    """Whether `mean_interval` counts the seeds' own variance: S is larger than E."""
    if len({*map(len, differences)}) > 1 or len(differences[0]) < 2:
        return False
    _, s, e = mean_squares(np.asarray(differences))
    return bool(s > e)


def _mean_and_error(differences: Sequence[Floats] | Floats) -> tuple[Any, Any, Any]:
    """The mean difference, its standard error and that error's degrees of freedom, by `mean_interval`'s rule."""
    same = len({*map(np.shape, differences)}) == 1
    table = np.asarray(differences if same else [[np.mean(task)] for task in differences], dtype=np.float64)
    n, k = table.shape[-2:]
    if k < 2:
        variance, freedom = table.mean(-1).var(-1, ddof=1) / n, np.asarray(n - 1.0)
    else:
        t, s, e = (square / (n * k) for square in mean_squares(table))
        alike, total = s > e, t + s - e
        with np.errstate(invalid="ignore"):
            freedom = total**2 / (t**2 / (n - 1) + s**2 / (k - 1) + e**2 / ((n - 1) * (k - 1)))
        variance = np.where(alike, total, t)
        freedom = np.where(alike, np.fmax(freedom, min(n, k) - 1), n - 1)
    return table.mean((-2, -1)), np.sqrt(variance), freedom


def mean_squares(table: Floats) -> tuple[Floats, Floats, Floats]:
    """T, S and E: mean squares of tasks, of seeds and of the rest of an array [..., tasks, seeds].

    They are those of a two-way analysis of variance (Scheffé 1959, section 4.3).
    """
    n, k = table.shape[-2:]
    tasks, seeds = table.mean(-1, keepdims=True), table.mean(-2, keepdims=True)
    rest = table - tasks - seeds + table.mean((-2, -1), keepdims=True)
    return (
        k * tasks.var((-2, -1), ddof=1),
        n * seeds.var((-2, -1), ddof=1),
        (rest**2).sum((-2, -1)) / ((n - 1) * (k - 1)),
    )


def holm(values: Sequence[float]) -> list[float]:
    """Each p with Holm's correction, which keeps the chance of even one false finding at the level."""
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(values)[order] * factors))
    return [float(value) for value in corrected]


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """Each p with the Benjamini-Hochberg correction, which keeps the expected share of false findings at the level."""
    return [float(value) for value in np.atleast_1d(stats.false_discovery_control(values, method="bh"))]


def p_value(p: float, digits: int = 4) -> str:
    """A p as text with so many decimals, or ``< 0.0001`` where it is smaller than they can show."""
    least = 10.0**-digits
    return f"< {least:.{digits}f}" if p < least else f"{p:.{digits}f}"


def rounded_differences(first: ArrayLike, second: ArrayLike) -> Floats:
    """The differences in units of the largest score, rounded so that ties are equal: for their signs and ranks."""
    return _rounded(np.subtract(first, second), _size(first, second))


def _size(first: ArrayLike, second: ArrayLike) -> float:
    return float(np.abs(np.array([first, second])).max())


def _rounded(values: Floats, size: float) -> Floats:
    """The values in units of `size`, rounded so that those that differ only in their last bits are equal."""
    return np.round(values / size, _DIGITS) if size else values


def _chances(ranks: NDArray[np.int64]) -> Floats:
    """The probability of each sum of ranks if every rank counts with probability 1/2."""
    chances = np.ones(1)
    for rank in ranks:
        taken = np.zeros(len(chances) + int(rank))
        taken[: len(chances)] += chances / 2
        taken[int(rank) :] += chances / 2
        chances = taken
    return chances


def _size_and_error(differences: Sequence[Floats]) -> tuple[float, float, float]:
    """The mean difference without its sign, its standard error, and that error's degrees of freedom."""
    mean, error, freedom = map(float, _mean_and_error(differences))
    return abs(mean), 0.0 if error <= 10.0**-_DIGITS * abs(mean) else error, freedom


def _smallest(size: float, error: float, freedom: float, level: float) -> float:
    """The smallest margin that passes at a level."""
    return size + float(stats.t.ppf(1 - level, freedom)) * error


def _p(size: float, error: float, freedom: float, margin: float) -> float:
    """The larger of the two one-sided p: that of the side nearer to the margin."""
    if error == 0:  # every task has the same difference
        return 0.0 if margin > size else 1.0
    return float(special.stdtr(freedom, (size - margin) / error))
