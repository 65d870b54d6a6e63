"""Many clients at once: nobody gets another task's answer, what does not fit is refused cleanly, nothing is lost."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import httpx2
import torch

from normtune.deltas.delta import Delta
from normtune.models.base import Base, load_base
from normtune.serving.connection import SELDOM
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
                # A task that is replaced meanwhile answers as the old or the new one, the same for all its rows.
                either = [kind for kind in wanted if same(first, wanted[kind]) and same(last, wanted[kind])]
                if not all(own) or not either:
                    wrong.append(got.text)

    def change() -> None:
        with server.client() as client:
            for turn in count():
                if turn >= 40 and turn % 8 == 0 and len(asked) > 50:
                    break
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
        assert started.batcher.waiting == 0
        with started.client() as client:
            assert f"normtune_queue_full_total {len(refused)}.0" in client.get("/metrics").text
            assert client.post("/v1/predict", json={"rows": [*rows["rows"], rows["rows"][0]]}).status_code == 422


def test_a_batch_that_fails_takes_nothing_else_with_it(tiny_folder: Path, lone: Base, known: dict[str, Delta]):
    base = load_base(str(tiny_folder))
    with running(base, known) as started, started.client() as client:
        ask = {"rows": [{"task": "two", "text": "a dog"}, {"task": "five", "text": "a dog"}]}
        with known["five"].apply(base):  # the bank must not answer meanwhile
            got = client.post("/v1/predict", json=ask)
            assert (got.status_code, got.json()["error"]) == (500, "defect")
            assert started.batcher.waiting == 0
        answers = client.post("/v1/predict", json=ask).json()["answers"]
        assert same(answers[0], alone(lone, known["two"], "a dog"))


def test_a_row_that_fails_fails_alone(tiny_folder: Path, lone: Base, known: dict[str, Delta], monkeypatch):
    with running(tiny_folder, known, max_wait=5.0, max_batch=8) as started:
        bank, batches = started.batcher.catalogue.bank, []
        answer = bank.answer

        def picky(prepared):
            batches.append(len(prepared))
            if any(one.entry.name == "five" for one in prepared):
                raise IndexError("index out of range in self")
            return answer(prepared)

        monkeypatch.setattr(bank, "answer", picky)

        def ask(name: str) -> httpx2.Response:
            with started.client() as client:
                return client.post(f"/v1/tasks/{name}/predict", json={"text": "a dog"})

        with ThreadPoolExecutor(8) as pool:
            asked = ["two", "number", "five", "two", "two", "number", "two", "two"]
            got = dict(zip(range(8), pool.map(ask, asked), strict=True))
        assert {number for number, one in got.items() if one.status_code == 500} == {2}
        assert got.pop(2).json()["error"] == "defect"
        assert all(same(one.json(), alone(lone, known[asked[number]], "a dog")) for number, one in got.items())
        assert batches[0] == 8  # and then in halves
        assert len(batches) == 7


def test_outputs_that_are_not_finite_are_an_error_of_their_task(
    tiny_folder: Path, known: dict[str, Delta], caplog, monkeypatch
):
    monkeypatch.setattr(SELDOM, "_last", -math.inf)  # an earlier test's warning would suppress this one
    loud = {name: torch.full_like(value, 3e38) for name, value in known["two"].head.items()}
    with running(tiny_folder, {**known, "loud": replace(known["two"], head=loud)}, max_wait=0.5) as started:

        def ask(name: str) -> httpx2.Response:
            with started.client() as client:
                return client.post(f"/v1/tasks/{name}/predict", json={"text": "a dog"})

        with ThreadPoolExecutor(3) as pool:
            one, bad, other = pool.map(ask, ("two", "loud", "two"))
    assert (one.status_code, other.status_code, bad.status_code) == (200, 200, 409)
    assert "The task 'loud' gives a number that is not finite" in bad.json()["detail"]
    [logged] = [record for record in caplog.records if record.name == "normtune.serving.batcher"]
    assert (logged.levelname, bool(logged.exc_info)) == ("WARNING", False)


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
