"""Tasks that a folder brings, changes and takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.models.base import Base, load_base
from normtune.serving.catalogue import Catalogue, UnknownTaskError
from normtune.serving.folder import DeltaFolder
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
    bank = Bank(load_base(str(base_folder)))
    return Catalogue(bank, DeltaFolder(root), follow=True, cache_bytes=cache_bytes, recheck=1.0, clock=clock)


def put(root: Path, name: str, delta: Delta) -> None:
    """Replace a file as a careful writer does: aside first."""
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
    assert same(answer(catalogue, "mine"), alone(lone, known["two"], "a dog"))  # known for a second
    clock.now = 1.5
    before = catalogue.prepare([("mine", "a dog")])
    assert same(catalogue.bank.answer(before)[0].model_dump(), alone(lone, known["five"], "a dog"))
    (tmp_path / "mine.safetensors").unlink()
    clock.now = 3
    with pytest.raises(UnknownTaskError):
        catalogue.prepare([("mine", "a dog")])
    assert (list(catalogue), list(catalogue.bank)) == ([], [])
    still = catalogue.bank.answer(before)[0]  # accepted before it went
    assert same(still.model_dump(), alone(lone, known["five"], "a dog"))


def test_a_damaged_file_leaves_the_old_task(tiny_folder: Path, lone: Base, known: dict[str, Delta], tmp_path, clock):
    catalogue = followed(tiny_folder, tmp_path, clock)
    file = known["two"].save(tmp_path / "mine.safetensors")
    answer(catalogue, "mine")
    file.write_bytes(file.read_bytes()[:-50])
    for now in (2, 4):
        clock.now = now
        assert same(answer(catalogue, "mine"), alone(lone, known["two"], "a dog"))
    assert catalogue.refused == 1  # asked once for each version of the file
    put(tmp_path, "mine", known["number"])
    clock.now = 6
    assert same(answer(catalogue, "mine"), alone(lone, known["number"], "a dog"))


def test_a_damaged_file_of_an_unknown_task_is_told(tiny_folder: Path, folder: Path, clock: Clock):
    with pytest.raises(DeltaError, match="hash"):
        followed(tiny_folder, folder, clock).prepare([("broken", "a dog")])


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
    assert len(catalogue.bank) == len(catalogue.cache) == 2
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


def test_a_folder_linked_out_is_not_followed_and_a_training_folder_is(known: dict[str, Delta], tmp_path: Path):
    known["two"].save(tmp_path / "out" / "run")
    (tmp_path / "in").mkdir()
    known["five"].save(tmp_path / "in" / "run-5")
    (tmp_path / "in" / "run").symlink_to(tmp_path / "out" / "run")
    assert DeltaFolder(tmp_path / "in").names() == ["run-5"]
