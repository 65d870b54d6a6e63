"""A signal stops a server, and no accepted request is lost: in this process, and as `normtune serve` in another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from normtune.deltas.delta import Delta
from normtune.models.base import Base
from tests.deltas.banked import changed
from tests.serving.running import alone, running, same
from tests.serving.test_connection import connected, unread, until


def test_a_stop_answers_what_was_accepted_and_waits_for_no_more(
    tiny_folder: Path, lone: Base, known: dict[str, Delta]
) -> None:
    wanted = alone(lone, known["two"], "a dog")
    with running(tiny_folder, known, max_wait=10.0) as started, ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> bool:
            with started.client() as client:
                return same(client.post("/v1/tasks/two/predict", json={"text": "a dog"}).json(), wanted)

        asked = [pool.submit(ask, turn) for turn in range(8)]
        while started.batcher.waiting < 8:
            assert not any(one.done() for one in asked), "this machine is too slow for the test"
            time.sleep(0.01)
        began = time.monotonic()
        started.server.handle_exit(signal.SIGTERM, None)
        assert all(one.result(60) for one in asked)
        assert time.monotonic() - began < 9
        assert not started.batcher.ready


def test_a_stop_waits_only_a_while_for_clients_that_do_not_read(tiny_folder: Path, known: dict[str, Delta]) -> None:
    with running(tiny_folder, known, client_seconds=0.5) as started, unread(started, 2):
        connections = started.server.server_state.connections
        assert until(lambda: sum(one.due and one.owed for one in [*connections]) == 2)
        with connected(started):  # an idle connection is cut off, too, but loses no answer
            started.server.handle_exit(signal.SIGTERM, None)
            assert until(lambda: not connections)
    assert started.server.cut == 2


def test_a_second_signal_ends_it_at_once_and_says_what_was_cut_off(
    tiny_folder: Path, known: dict[str, Delta], capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tiny_folder, known) as started, unread(started, 2), ThreadPoolExecutor(1) as pool:
        connections = started.server.server_state.connections
        assert until(lambda: sum(one.due and one.owed for one in [*connections]) == 2)
        stopped = pool.submit(until, lambda: not connections)
        for _ in range(2):
            started.server.handle_exit(signal.SIGTERM, None)
        assert stopped.result()
    assert started.server.cut == 2
    assert "Traceback" not in capsys.readouterr().err


class Command:
    """`normtune serve` in a process of its own."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from normtune.cli.app import main; main()", "serve", *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TERM": "dumb", **environment},
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        found = re.search(r"http://\S+:\d+", first)
        assert found, first + self.process.stderr.read()
        self.url, self.first = found[0], first

    def end(self) -> tuple[int, str]:
        """Exit status, and what it said after its first line."""
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_answers_what_was_accepted(
    tiny_folder: Path, lone: Base, tmp_path: Path, number: signal.Signals
) -> None:
    delta = changed(lone, "layernorm", seed=3)
    file = delta.save(tmp_path / "intents.safetensors")
    command = Command(file, "--model", tiny_folder, "--port", 0, "--threads", 1, "--max-wait-ms", 10_000)
    assert command.first.startswith("Serving 1 task at")
    assert command.first.endswith(": intents\n")
    wanted = alone(lone, delta, "a dog")

    def ask(_: int) -> bool:
        with httpx2.Client(timeout=60, trust_env=False) as client:
            got = client.post(f"{command.url}/v1/tasks/intents/predict", json={"text": "a dog"})
            return same(got.json(), wanted)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, turn) for turn in range(8)]
        with httpx2.Client(timeout=60, trust_env=False) as client:
            # All eight wait for their batch to fill when the signal comes, and would wait much longer without it.
            while "normtune_queue_rows 8.0" not in client.get(f"{command.url}/metrics").text:
                assert not any(one.done() for one in asked), "this machine is too slow for the test"
                time.sleep(0.02)
        command.process.send_signal(number)
        assert all(one.result(60) for one in asked)
    status, said = command.end()
    assert status == 0
    assert "every accepted request was answered" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_before_it_stops_it_says_that_it_is_not_ready(tiny_folder: Path, lone: Base, tmp_path: Path) -> None:
    file = changed(lone, "layernorm", seed=3).save(tmp_path / "intents.safetensors")
    command = Command(file, "--model", tiny_folder, "--port", 0, "--threads", 1, "--drain-seconds", 1.5)
    with httpx2.Client(timeout=60, trust_env=False) as client:
        assert client.get(f"{command.url}/readyz").status_code == 200
        command.process.send_signal(signal.SIGTERM)
        while client.get(f"{command.url}/readyz").status_code == 200:
            time.sleep(0.02)
        assert client.post(f"{command.url}/v1/tasks/intents/predict", json={"text": "a dog"}).status_code == 200
    assert command.end()[0] == 0
