"""Is a difference too small to matter? Two one-sided paired t-tests (TOST; Schuirmann 1987)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from normtune.statistics.paired import holm, rounded_differences

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
    facts = _size_and_error(first, second)
    return Equivalence(margin, _p(*facts, margin), _smallest(*facts, alpha))


def smallest_margins(pairs: Sequence[tuple[ArrayLike, ArrayLike]], alpha: float = 0.05) -> list[float]:
    """For each of several comparisons the smallest margin that passes after Holm's correction for all of them.

    Args:
        pairs: Scores of the two methods of each comparison, all on the same tasks.
        alpha: The level.

    Returns:
        The margins; of a single comparison it is that of `equivalence`.
    """
    facts = [_size_and_error(first, second) for first, second in pairs]
    margins = []
    for place, own in enumerate(facts):
        low, high = _smallest(*own, alpha), _smallest(*own, alpha / len(facts))
        for _ in range(_HALVINGS if high > low else 0):
            middle = (low + high) / 2
            passes = holm([_p(*each, middle) for each in facts])[place] <= alpha
            low, high = (low, middle) if passes else (middle, high)
        margins.append(high)
    return margins


def _size_and_error(first: ArrayLike, second: ArrayLike) -> tuple[float, float, int]:
    """The mean difference without its sign, its standard error, and the number of tasks."""
    differences = np.subtract(first, second)
    same = np.ptp(rounded_differences(first, second)) == 0
    error = 0.0 if same else float(stats.sem(differences))
    return abs(float(np.mean(differences))), error, len(differences)


def _smallest(size: float, error: float, count: int, level: float) -> float:
    """The smallest margin that passes at a level."""
    return size + float(stats.t.ppf(1 - level, count - 1)) * error


def _p(size: float, error: float, count: int, margin: float) -> float:
    """The larger of the two one-sided p, which is that of the side nearer to the margin."""
    if error == 0:  # every task has the same difference
        return 0.0 if margin > size else 1.0
    return float(special.stdtr(count - 1, (size - margin) / error))
