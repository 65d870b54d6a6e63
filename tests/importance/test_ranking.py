"""Table 1 against a computation by hand, and the concordance against scipy's."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from normtune.config import Sub
from normtune.importance.ranking import between_heads, component_means, concordance, ranking, shares
from normtune.records.fisher import Information

SUBS: tuple[Sub, ...] = ("weight", "bias")
NAMES = ("query", "output.dense", "output.LayerNorm", "attention.output.LayerNorm")
SIZES = {"query": (64, 8), "output.dense": (120, 8), "output.LayerNorm": (8, 8), "attention.output.LayerNorm": (8, 8)}


def row(component: str, layer: int | None, sub: Sub, entries: int, *by_seed: float) -> Information:
    return Information(
        component=component,
        layer=layer,
        sub=sub,
        entries=entries,
        total=sum(by_seed) / len(by_seed),
        by_seed=by_seed,
    )


def rows(seed: int, heads: int = 1) -> list[Information]:
    """Two layers of four components, and parameters outside the layers with far larger sums."""
    draw = np.random.default_rng(seed)
    inside = [
        row(name, layer, sub, size, *draw.exponential(size, heads))
        for layer in range(2)
        for name in NAMES
        for sub, size in zip(SUBS, SIZES[name], strict=True)
    ]
    outside = [
        row(name, None, "weight", 500, *[1e9] * heads) for name in ("embeddings.word_embeddings", "pooler.dense")
    ]
    return [outside[0], *inside, outside[1]]


def test_the_mean_is_over_all_entries_of_a_component() -> None:
    own = [row("a", 0, "weight", 4, 1.0), row("a", 0, "bias", 2, 3.0), row("a", 1, "weight", 4, 8.0)]
    # (1 + 3 + 8) / (4 + 2 + 4), and not the mean of the means 1/4, 3/2 and 2.
    assert component_means(own) == {"a": 1.2}


def test_large_components_do_not_win_by_their_size() -> None:
    own = [row("dense", 0, "weight", 1000, 10.0), row("norm", 0, "weight", 10, 1.0)]
    assert [*ranking({"t": component_means(own)})] == ["norm", "dense"]


def test_what_is_outside_the_layers_has_no_part() -> None:
    assert component_means(rows(0)).keys() == set(NAMES)
    assert component_means([row("pooler.dense", None, "bias", 3, 1.0)]) == {}


def test_table_1_by_hand() -> None:
    tasks = {f"task{seed}": rows(seed) for seed in range(3)}
    wanted = dict.fromkeys(NAMES, 0.0)
    for information in tasks.values():
        means = {}
        for name in NAMES:
            own = [r for r in information if r.component == name]
            means[name] = sum(r.total for r in own) / (2 * sum(SIZES[name]))
        for name in NAMES:
            wanted[name] += means[name] / sum(means.values())
    found = ranking({task: component_means(information) for task, information in tasks.items()})
    assert found == pytest.approx(wanted, rel=1e-12)
    assert [*found] == sorted(NAMES, key=lambda name: -wanted[name])
    assert sum(found.values()) == pytest.approx(3)


def test_a_task_counts_as_much_whatever_its_size() -> None:
    means = {"a": 3.0, "b": 1.0}
    assert shares(means) == {"a": 0.75, "b": 0.25}
    assert ranking({"one": means, "two": {"a": 1e-9, "b": 3e-9}}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert ranking({"none": {"a": 0.0, "b": 0.0}, "two": means}) == {"a": 0.75, "b": 0.25}
    assert ranking({}) == {}


@pytest.mark.parametrize("size", [2, 3, 8, 15])
def test_concordance_is_kendalls_tau(size: int) -> None:
    draw = np.random.default_rng(size)
    seen = set()
    for _ in range(10):
        one, other = ({str(i): float(v) for i, v in enumerate(draw.permutation(size))} for _ in range(2))
        found = concordance(one, other)
        tau = kendalltau([*one.values()], [*other.values()]).statistic
        assert found == pytest.approx((tau + 1) / 2)
        assert concordance(other, one) == found
        seen.add(round(found, 9))
    assert len(seen) > 1


def test_concordance_does_not_depend_on_the_order_of_names() -> None:
    one, other = {"a": 1.0, "b": 2.0, "c": 3.0}, {"c": 1.0, "a": 2.0, "b": 3.0}
    assert concordance(one, other) == pytest.approx(1 / 3)
    assert concordance(one, dict(reversed(other.items()))) == concordance(one, other)
    assert concordance(one, one) == 1
    assert concordance(one, {name: -value for name, value in one.items()}) == 0
    assert concordance({"a": 1.0}, {"a": 2.0}) == concordance({}, {}) == 1


def test_heads_apart_and_between_them() -> None:
    information = rows(4, heads=3)
    apart = [component_means(information, head) for head in range(3)]
    for head, means in enumerate(apart):
        for name in NAMES:
            own = [r.by_seed[head] for r in information if r.component == name]
            assert means[name] == pytest.approx(sum(own) / (2 * sum(SIZES[name])))
    together = component_means(information)
    assert together == pytest.approx({name: np.mean([means[name] for means in apart]) for name in NAMES})
    taus = [kendalltau([*a.values()], [*b.values()]).statistic for a, b in combinations(apart, 2)]
    found = between_heads(information)
    assert found == pytest.approx((np.mean(taus) + 1) / 2)
    assert found is not None
    assert 0 < found < 1


def test_one_head_alone_agrees_with_nobody() -> None:
    assert between_heads(rows(0)) is None
    assert between_heads([]) is None
