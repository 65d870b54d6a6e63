from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from normtune.deltas.delta import Delta
from normtune.models.base import Base, load_base
from tests.serving.running import Running, deltas, running


@pytest.fixture(scope="session")
def lone(tiny_folder: Path) -> Base:
    """A base model of the tests' own, to apply deltas to one by one."""
    return load_base(str(tiny_folder))


@pytest.fixture(scope="session")
def known(lone: Base) -> dict[str, Delta]:
    return deltas(lone)


@pytest.fixture(scope="session")
def folder(known: dict[str, Delta], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of deltas that tests leave as it is; two are damaged, and a link leads out."""
    root = tmp_path_factory.mktemp("deltas")
    place = root / "inside"
    for name, delta in known.items():
        delta.save(place / f"{name}.safetensors")
    whole = (place / "two.safetensors").read_bytes()
    (place / "broken.safetensors").write_bytes(whole[:-9] + bytes(9))
    (place / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    known["five"].save(root / "outside.safetensors")
    (place / "linked.safetensors").symlink_to(root / "outside.safetensors")
    return place


@pytest.fixture(scope="session")
def server(tiny_folder: Path, known: dict[str, Delta], folder: Path) -> Iterator[Running]:
    """A server with four tasks and a folder; a test that changes a task uses a name of its own."""
    with running(tiny_folder, known, read=folder, max_text=500, max_body=20_000, body_seconds=1.0) as started:
        yield started
