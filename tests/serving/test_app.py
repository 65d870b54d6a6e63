"""The calls over a real connection, their description checked by schemathesis, and the page without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise

from normtune.deltas.delta import Delta
from normtune.models.base import Base
from tests.serving.running import TEXTS, Running, alone, running, same


def test_files_for_the_description_are_read_off_the_event_loop(server: Running, monkeypatch: pytest.MonkeyPatch):
    catalogue, threads = server.batcher.catalogue, []
    entry = catalogue.entry
    monkeypatch.setattr(catalogue, "entry", lambda name: threads.append(threading.current_thread().name) or entry(name))
    with server.client() as client:
        assert client.get("/openapi.json").json()["components"]["schemas"]["Question"]["example"]
    assert threads
    assert all(name.startswith("normtune-desk") for name in threads)


def test_rows_of_different_tasks_get_what_each_delta_says_alone(server: Running, lone: Base, known: dict[str, Delta]):
    asked = [{"task": name, "text": text} for text in TEXTS for name in ("two", "five", "number")]
    asked += [{"task": "pairs", "text": text, "text_pair": "a dog sees the river"} for text in TEXTS]
    with server.client() as client:
        got = client.post("/v1/predict", json={"rows": asked})
    assert got.status_code == 200
    for row, answer in zip(asked, got.json()["answers"], strict=True):
        text = (row["text"], row["text_pair"]) if "text_pair" in row else row["text"]
        assert answer["task"] == row["task"]
        assert same(answer, alone(lone, known[row["task"]], text))


def test_one_row_and_a_text_that_is_cut(server: Running, lone: Base, known: dict[str, Delta]):
    with server.client() as client:
        short = client.post("/v1/tasks/number/predict", json={"text": "a dog"}).json()
        long = client.post("/v1/tasks/two/predict", json={"text": "the cat " * 60}).json()
    assert same(short, alone(lone, known["number"], "a dog"))
    assert (short["truncated"], long["truncated"]) == (False, True)
    assert same(long, alone(lone, known["two"], "the cat " * 60))


def test_tasks_are_listed_a_page_at_a_time_and_described(server: Running):
    with server.client() as client:
        whole = client.get("/v1/tasks").json()
        page = client.get("/v1/tasks", params={"offset": 1, "limit": 2}).json()
        one = client.get("/v1/tasks/pairs").json()
    assert {"two", "five", "number", "pairs"} <= {*whole["tasks"]}
    assert page == {"total": whole["total"], "tasks": whole["tasks"][1:3]}
    assert (one["kind"], one["labels"], one["pair"], one["apart"]) == ("classification", ["no", "yes"], True, False)


def test_a_task_is_added_replaced_and_removed(server: Running, lone: Base, known: dict[str, Delta]):
    ask = {"text": "a dog"}
    with server.client() as client:
        assert client.post("/v1/tasks/mine/predict", json=ask).status_code == 404
        assert client.put("/v1/tasks/mine", json={"delta": "two"}).status_code == 201
        assert same(client.post("/v1/tasks/mine/predict", json=ask).json(), alone(lone, known["two"], "a dog"))
        assert client.put("/v1/tasks/mine", json={"delta": "five"}).status_code == 200
        assert same(client.post("/v1/tasks/mine/predict", json=ask).json(), alone(lone, known["five"], "a dog"))
        assert client.delete("/v1/tasks/mine").status_code == 204
        assert client.delete("/v1/tasks/mine").status_code == 404
        assert client.post("/v1/tasks/mine/predict", json=ask).status_code == 404


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ("broken", "does not match the hash"),
        ("short", "truncated or corrupt"),
        ("linked", "none of the name"),
        ("nowhere", "none of the name"),
        ("../outside", "delta"),
        ("..", "delta"),
        ("/etc/passwd", "delta"),
    ],
)
def test_what_is_damaged_or_outside_is_refused_and_the_old_one_stays(
    server: Running, lone: Base, known: dict[str, Delta], delta: str, said: str
):
    with server.client() as client:
        client.put("/v1/tasks/stays", json={"delta": "number"})
        refused = client.put("/v1/tasks/stays", json={"delta": delta})
        assert refused.status_code == (409 if delta.isalpha() else 422)
        assert said in refused.json()["detail"]
        assert "/inside" not in refused.text
        after = client.post("/v1/tasks/stays/predict", json={"text": "a dog"}).json()
        client.delete("/v1/tasks/stays")
    assert same(after, alone(lone, known["number"], "a dog"))


def test_state_and_metrics(server: Running):
    with server.client() as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/readyz").json() == {"status": "ready"}
        client.post("/v1/tasks/two/predict", json={"text": "a dog"})
        text = client.get("/metrics").text
    done = re.search(r'normtune_requests_total\{route="/v1/tasks/\{task\}/predict",status="200"\} (\d+)', text)
    assert done is not None
    assert int(done[1]) >= 1
    assert "normtune_queue_rows 0.0" in text
    assert re.search(r"normtune_batch_rows_count [1-9]", text)


def test_other_methods_and_paths(server: Running):
    with server.client() as client:
        wrong = client.patch("/v1/tasks/two")
        nowhere = client.get("/v2")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, PUT")
    assert (nowhere.status_code, nowhere.json()["error"]) == (404, "not-found")


def test_changes_need_the_token_and_questions_do_not(tiny_folder, known, folder):
    token = "a-token-of-the-tests"
    with running(tiny_folder, {"two": known["two"]}, read=folder, token=token) as started, started.client() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}):
            got = client.put("/v1/tasks/new", json={"delta": "five"}, headers=headers)
            assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer")
            assert client.delete("/v1/tasks/two", headers=headers).status_code == 401
        own = {"Authorization": f"Bearer {token}"}
        assert client.put("/v1/tasks/new", json={"delta": "five"}, headers=own).status_code == 201
        assert client.post("/v1/tasks/new/predict", json={"text": "a dog"}).status_code == 200
        assert "securitySchemes" in client.get("/openapi.json").json()["components"]


def test_without_a_token_a_page_of_another_site_changes_nothing(server: Running):
    with server.client() as client:
        got = client.put("/v1/tasks/two", json={"delta": "five"}, headers={"Host": "evil.example"})
    assert got.status_code == 403


CALLS = ("/v1/tasks", "/v1/tasks/two", "/docs", "/openapi.json", "/metrics", "/assets/swagger-ui.css")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:80", "[::2]:80", ""])
def test_another_name_reads_nothing(server: Running, host: str):
    with server.client(headers={"Host": host}) as client:
        for path in CALLS:
            got = client.get(path)
            assert (got.status_code, got.json()["error"]) == (403, "forbidden"), path
        assert client.post("/v1/tasks/two/predict", json={"text": "a dog"}).status_code == 403


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "LocalHost:1", 200),
        ((), "[::1]:8000", 200),
        (("models.example",), "Models.example:8000", 200),
        (("models.example",), "localhost", 200),
        (("models.example",), "evil.example", 403),
        (None, "evil.example", 200),
    ],
)
def test_the_names_that_it_may_be_called_by(tiny_folder, known, hosts, host, status):
    with running(tiny_folder, {"two": known["two"]}, hosts=hosts) as started, started.client() as client:
        assert client.get("/v1/tasks", headers={"Host": host}).status_code == status


def test_the_page_is_shown_in_no_frame(server: Running):
    with server.client() as client:
        headers = client.get("/docs").headers
    assert (headers["x-frame-options"], headers["content-security-policy"]) == ("DENY", "frame-ancestors 'none'")


def test_a_folder_that_is_away_is_told_and_what_is_loaded_answers(tiny_folder, known, tmp_path):
    place, ask = tmp_path / "deltas", {"text": "a dog"}
    for name in ("two", "five"):
        known[name].save(place / f"{name}.safetensors")
    with running(tiny_folder, {}, read=place, follow=True, recheck=0) as started, started.client() as client:
        assert client.post("/v1/tasks/two/predict", json=ask).status_code == 200
        place.rename(tmp_path / "elsewhere")
        for got in (
            client.get("/v1/tasks"),
            client.get("/v1/tasks/five"),
            client.post("/v1/tasks/five/predict", json=ask),
        ):
            assert (got.status_code, got.json()["error"]) == (503, "away")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "away"})
        assert client.get("/openapi.json").status_code == 200
        assert client.post("/v1/tasks/two/predict", json=ask).status_code == 200
        (tmp_path / "elsewhere").rename(place)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/tasks/five/predict", json=ask).status_code == 200
        assert client.get("/v1/tasks").json()["tasks"] == ["five", "two"]


#: Values of ``max_length`` in a delta's metadata.
ODD = {"deep": '128,"more":' + "[" * 9000 + "]" * 9000, "long": "9" * 5000, "negative": "-5", "two": "2"}


def odd(delta: Delta, file: Path, kind: str) -> None:
    """Write a delta with unexpected tensors or metadata."""
    delta.save(file)
    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    if kind == "float8":
        tensors = {name: value.to(torch.float8_e4m3fn) for name, value in tensors.items()}
    else:
        # Without a hash, as written before there were hashes, so that reading goes on.
        said = json.dumps({name: value for name, value in json.loads(metadata["normtune"]).items() if name != "hash"})
        metadata["normtune"] = re.sub(r'"max_length": \d+', f'"max_length": {ODD[kind]}', said)
        assert said != metadata["normtune"]
    file.write_bytes(serialise(tensors, metadata))


@pytest.mark.parametrize("kind", [*ODD, "float8"])
def test_an_odd_file_is_refused_and_harms_nobody(tiny_folder, known, tmp_path, kind):
    odd(known["two"], tmp_path / "aaa.safetensors", kind)
    known["five"].save(tmp_path / "five.safetensors")
    with running(tiny_folder, {}, read=tmp_path, follow=True) as started, started.client() as client:
        assert client.get("/openapi.json").status_code == 200
        for got in (client.put("/v1/tasks/x", json={"delta": "aaa"}), client.get("/v1/tasks/aaa")):
            assert (got.status_code, got.json()["error"]) == (409, "refused-delta"), got.text
        rows = {"rows": [{"task": name, "text": "a dog"} for name in ("five", "aaa")]}
        assert client.post("/v1/predict", json=rows).status_code == 409
        assert client.post("/v1/tasks/five/predict", json={"text": "a dog"}).status_code == 200


def test_fixed_tasks_are_not_changed(tiny_folder, known, folder):
    with running(tiny_folder, {"two": known["two"]}, read=folder, fixed=True) as started, started.client() as client:
        assert client.put("/v1/tasks/new", json={"delta": "five"}).status_code == 403
        assert client.delete("/v1/tasks/two").status_code == 403


def test_the_examples_of_the_description_work(server: Running):
    with server.client() as client:
        found = client.get("/openapi.json").json()
        schemas = found["components"]["schemas"]
        many = client.post("/v1/predict", json=schemas["Questions"]["example"])
        assert many.status_code == 200
        assert len(many.json()["answers"]) == 3
        (parameter,) = found["paths"]["/v1/tasks/{task}/predict"]["post"]["parameters"]
        one = client.post(f"/v1/tasks/{parameter['example']}/predict", json=schemas["Question"]["example"])
        assert one.status_code == 200
        assert schemas["TaskDelta"]["example"]["delta"] in server.batcher.catalogue.folder.names()


def test_the_description_tells_the_limits(server: Running):
    with server.client() as client:
        found = client.get("/openapi.json").json()
    schemas, settings = found["components"]["schemas"], server.batcher.settings
    assert schemas["Questions"]["properties"]["rows"]["maxItems"] == settings.max_rows
    assert schemas["TaskQuestion"]["properties"]["text"]["maxLength"] == settings.max_text
    assert "securitySchemes" not in found["components"]


@pytest.mark.slow
def test_schemathesis_finds_it_true(tiny_folder, known, folder, tmp_path):
    token = "a-token-of-the-tests"
    with running(tiny_folder, known, read=folder, token=token) as started:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{started.url}/openapi.json", "--checks", "all"),
                *("--max-examples", "30", "--seed", "1", "--header", f"Authorization: Bearer {token}"),
                "--generation-deterministic",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": "", "NO_COLOR": "1"},
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert started.batcher.waiting == 0


def test_the_page_opens_and_answers_its_own_example(server: Running, browser: Any):
    tab = browser.new_page()
    said: list[str] = []
    hosts: set[str] = set()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "inside"))
    tab.goto(f"{server.url}/docs")
    tab.locator(".opblock-summary-path", has_text="/v1/predict").first.click()
    tab.get_by_role("button", name="Execute").click()
    tab.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert '"answers"' in tab.locator(".live-responses-table").inner_text()
    assert said == []
    assert hosts <= {server.url.removeprefix("http://"), "inside"}
    tab.close()
