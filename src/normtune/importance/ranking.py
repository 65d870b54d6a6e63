"""Components ranked by their mean Fisher information: the paper's table 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from normtune.records.fisher import Information


def component_means(information: Iterable[Information], head: int | None = None) -> dict[str, float]:
    """Mean Fisher information of each component over all of its entries: all layers, weight and bias together.

    Embeddings, pooler and head are not in table 1. `head` is the position of one head seed, for its values alone.
    """
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for row in information:
        if row.layer is not None:
            sums[row.component] += row.total if head is None else row.by_seed[head]
            counts[row.component] += row.entries
    return {name: sums[name] / counts[name] for name in sums}


def shares(means: Mapping[str, float]) -> dict[str, float]:
    """Component means divided by their own sum."""
    whole = sum(means.values())
    return {name: mean / whole if whole else 0.0 for name, mean in means.items()}


def ranking(by_task: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Table 1: each task's component means divided by their own sum, then added over tasks; the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for means in by_task.values():
        for name, share in shares(means).items():
            sums[name] += share
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def concordance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The share of pairs of components that both rank in the same order (Kendall's tau is twice that minus one)."""
    pairs = list(combinations(one, 2))
    same = sum((one[a] > one[b]) == (other[a] > other[b]) for a, b in pairs)
    return same / len(pairs) if pairs else 1.0


def between_heads(information: Sequence[Information]) -> float | None:
    """Mean concordance of the rankings by any two head seeds; None where there is only one."""
    seeds = range(len(information[0].by_seed)) if information else range(0)
    rankings = [component_means(information, head) for head in seeds]
    values = [concordance(one, other) for one, other in combinations(rankings, 2)]
    return sum(values) / len(values) if values else None
