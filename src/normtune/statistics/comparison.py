"""Methods compared pair by pair on the same tasks: every test, corrected for their number, and what follows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.statistics import paired as tests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.statistics.paired import Effect, Equivalence, SignedRank
    from normtune.statistics.scores import Scores

#: More rows than this are no benchmark, and the exact distribution takes long.
MOST = 1000

Verdict = Literal["different", "different within the margin", "equivalent", "undecided"]


@dataclass(frozen=True)
class Settings:
    """How methods are compared.

    Attributes:
        margin: Mean differences below it count as none, in fractions.
        alpha: Level of every test, after Holm's correction; intervals hold 1 - alpha.
        draws: Draws of the bootstrap.
        seed: Seeds them.
    """

    margin: float = 0.01
    alpha: float = 0.05
    draws: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"The level alpha lies between 0 and 0.5; got {self.alpha:g}.")
        if not 0 < self.margin < 1:
            raise ConfigError(f"The margin is a fraction between 0 and 1 (0.01 is one point); got {self.margin:g}.")


@dataclass(frozen=True)
class Pair:
    """Two methods compared; differences are the first minus the second.

    Attributes:
        first: A method.
        second: Another.
        effect: How large the difference is.
        interval: Bootstrap interval of its mean, over tasks and seeds.
        signed_rank: Paired test of whether there is one.
        equivalence: Paired test of whether it is smaller than the margin.
        unpaired: p of the Kruskal-Wallis test, which forgets what belongs together.
        holm: The signed-rank p, corrected by Holm for the number of pairs.
        fdr: The same, corrected by Benjamini and Hochberg.
        equivalence_holm: The equivalence p, corrected by Holm.
        smallest_margin: The smallest margin that passes so corrected.
        alpha: The level.
    """

    first: str
    second: str
    effect: Effect
    interval: tuple[float, float]
    signed_rank: SignedRank
    equivalence: Equivalence
    unpaired: float
    holm: float
    fdr: float
    equivalence_holm: float
    smallest_margin: float
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
    def verdict(self) -> Verdict:
        """What follows."""
        if self.different:
            return "different within the margin" if self.equivalent else "different"
        return "equivalent" if self.equivalent else "undecided"

    @property
    def overlooked(self) -> bool:
        """Whether the unpaired test does not see a difference that the paired one sees."""
        return self.different and self.unpaired > self.alpha


@dataclass(frozen=True)
class Comparison:
    """Pairs of methods compared on one set of scores.

    Attributes:
        scores: The scores.
        pairs: The pairs.
        settings: How they were compared.
    """

    scores: Scores
    pairs: tuple[Pair, ...]
    settings: Settings


def pairs_of(scores: Scores, against: str | None = None) -> list[tuple[str, str]]:
    """Every two methods, or every other method with `against`.

    Raises:
        UnknownNameError: If there is no such method.
    """
    if against is None:
        return [*itertools.combinations(scores.methods, 2)]
    if against not in scores.methods:
        raise UnknownNameError("method", against, scores.methods)
    return [(method, against) for method in scores.methods if method != against]


def compare(
    scores: Scores, pairs: Sequence[tuple[str, str]] | None = None, *, settings: Settings | None = None
) -> Comparison:
    """Compare methods pair by pair.

    Args:
        scores: Their scores.
        pairs: The pairs; None takes every two methods.
        settings: How.

    Returns:
        The comparison.

    Raises:
        DataError: If there are fewer than two methods, fewer than three tasks, or too many.
    """
    if len(scores.methods) < 2:
        raise DataError(
            f"A comparison needs at least two methods; there is only {', '.join(scores.methods) or 'none'}."
        )
    if len(scores) < tests.LEAST:
        named = f"there {'is' if len(scores) == 1 else 'are'} {len(scores)}: {', '.join(scores.tasks)}"
        raise DataError(f"A test needs at least {tests.LEAST} tasks; {named}.")
    if len(scores) > MOST:
        raise DataError(f"There are {len(scores):,} tasks; the exact tests take at most {MOST:,}. A row is a task.")
    settings, pairs = settings or Settings(), pairs or pairs_of(scores)
    arrays = [(scores.of(first), scores.of(second)) for first, second in pairs]
    ranks = [tests.signed_rank(*both) for both in arrays]
    equal = [tests.equivalence(*both, margin=settings.margin, alpha=settings.alpha) for both in arrays]
    holm, fdr = (correct([rank.p for rank in ranks]) for correct in (tests.holm, tests.benjamini_hochberg))
    equal_holm = tests.holm([test.p for test in equal])
    smallest = tests.smallest_margins(arrays, settings.alpha)
    compared = [
        Pair(
            first=first,
            second=second,
            effect=tests.effect(*arrays[place]),
            interval=tests.bootstrap_interval(
                scores.differences(first, second), level=1 - settings.alpha, draws=settings.draws, seed=settings.seed
            ),
            signed_rank=ranks[place],
            equivalence=equal[place],
            unpaired=tests.kruskal_wallis(*arrays[place]),
            holm=holm[place],
            fdr=fdr[place],
            equivalence_holm=equal_holm[place],
            smallest_margin=smallest[place],
            alpha=settings.alpha,
        )
        for place, (first, second) in enumerate(pairs)
    ]
    return Comparison(scores, tuple(compared), settings)
