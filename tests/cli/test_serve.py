"""What ``normtune serve`` refuses, in one sentence; that it serves is tested in tests/serving."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from normtune.deltas.delta import Delta
from normtune.models.base import Base
from normtune.serving.batcher import Batcher
from normtune.serving.settings import is_loopback
from tests.deltas.banked import changed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def delta(tiny_base: Base, tmp_path: Path) -> Path:
    """The folder of a delta of the tiny model."""
    return changed(tiny_base, "layernorm").save(tmp_path / "run").parent


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMTUNE_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give deltas, or the base model"),
        (["DELTA", "--follow"], "--follow needs the folder"),
        (["DELTA", "--host", "0.0.0.0"], "Anybody who reaches 0.0.0.0 could change the tasks"),
        (["DELTA", "--host", "::"], "Anybody who reaches :: could change the tasks"),
        (["DELTA", "--allow-host", "models.example"], "Anybody who reaches models.example could change the tasks"),
        (["DELTA", "--token-file", "nowhere"], "The token file nowhere cannot be read"),
        (["DELTA", "--deltas-folder", "nowhere"], "There is no folder of deltas at nowhere"),
        (["DELTA", "run=elsewhere"], "Two deltas are called 'run'"),
        (["a b=DELTA"], "'a b' cannot name a task"),
        (["nowhere-at-all/delta"], "nowhere-at-all/delta"),
    ],
)
def test_what_makes_no_sense_is_refused(cli: Run, delta: Path, arguments: list[str], said: str) -> None:
    status, _, error = cli("serve", *(word.replace("DELTA", str(delta)) for word in arguments))
    assert (status, said in error) == (1, True), error
    assert "Traceback" not in error


@pytest.mark.parametrize("token", ["short", "with a blank in it at all", "not-ascii-é-at-all-x"])
def test_a_token_that_protects_nothing_is_refused(
    cli: Run, delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("NORMTUNE_TOKEN", token)
    status, _, error = cli("serve", delta)
    assert (status, "visible ASCII characters" in error, token in error) == (1, True, False)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    assert cli("serve", delta, "--token-file", tmp_path / "token")[0] == 1


def test_an_address_in_use_is_told(cli: Run, delta: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, error = cli("serve", delta, "--port", port)
    assert (status, f"Cannot listen at 127.0.0.1:{port}" in error) == (1, True), error


def test_a_delta_of_another_base_is_told(cli: Run, delta: Path, make_folder, make_model) -> None:
    other = make_folder(make_model("bert", seed=5).base_model)
    status, _, error = cli("serve", delta, "--model", other)
    assert (status, "belongs to the base model" in error) == (1, True), error


def test_pictures_are_refused(cli: Run, tiny_base: Base, tmp_path: Path) -> None:
    changed(tiny_base, "layernorm", picture=True).save(tmp_path / "photos")
    status, _, error = cli("serve", tmp_path / "photos")
    assert (status, "The task 'photos' reads pictures, and a server takes texts only" in error) == (1, True), error


def test_the_dtype_is_that_of_the_base(cli: Run, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normtune.serving import server

    found: list[torch.dtype] = []

    class Stub:
        """Records the model's dtype instead of serving it."""

        cut = 0

        def __init__(self, batcher: Batcher, *_: object) -> None:
            model = batcher.catalogue.bank._base.model
            found.append(model.get_input_embeddings().get_parameter("weight").dtype)

        def run(self) -> None:
            pass

    monkeypatch.setattr(server, "Server", Stub)
    for dtype in ("float32", "bfloat16"):
        assert cli("serve", delta, "--dtype", dtype, "--device", "cpu")[0] == 0
    assert cli("serve", "--model", Delta.load(delta).info.base, "--dtype", "float16", "--device", "cpu")[0] == 0
    assert found == [torch.float32, torch.bfloat16, torch.float16]
    status, _, error = cli("serve", delta, "--dtype", "fp8")
    assert (status, "Unknown dtype 'fp8'" in error) == (1, True)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example", "127.0.0.1.nip.io")))
