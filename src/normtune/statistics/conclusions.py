"""What follows from a comparison of methods, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normtune.statistics.paired import p_value, smallest_p

if TYPE_CHECKING:
    from normtune.statistics.comparison import Comparison, Pair


def upwards(margin: float) -> str:
    """A margin that passes, rounded up, since one rounded down would not."""
    return f"{math.ceil(margin * 1e4 - 1e-9) / 1e4:.4f}"


def interval(pair: Pair) -> str:
    """The bootstrap interval of the mean difference."""
    return f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}"


def sentence(pair: Pair) -> str:
    """What follows for two methods."""
    margin, rank = f"{pair.equivalence.margin:g}", pair.signed_rank
    mean = f"mean difference {pair.effect.mean:+.4f}, {1 - pair.alpha:.0%} interval {interval(pair)}"
    tested = f"Wilcoxon {_stated(rank.p)}" + ("" if pair.holm == rank.p else f", {p_value(pair.holm)} after Holm")
    corrected = "" if pair.equivalence_holm == pair.equivalence.p else " after Holm"
    tost = f"TOST {_stated(pair.equivalence_holm)}{corrected}"
    if not pair.different:
        if pair.equivalent:
            return f"{pair.first} and {pair.second} are equivalent within {margin}: {mean}; {tost}."
        return (
            f"{pair.first} and {pair.second} cannot be told apart, nor shown to be equivalent within {margin}: {mean};"
            f" {tested}; the smallest margin that passes is {upwards(pair.smallest_margin)}."
        )
    up = rank.positive > rank.negative
    better, worse = (pair.first, pair.second) if up else (pair.second, pair.first)
    but = "" if (pair.effect.mean > 0) == up else " on most tasks, though not on average"
    within = f", but by less than {margin}" if pair.equivalent else ""
    proof = f"; {tost}" if pair.equivalent else ""
    return f"{better} scores higher than {worse}{but}{within}: {mean}; {tested}{proof}."


def _stated(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def warnings(comparison: Comparison) -> list[str]:
    """What a reader of the comparison must know."""
    return [text for text in (_few(comparison), _overlooked(comparison), _seeds(comparison)) if text]


def _few(comparison: Comparison) -> str:
    pairs, tasks, alpha = len(comparison.pairs), len(comparison.scores), comparison.settings.alpha
    if smallest_p(tasks) * pairs <= alpha:
        return ""
    enough = next(number for number in range(tasks, 100) if smallest_p(number) * pairs <= alpha)
    corrected = f", {p_value(min(1.0, smallest_p(tasks) * pairs))} after Holm" if pairs > 1 else ""
    comparisons = f"{pairs} comparisons" if pairs > 1 else "one comparison"
    return (
        f"With {tasks} tasks the exact test cannot give a p below {p_value(smallest_p(tasks))}{corrected}, however"
        f" clear the difference; for {comparisons} at {alpha:g} it takes at least {enough} tasks. The intervals are"
        " narrower than they say where tasks are that few."
    )


def _overlooked(comparison: Comparison) -> str:
    missed = [pair for pair in comparison.pairs if pair.overlooked]
    if not missed:
        return ""
    chance = [pair for pair in missed if "random" in {pair.first, pair.second}]
    named = ", ".join(f"{pair.first} from {pair.second} (p = {p_value(pair.unpaired, 5)})" for pair in chance or missed)
    return (
        f"The unpaired test cannot tell {'even ' if chance else ''}{named}, where the paired test can: it sets the"
        " difference of methods against the far larger one of tasks. A large p of it is no evidence of equivalence."
    )


def _seeds(comparison: Comparison) -> str:
    if max(len(seeds) for seeds in comparison.scores.seeds) > 1:
        return ""
    return "There is one seed: how much a score changes from run to run is in none of these numbers."
