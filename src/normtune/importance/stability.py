"""How many examples Fisher information needs: they are added until the ranking or the mask no longer changes.

Examples come in a seeded random order and are dealt out to eight groups. Whenever their number has doubled, the groups
are split into two halves in the seven balanced ways of a Hadamard design, and the halves are compared: the share of
pairs of components that both rank alike, or the share of a mask that both choose. The error is the standard deviation
over the seven ways, divided by the root of seven. A half has half of the examples, so what all of them give is more
stable still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.linalg import hadamard

from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.importance.fisher import Estimation, Fisher, Request, information, scores, totals
from normtune.importance.masks import top
from normtune.importance.ranking import component_means, concordance
from normtune.importance.tally import Tally, merged
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.records.fisher import SplitHalf, Stability, Tolerance

GROUPS = 8
#: Examples before the first look, and the factor by which their number grows until the next.
FIRST, GROWTH = 32, 2


def until_stable(
    base: Base,
    task: Task,
    encoded: Encoded,
    request: Request,
    asked: Tolerance,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Fisher, Stability]:
    """Fisher information on as many examples as it needs, and how it became stable.

    The number is found with the first head seed; the other seeds take the same examples. The arguments are those of
    `fisher`, and `asked`, which says when to stop.
    """
    estimation = Estimation(base, task, encoded, request)
    looks = []
    reached = False
    with estimation.head(request.head_seeds[0]):
        for order, groups in rounds(estimation, len(encoded), asked.seed, progress):
            if len(order) < GROUPS:  # halves of so few may be empty
                break
            looks.append(look(groups, asked, request))
            reached = looks[-1].agreement - looks[-1].error >= 1 - asked.tolerance
            if reached:
                break
    stability = Stability(asked=asked, reached=reached, examples=len(order), available=len(encoded), looks=tuple(looks))
    later = [estimation.count(seed, order, progress) for seed in request.head_seeds[1:]]
    return estimation.fisher([merged(groups), *later], order), stability


def rounds(
    estimation: Estimation, available: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[np.ndarray, list[Tally]]]:
    """Add examples in an order seeded by `seed`, and yield whenever their number has doubled, and at the end.

    Yields:
        The numbers of the examples so far, in their order, and the sums of each group.
    """
    order = np.random.default_rng([seed, 0xF15]).permutation(available)
    groups = [estimation.tally() for _ in range(GROUPS)]
    done, target = 0, FIRST
    while done < available:
        target = min(target, available)
        for number, group in enumerate(groups):
            positions = np.arange(done, target)
            for batch in estimation.batches(order[positions[positions % GROUPS == number]]):
                estimation.add(batch, group)
                progress(len(batch))
        done, target = target, target * GROWTH
        yield order[:done], groups


def look(groups: Sequence[Tally], asked: Tolerance, request: Request) -> SplitHalf:
    """Compare the halves by what `asked` names."""
    shares = [agreement(one, other, asked, request) for one, other in halves(groups)]
    error = float(np.std(shares, ddof=1) / len(shares) ** 0.5)
    return SplitHalf(examples=sum(own.examples for own in groups), agreement=float(np.mean(shares)), error=error)


def halves(groups: Sequence[Tally]) -> Iterator[tuple[Tally, Tally]]:
    """Two halves of the examples, for each balanced way to split the groups."""
    for row in hadamard(GROUPS)[1:]:
        one, other = ([own for own, sign in zip(groups, row, strict=True) if sign == side] for side in (1, -1))
        yield merged(one), merged(other)


def agreement(one: Tally, other: Tally, asked: Tolerance, request: Request) -> float:
    """The share of the pairs of components, or of the mask, in which two halves agree."""
    within = request.within
    if asked.of == "ranking":
        return concordance(*(component_means(information(within, [totals(half, within)])) for half in (one, other)))
    each = [scores([half], request.single) for half in (one, other)]
    if asked.of == "least-mask":
        each = [-own for own in each]
    return overlap(*(top(own, fraction=asked.fraction) for own in each))


def overlap(one: Selection, other: Selection) -> float:
    """The share of their entries that two masks of one size have in common."""
    return len(one & other) / len(one) if len(one) else 1.0
