"""Many clients at once: nobody gets another task's answer, what does not fit is refused cleanly, nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from normtune.deltas.delta import Delta
from normtune.models.base import Base, load_base
from tests.deltas.banked import changed
from tests.serving.running import Running, alone, running, same


def test_changing_tasks_under_load_never_gives_another_tasks_answer(
    server: Running, lone: Base, known: dict[str, Delta]
):
    wanted = {name: alone(lone, delta, "a dog") for name, delta in known.items() if name != "pairs"}
    stop, wrong, asked = threading.Event(), [], []

    def ask(name: str) -> None:
        with server.client() as client:
            while not stop.is_set():
                rows = [{"task": task, "text": "a dog"} for task in ("changing", name, "two", "changing")]
                got = client.post("/v1/predict", json={"rows": rows})
                asked.append(got.status_code)
                if got.status_code != 200:
                    if got.status_code != 404:
                        wrong.append(got.text)
                    continue
                first, *fixed, last = got.json()["answers"]
                own = [same(answer, wanted[task]) for answer, task in zip(fixed, (name, "two"), strict=True)]
                # A task that is replaced meanwhile answers as the one or the other, and the same for all its rows.
                either = [kind for kind in wanted if same(first, wanted[kind]) and same(last, wanted[kind])]
                if not all(own) or not either:
                    wrong.append(got.text)

    def change() -> None:
        with server.client() as client:
            for turn in range(40):
                name = ("two", "five", "number", "broken")[turn % 4]
                status = client.put("/v1/tasks/changing", json={"delta": name}).status_code
                if status != (409 if name == "broken" else 201 if turn % 8 == 0 else 200):
                    wrong.append(f"{name}: {status}")
                if turn % 8 == 7:
                    client.delete("/v1/tasks/changing")
        stop.set()

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(ask, name) for name in ("five", "number", "two", "five")] + [pool.submit(change)]
        for one in done:
            one.result(60)
    assert not wrong, wrong[:3]
    assert {200, 404} == {*asked}
    assert len(asked) > 50


def test_a_full_queue_answers_503_and_says_when_to_come_back(tiny_folder: Path, known: dict[str, Delta]):
    with running(tiny_folder, known, max_queue=8, max_batch=4) as started:
        rows = {"rows": [{"task": "two", "text": "the cat likes a dog " * 8}] * 8}
        go = threading.Barrier(12)

        def ask(_: int) -> list[httpx2.Response]:
            with started.client() as client:
                go.wait()
                return [client.post("/v1/predict", json=rows) for _ in range(5)]

        with ThreadPoolExecutor(12) as pool:
            got = [one for some in pool.map(ask, range(12)) for one in some]
        refused = [one for one in got if one.status_code == 503]
        assert {one.status_code for one in got} == {200, 503}
        assert all(int(one.headers["retry-after"]) >= 1 and one.json()["error"] == "full" for one in refused)
        assert all(len(one.json()["answers"]) == 8 for one in got if one.status_code == 200)
        assert started.service.batcher.waiting == 0
        with started.client() as client:
            assert f"normtune_queue_full_total {len(refused)}.0" in client.get("/metrics").text
            assert client.post("/v1/predict", json={"rows": [*rows["rows"], rows["rows"][0]]}).status_code == 422


def test_a_batch_that_fails_takes_nothing_else_with_it(tiny_folder: Path, lone: Base, known: dict[str, Delta]):
    base = load_base(str(tiny_folder))
    with running(base, known) as started, started.client() as client:
        ask = {"rows": [{"task": "two", "text": "a dog"}, {"task": "five", "text": "a dog"}]}
        with known["five"].apply(base):  # what the bank must not be asked through
            got = client.post("/v1/predict", json=ask)
            assert (got.status_code, got.json()["error"]) == (500, "defect")
            assert started.service.batcher.waiting == 0
        answers = client.post("/v1/predict", json=ask).json()["answers"]
        assert same(answers[0], alone(lone, known["two"], "a dog"))


def test_too_many_requests_at_once_get_503(tiny_folder: Path, known: dict[str, Delta]):
    with running(tiny_folder, known, max_requests=1, max_wait=0.5) as started:

        def ask(_: int) -> int:
            with started.client() as client:
                return client.post("/v1/tasks/two/predict", json={"text": "a dog"}).status_code

        with ThreadPoolExecutor(6) as pool:
            assert {*pool.map(ask, range(6))} == {200, 503}


def test_rows_of_several_requests_share_a_batch(tiny_folder: Path, known: dict[str, Delta]):
    with running(tiny_folder, known, max_wait=1.0, max_batch=3) as started:
        go = threading.Barrier(3)

        def ask(name: str) -> int:
            with started.client() as client:
                client.get("/healthz")
                go.wait()
                return client.post(f"/v1/tasks/{name}/predict", json={"text": "a dog"}).status_code

        with ThreadPoolExecutor(3) as pool:
            assert [*pool.map(ask, ("two", "five", "number"))] == [200] * 3
        with started.client() as client:
            assert 'normtune_batch_rows_bucket{le="2.0"} 0.0' in client.get("/metrics").text


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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_clean_stop_answers_what_was_accepted(
    tiny_folder: Path, lone: Base, tmp_path: Path, number: signal.Signals
) -> None:
    delta = changed(lone, "layernorm", seed=3)
    file = delta.save(tmp_path / "intents.safetensors")
    command = Command(file, "--model", tiny_folder, "--port", 0, "--threads", 1, "--max-wait-ms", 1500)
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
            # All eight wait for their batch to fill when the signal comes.
            while "normtune_queue_rows 8.0" not in client.get(f"{command.url}/metrics").text:
                pass
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
            pass
        assert client.post(f"{command.url}/v1/tasks/intents/predict", json={"text": "a dog"}).status_code == 200
    assert command.end()[0] == 0
