"""Tasks of a folder, as their deltas come, change and go; and the cache, against a list in the order of use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import brentq

from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.models.base import Base, load_base
from normtune.serving.folder import DeltaFolder
from normtune.serving.settings import Settings
from normtune.serving.tasks import Cache, Catalogue, UnknownTaskError
from tests.deltas.banked import changed
from tests.serving.running import alone, same


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def followed(base_folder: Path, root: Path, clock: Clock, cache_bytes: int = 10**6) -> Catalogue:
    settings = Settings(cache_bytes=cache_bytes, recheck=1.0)
    return Catalogue(load_base(str(base_folder)), settings, DeltaFolder(root), follow=True, clock=clock)


def put(root: Path, name: str, delta: Delta) -> None:
    """Replace a file atomically: write it aside, then rename it."""
    delta.save(root / f".{name}-new.safetensors")
    (root / f".{name}-new.safetensors").replace(root / f"{name}.safetensors")


def answer(catalogue: Catalogue, name: str) -> dict[str, Any]:
    return catalogue.bank.answer(catalogue.prepare([(name, "a dog")]))[0].model_dump()


def test_a_delta_is_found_changed_and_gone(tiny_folder: Path, lone: Base, known: dict[str, Delta], tmp_path, clock):
    catalogue = followed(tiny_folder, tmp_path, clock)
    with pytest.raises(UnknownTaskError):
        catalogue.prepare([("mine", "a dog")])
    put(tmp_path, "mine", known["two"])
    assert same(answer(catalogue, "mine"), alone(lone, known["two"], "a dog"))
    put(tmp_path, "mine", known["five"])
    assert same(answer(catalogue, "mine"), alone(lone, known["two"], "a dog"))  # cached for a second
    clock.now = 1.5
    before = catalogue.prepare([("mine", "a dog")])
    assert same(catalogue.bank.answer(before)[0].model_dump(), alone(lone, known["five"], "a dog"))
    (tmp_path / "mine.safetensors").unlink()
    clock.now = 3
    with pytest.raises(UnknownTaskError):
        catalogue.prepare([("mine", "a dog")])
    assert (catalogue.names(), list(catalogue.bank)) == ([], [])
    still = catalogue.bank.answer(before)[0]  # accepted before the file went
    assert same(still.model_dump(), alone(lone, known["five"], "a dog"))


def test_a_damaged_file_leaves_the_old_task(tiny_folder: Path, lone: Base, known: dict[str, Delta], tmp_path, clock):
    catalogue = followed(tiny_folder, tmp_path, clock)
    file = known["two"].save(tmp_path / "mine.safetensors")
    answer(catalogue, "mine")
    file.write_bytes(file.read_bytes()[:-50])
    for now in (2, 4):
        clock.now = now
        assert same(answer(catalogue, "mine"), alone(lone, known["two"], "a dog"))
    assert catalogue.refused == 1  # each version of the file is tried once
    put(tmp_path, "mine", known["number"])
    clock.now = 6
    assert same(answer(catalogue, "mine"), alone(lone, known["number"], "a dog"))


def test_a_damaged_file_of_an_unknown_task_is_told_and_read_once_a_while(tiny_folder: Path, folder: Path, clock: Clock):
    catalogue = followed(tiny_folder, folder, clock)
    for now, refused in ((0.0, 1), (0.5, 1), (1.5, 2)):
        clock.now = now
        with pytest.raises(DeltaError, match="hash"):
            catalogue.prepare([("broken", "a dog")])
        assert catalogue.refused == refused


def test_more_tasks_than_fit(tiny_folder: Path, lone: Base, tmp_path, clock):
    some = {f"t{seed}": changed(lone, "layernorm", seed=seed) for seed in range(6)}
    for name, delta in some.items():
        delta.save(tmp_path / f"{name}.safetensors")
    one = followed(tiny_folder, tmp_path, clock).entry("t0").bytes
    catalogue = followed(tiny_folder, tmp_path, clock, cache_bytes=2 * one)
    # All of them in one request, more than fit at a time.
    prepared = catalogue.prepare([(name, "a dog") for name in [*some] * 2])
    for found, name in zip(catalogue.bank.answer(prepared), [*some] * 2, strict=True):
        assert found.label == alone(lone, some[name], "a dog").label
        assert found.probabilities == pytest.approx(alone(lone, some[name], "a dog").probabilities, abs=1e-5)
    assert len(catalogue.bank) == len(catalogue.cache.values) == 2
    assert catalogue.cache.bytes <= 2 * one
    assert [*catalogue.names()] == [*some]


def test_a_task_given_by_name_comes_before_the_folder_and_can_go(
    tiny_folder: Path, lone: Base, known: dict[str, Delta], folder: Path, clock: Clock
):
    catalogue = followed(tiny_folder, folder, clock)
    answer(catalogue, "two")
    catalogue.add("two", "five")
    assert same(answer(catalogue, "two"), alone(lone, known["five"], "a dog"))
    catalogue.remove("two")
    assert same(answer(catalogue, "two"), alone(lone, known["two"], "a dog"))
    with pytest.raises(DataError, match="remove it there"):
        catalogue.remove("two")


def test_only_what_is_inside_the_folder_is_found(folder: Path):
    place = DeltaFolder(folder)
    assert place.names() == ["broken", "five", "number", "pairs", "short", "two"]
    for name in ("linked", "../outside", "..", ".", "", "two/../five", "/etc/passwd", "a\0b", ".hidden", "two\n"):
        assert place.find(name) is None
    with pytest.raises(ConfigError):
        DeltaFolder(folder / "two.safetensors")


def test_deltas_that_no_task_can_be_called_are_told(known: dict[str, Delta], tmp_path: Path):
    for name in ("a b", "über.safetensors", "fine", ".hidden.safetensors"):
        known["two"].save(tmp_path / name)
    (tmp_path / "no delta").mkdir()
    place = DeltaFolder(tmp_path)
    assert (place.names(), place.unnamed()) == (["fine"], ["a b", "über"])


def test_a_folder_linked_out_is_not_followed_and_a_training_folder_is(known: dict[str, Delta], tmp_path: Path):
    known["two"].save(tmp_path / "out" / "run")
    (tmp_path / "in").mkdir()
    known["five"].save(tmp_path / "in" / "run-5")
    (tmp_path / "in" / "run").symlink_to(tmp_path / "out" / "run")
    assert DeltaFolder(tmp_path / "in").names() == ["run-5"]


USES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4)), max_size=60)


@given(USES, st.integers(1, 9))
def test_it_holds_the_most_recently_used_that_fit(uses: list[tuple[str, int]], limit: int) -> None:
    dropped: list[str] = []
    cache: Cache[int] = Cache(limit)
    order: list[tuple[str, int]] = []  # the least recently used first
    gone = []
    for name, size in uses:
        held = dict(order).get(name)
        assert cache.get(name) == held
        order = [one for one in order if one[0] != name]
        if held is None:
            dropped += cache.put(name, size, size)
        order.append((name, size if held is None else held))
        while sum(held for _, held in order) > limit and len(order) > 1:
            gone.append(order.pop(0)[0])
        assert list(cache.values) == [name for name, _ in order]
        assert cache.bytes == sum(held for _, held in order)
    assert dropped == gone
    assert (cache.evictions, cache.hits + cache.misses) == (len(gone), len(uses))


def test_replaced_and_dropped_values_are_counted_once() -> None:
    cache: Cache[int] = Cache(10)
    cache.put("a", 4, 4)
    cache.put("a", 6, 6)
    assert (cache.bytes, len(cache.values), cache.get("a")) == (6, 1, 6)
    assert (cache.drop("a"), cache.drop("a")) == (True, False)
    assert (cache.bytes, len(cache.values), cache.get("a")) == (0, 0, None)


def test_its_hit_rate_under_zipf_traffic_is_what_ches_approximation_expects() -> None:
    tasks, room = 2000, 200
    shares = 1 / np.arange(1, tasks + 1)
    shares /= shares.sum()
    cache: Cache[int] = Cache(room)
    for name in np.random.default_rng(0).choice(tasks, 60_000, p=shares):
        if cache.get(str(name)) is None:
            cache.put(str(name), int(name), 1)
    time = brentq(lambda t: np.sum(1 - np.exp(-shares * t)) - room, 1, 1e7)
    expected = np.sum(shares * (1 - np.exp(-shares * time)))
    assert abs(cache.hits / 60_000 - expected) < 0.01
