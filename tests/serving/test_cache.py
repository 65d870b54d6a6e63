"""The cache, against a plain list in the order of use, and against what theory expects of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from normtune.serving.cache import Cache

USES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4)), max_size=60)


@given(USES, st.integers(1, 9))
def test_it_holds_the_most_recently_used_that_fit(uses: list[tuple[str, int]], limit: int) -> None:
    dropped: list[str] = []
    cache: Cache[int] = Cache(limit, lambda size: size, dropped.append)
    order: list[tuple[str, int]] = []  # the least recently used first
    gone = []
    for name, size in uses:
        held = dict(order).get(name)
        assert cache.get(name) == held
        order = [one for one in order if one[0] != name]
        if held is None:
            cache.put(name, size)
        order.append((name, size if held is None else held))
        while sum(held for _, held in order) > limit and len(order) > 1:
            gone.append(order.pop(0)[0])
        assert list(cache) == [name for name, _ in order]
        assert cache.bytes == sum(held for _, held in order)
        assert all(name in cache for name, _ in order)
    assert dropped == gone
    assert (cache.evictions, cache.hits + cache.misses) == (len(gone), len(uses))


def test_replaced_and_dropped_values_are_counted_once() -> None:
    cache: Cache[int] = Cache(10, lambda size: size)
    cache.put("a", 4)
    cache.put("a", 6)
    assert (cache.bytes, len(cache), cache.get("a")) == (6, 1, 6)
    cache.drop("a")
    cache.drop("a")
    assert (cache.bytes, len(cache), cache.get("a")) == (0, 0, None)


def test_its_hit_rate_under_zipf_traffic_is_what_ches_approximation_expects() -> None:
    tasks, room = 2000, 200
    shares = 1 / np.arange(1, tasks + 1)
    shares /= shares.sum()
    cache: Cache[int] = Cache(room, lambda value: 1)
    for name in np.random.default_rng(0).choice(tasks, 60_000, p=shares):
        if cache.get(str(name)) is None:
            cache.put(str(name), int(name))
    time = brentq(lambda t: np.sum(1 - np.exp(-shares * t)) - room, 1, 1e7)
    expected = np.sum(shares * (1 - np.exp(-shares * time)))
    assert abs(cache.hits / 60_000 - expected) < 0.01
