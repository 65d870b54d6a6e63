"""Is a difference too small to matter? Two one-sided paired t-tests (TOST; Schuirmann 1987)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from normtune.statistics.paired import Floats, holm, paired, rounded_differences

_HALVINGS = 60


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided paired t-tests (TOST).

    Attributes:
        margin: Differences of the means below it count as none.
        p: The larger of the two one-sided p.
        smallest: The margin down to which the test passes at the level it was asked for.
    """

    margin: float
    p: float
    smallest: float


def equivalence(first: ArrayLike, second: ArrayLike, *, margin: float = 0.01, alpha: float = 0.05) -> Equivalence:
    """Is the mean difference smaller than a margin, in both directions?

    Args:
        first: Scores of one method, one a task.
        second: Scores of the other, on the same tasks.
        margin: The difference that would matter.
        alpha: Level at which the smallest margin is looked for.

    Returns:
        The test. It passes where `p` is not above the level, which is where the interval that holds 1 - 2 alpha lies
        within the margin.
    """
    size, error, count = _size_and_error(first, second)
    p = float(_p(np.array([size]), np.array([error]), margin, count)[0])
    return Equivalence(margin, p, size + float(stats.t.ppf(1 - alpha, count - 1)) * error)


def smallest_margins(pairs: Sequence[tuple[ArrayLike, ArrayLike]], alpha: float = 0.05) -> list[float]:
    """For each of several comparisons the smallest margin that passes after Holm's correction for all of them.

    Args:
        pairs: Scores of the two methods of each comparison, all on the same tasks.
        alpha: The level.

    Returns:
        The margins; of a single comparison it is that of `equivalence`.
    """
    facts = [_size_and_error(first, second) for first, second in pairs]
    sizes, errors = np.array([fact[0] for fact in facts]), np.array([fact[1] for fact in facts])
    count = facts[0][2]
    margins = []
    for place in range(len(facts)):
        low, high = (
            sizes[place] + float(stats.t.ppf(1 - level, count - 1)) * errors[place]
            for level in (alpha, alpha / len(facts))
        )
        for _ in range(_HALVINGS if high > low else 0):
            middle = (low + high) / 2
            passes = holm([float(p) for p in _p(sizes, errors, middle, count)])[place] <= alpha
            low, high = (low, middle) if passes else (middle, high)
        margins.append(float(high))
    return margins


def _size_and_error(first: ArrayLike, second: ArrayLike) -> tuple[float, float, int]:
    """The mean difference without its sign, its standard error, and the number of tasks."""
    a, b = paired(first, second)
    differences = a - b
    same = np.ptp(rounded_differences(a, b)) == 0
    error = 0.0 if same else float(np.std(differences, ddof=1)) / math.sqrt(len(a))
    return abs(float(np.mean(differences))), error, len(a)


def _p(sizes: Floats, errors: Floats, margin: float, count: int) -> NDArray[np.float64]:
    """The larger of the two one-sided p, which is that of the side nearer to the margin."""
    room = margin - sizes
    certain = np.where(room > 0, 0.0, 1.0)  # where every task has the same difference
    p: NDArray[np.float64] = np.where(
        errors == 0, certain, stats.t.sf(room / np.where(errors == 0, 1.0, errors), count - 1)
    )
    return p
