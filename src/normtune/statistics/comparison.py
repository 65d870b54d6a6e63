"""Methods compared pair by pair on the same tasks: every test, corrected for the number of pairs, and a verdict."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.statistics import paired as tests
from normtune.statistics.paired import p_value, smallest_p

if TYPE_CHECKING:
    from normtune.statistics.paired import SignedRank
    from normtune.statistics.scores import ScoreTable

#: The most rows: more are no benchmark, and the exact distribution takes long.
MOST = 1000

PairVerdict = Literal["different", "different within the margin", "equivalent", "undecided"]


@dataclass(frozen=True)
class Pair:
    """Two methods compared; differences are the first minus the second.

    Attributes:
        first: A method.
        second: Another.
        mean: The mean difference over tasks.
        median: The median difference.
        wins: Tasks on which the first method scores higher.
        losses: Tasks on which it scores lower.
        ties: The others.
        interval: Interval of the mean difference, over tasks and seeds.
        signed_rank: Paired test of whether there is a difference.
        holm: Its p, corrected by Holm for the number of pairs.
        fdr: The same, corrected by Benjamini and Hochberg.
        unpaired: p of the Kruskal-Wallis test, which ignores the pairing.
        equivalence: p of the paired test of whether the difference is smaller than the margin.
        equivalence_holm: The same, corrected by Holm.
        smallest_margin: The smallest margin that passes.
        smallest_margin_holm: The smallest one that passes after Holm's correction.
        margin: The margin.
        alpha: The level.
    """

    first: str
    second: str
    mean: float
    median: float
    wins: int
    losses: int
    ties: int
    interval: tuple[float, float]
    signed_rank: SignedRank
    holm: float
    fdr: float
    unpaired: float
    equivalence: float
    equivalence_holm: float
    smallest_margin: float
    smallest_margin_holm: float
    margin: float
    alpha: float

    @property
    def different(self) -> bool:
        """Whether the paired test tells the two apart."""
        return self.holm <= self.alpha

    @property
    def equivalent(self) -> bool:
        """Whether the difference is shown to be smaller than the margin."""
        return self.equivalence_holm <= self.alpha

    @property
    def verdict(self) -> PairVerdict:
        """The verdict."""
        if self.different:
            return "different within the margin" if self.equivalent else "different"
        return "equivalent" if self.equivalent else "undecided"

    @property
    def overlooked(self) -> bool:
        """Whether the unpaired test misses a difference that the paired one finds."""
        return self.different and self.unpaired > self.alpha


@dataclass(frozen=True)
class Comparison:
    """Pairs of methods compared on one set of scores.

    Attributes:
        scores: The scores.
        pairs: The pairs.
    """

    scores: ScoreTable
    pairs: tuple[Pair, ...]


def compare(scores: ScoreTable, against: str | None = None, *, margin: float = 0.01, alpha: float = 0.05) -> Comparison:
    """Compare methods pair by pair: every two of them, or every other one with `against`.

    Args:
        scores: Their scores.
        against: The method that is the second of every pair.
        margin: Mean differences below it count as none, in fractions.
        alpha: Level of every test, after Holm's correction; intervals have the level 1 - alpha.

    Returns:
        The comparison.

    Raises:
        ConfigError: If the margin or the level is out of range.
        UnknownNameError: If there is no such method.
        DataError: If there are fewer than two methods, fewer than three tasks, or too many.
    """
    if not 1e-6 <= alpha < 0.5:
        raise ConfigError(f"The level alpha lies from 0.000001 to below 0.5; got {alpha:g}.")
    if not 0 < margin < 1:
        raise ConfigError(f"The margin is a fraction between 0 and 1 (0.01 is one point); got {margin:g}.")
    if against not in {None, *scores.methods}:
        raise UnknownNameError("method", str(against), scores.methods)
    if len(scores.methods) < 2:
        raise DataError(f"A comparison needs at least two methods; got {', '.join(scores.methods) or 'none'}.")
    if len(scores) < tests.LEAST:
        named = f"there {'is' if len(scores) == 1 else 'are'} {len(scores)}: {', '.join(scores.tasks)}"
        raise DataError(f"A test needs at least {tests.LEAST} tasks; {named}.")
    if len(scores) > MOST:
        raise DataError(f"There are {len(scores):,} tasks; the exact tests take at most {MOST:,}. A row is a task.")
    every = itertools.combinations(scores.methods, 2)
    pairs = [*every] if against is None else [(other, against) for other in scores.methods if other != against]
    arrays = [(scores.of(first), scores.of(second)) for first, second in pairs]
    signs = [np.sign(tests.rounded_differences(*both)) for both in arrays]
    ranks = [tests.signed_rank(*both) for both in arrays]
    holm, fdr = (correct([rank.p for rank in ranks]) for correct in (tests.holm, tests.benjamini_hochberg))
    differences = [scores.differences(*pair) for pair in pairs]
    equal = [tests.equivalence(own, margin) for own in differences]
    equal_holm = tests.holm(equal)
    margins = tests.smallest_margins(differences, alpha)
    compared = [
        Pair(
            first=first,
            second=second,
            mean=float(np.mean(np.subtract(*arrays[place]))),
            median=float(np.median(np.subtract(*arrays[place]))),
            wins=int((signs[place] > 0).sum()),
            losses=int((signs[place] < 0).sum()),
            ties=int((signs[place] == 0).sum()),
            interval=tests.mean_interval(differences[place], level=1 - alpha),
            signed_rank=ranks[place],
            holm=holm[place],
            fdr=fdr[place],
            unpaired=tests.kruskal_wallis(*arrays[place]),
            equivalence=equal[place],
            equivalence_holm=equal_holm[place],
            smallest_margin=tests.smallest_margins([differences[place]], alpha)[0],
            smallest_margin_holm=margins[place],
            margin=margin,
            alpha=alpha,
        )
        for place, (first, second) in enumerate(pairs)
    ]
    return Comparison(scores, tuple(compared))


def upwards(margin: float, digits: int = 4) -> str:
    """A margin that passes, rounded up, since one rounded down would not."""
    return f"{math.ceil(margin * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def interval(pair: Pair) -> str:
    """The interval of the mean difference."""
    return f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}"


def sentence(pair: Pair) -> str:
    """The conclusion on two methods, as a sentence."""
    margin, rank = f"{pair.margin:g}", pair.signed_rank
    mean = f"mean difference {pair.mean:+.4f}, {100 * (1 - pair.alpha):g}% interval {interval(pair)}"
    tested = f"Wilcoxon {_stated(rank.p)}" + ("" if pair.holm == rank.p else f", {p_value(pair.holm)} after Holm")
    corrected = "" if pair.equivalence_holm == pair.equivalence else " after Holm"
    tost = f"TOST {_stated(pair.equivalence_holm)}{corrected}"
    if not pair.different:
        if pair.equivalent:
            return f"{pair.first} and {pair.second} are equivalent within {margin}: {mean}; {tost}."
        return (
            f"{pair.first} and {pair.second} cannot be told apart, nor shown to be equivalent within {margin}: {mean};"
            f" {tested}; the smallest margin that passes is {upwards(pair.smallest_margin_holm)}."
        )
    up = rank.positive > rank.negative
    better, worse = (pair.first, pair.second) if up else (pair.second, pair.first)
    but = "" if (pair.mean > 0) == up else " on most tasks, though not on average"
    within = f", but by less than {margin}" if pair.equivalent else ""
    proof = f"; {tost}" if pair.equivalent else ""
    return f"{better} scores higher than {worse}{but}{within}: {mean}; {tested}{proof}."


def _stated(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def warnings(comparison: Comparison) -> list[str]:
    """What a reader of the comparison must know."""
    return [
        text for text in (_few(comparison), _overlooked(comparison), _shifted(comparison), _seeds(comparison)) if text
    ]


def _few(comparison: Comparison) -> str:
    pairs, alpha = comparison.pairs, comparison.pairs[0].alpha
    counts = [pair.wins + pair.losses for pair in pairs]
    tasks = min(counts)

    def least(number: int) -> float:
        """The least corrected p of the pair with the fewest tasks, had it so many, if all differences were clear."""
        return max(tests.holm([smallest_p(max(count, number)) for count in counts]))

    if least(tasks) <= alpha:
        return ""
    enough = next(number for number in range(tasks, 100) if least(number) <= alpha)
    apart = "" if tasks == len(comparison.scores) else f" on which two methods differ (of {len(comparison.scores)})"
    many = "1 task" if tasks == 1 else f"{tasks} tasks"
    corrected = f", {p_value(least(tasks))} after Holm" if len(pairs) > 1 else ""
    comparisons = f"{len(pairs)} comparisons" if len(pairs) > 1 else "one comparison"
    return (
        f"With {many}{apart} the exact test cannot give a p below {p_value(smallest_p(tasks))}{corrected},"
        f" however clear the difference; for {comparisons} at {alpha:g} it takes at least {enough} tasks."
    )


def _overlooked(comparison: Comparison) -> str:
    missed = [pair for pair in comparison.pairs if pair.overlooked]
    if not missed:
        return ""
    chance = [pair for pair in missed if "random" in {pair.first, pair.second}]
    named = ", ".join(f"{pair.first} from {pair.second} (p = {p_value(pair.unpaired, 5)})" for pair in chance or missed)
    return (
        f"The unpaired test cannot tell {'even ' if chance else ''}{named}, where the paired test can: it measures the"
        " difference of methods against the far larger one of tasks. Its large p is no evidence of equivalence."
    )


def _shifted(comparison: Comparison) -> str:
    shifted = [
        f"{pair.first} from {pair.second}"
        for pair in comparison.pairs
        if pair.different
        and pair.interval[0] < 0 < pair.interval[1]
        and tests.seeds_shift(comparison.scores.differences(pair.first, pair.second))
    ]
    if not shifted:
        return ""
    return (
        f"Wilcoxon's test tells {', '.join(shifted)}, but its tasks share their seeds, and here a seed shifts all tasks"
        " the same way, which that test ignores. The interval counts it, and includes zero: run more seeds."
    )


def _seeds(comparison: Comparison) -> str:
    if max(len(seeds) for seeds in comparison.scores.seeds) > 1:
        return ""
    return "There is one seed, so none of these numbers covers how much a score changes from run to run."
