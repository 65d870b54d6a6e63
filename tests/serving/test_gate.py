"""Requests that are malformed, oversized, cut short or for nobody: all get 4xx with a clear body; the server lives."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from normtune.deltas.answers import Prediction
from normtune.deltas.bank import Prepared
from normtune.deltas.delta import Delta
from tests.serving.running import Running, running

GOOD = {"rows": [{"task": "two", "text": "a dog"}]}
#: Longer than the server's limits in tests/serving/conftest.py.
LONG_TEXT, LARGE_BODY = 501, 20_001


def hostile(count: int) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Requests as method, path, body and headers; all are invalid."""
    draw = random.Random(0)
    whole = json.dumps(GOOD).encode()
    values = (None, 1, 1.5, True, [], {}, "", " \n", "\ud800", [[]], {"a": 1}, 10**400, "x" * LONG_TEXT)
    for _ in range(count):
        kind = draw.randrange(12)
        path, body, headers = "/v1/predict", whole, {"Content-Type": "application/json"}
        if kind == 0:
            body = whole[: draw.randrange(len(whole))]
        elif kind == 1:
            body = draw.randbytes(draw.randrange(1, 200))
        elif kind == 2:
            body = b"{" + b" " * draw.randrange(LARGE_BODY, 5 * LARGE_BODY) + whole[1:]
        elif kind == 3:
            body = json.dumps({"rows": [{"task": "two", "text": draw.choice(values)}]}).encode()
        elif kind == 4:
            body = json.dumps({"rows": [{"task": draw.choice(values), "text": "a dog"}]}).encode()
        elif kind == 5:
            body = json.dumps({"rows": draw.choice(values)}).encode()
        elif kind == 6:
            body = json.dumps({**GOOD, f"more{draw.random()}": 1}).encode()
        elif kind == 7:
            unknown = draw.choice(("nobody", "..", "TWO", "two.", "a" * 127, "two%00"))
            body = json.dumps({"rows": [*GOOD["rows"], {"task": unknown, "text": "a dog"}]}).encode()
        elif kind == 8:
            path, body = f"/v1/tasks/{draw.choice(('nobody', '%2e%2e', '%00', '-', 'a' * 500, '%ff'))}/predict", b"{}"
        elif kind == 9:
            body = b"[" * draw.randrange(10, 15_000)
        elif kind == 10:
            headers = {"Content-Type": draw.choice(("text/plain", "application/xml", "multipart/form-data", "x"))}
        else:
            pairs = {"task": draw.choice(("two", "pairs")), "text": "a dog"}
            body = json.dumps({"rows": [{**pairs, **({"text_pair": "a"} if pairs["task"] == "two" else {})}]}).encode()
        yield "POST", path, body, headers


@pytest.mark.parametrize(
    "count", [pytest.param(300, id="some"), pytest.param(10_000, id="all", marks=pytest.mark.slow)]
)
def test_each_gets_4xx_and_a_clear_body(server: Running, count: int) -> None:
    with server.client() as client:
        for number, (method, path, body, headers) in enumerate(hostile(count)):
            chunked = number % 5 == 0  # a body of undeclared length
            content = iter([body[:7], body[7:]]) if chunked else body
            got = client.request(method, path, content=content, headers=headers)
            assert 400 <= got.status_code < 500, (path, body[:200], got.text)
            said = got.json()
            assert said.keys() == {"error", "detail"}, said
            assert 0 < len(said["detail"]) < 1000
        assert client.post("/v1/predict", json=GOOD).status_code == 200
    assert server.batcher.waiting == 0


@pytest.mark.parametrize(
    ("rows", "said"), [([], "it is empty"), (1, "it should be a list"), (["a"], "keys with values")]
)
def test_what_is_wrong_with_a_body_is_said_in_words(server: Running, rows: object, said: str) -> None:
    with server.client() as client:
        detail = client.post("/v1/predict", json={"rows": rows}).json()["detail"]
    assert detail.startswith("body.rows")
    assert detail.endswith(said)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/tasks/mine"])
def test_a_body_that_is_too_large_gets_413_however_it_comes(server: Running, path: str) -> None:
    method = "POST" if path == "/v1/predict" else "PUT"
    with server.client() as client:
        for body in (b" " * LARGE_BODY, iter([b" " * 1000] * 21)):
            got = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
            assert (got.status_code, got.json()["error"]) == (413, "too-large")


def raw(server: Running, data: bytes, *, close: bool = False) -> bytes:
    """The server's answer to bytes on a new connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(data)
        if close:
            line.shutdown(socket.SHUT_WR)
        found = b""
        while part := line.recv(65536):
            found += part
    return found


def test_a_body_that_never_ends_gets_408(server: Running) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = raw(server, head + b"Content-Length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error":"timeout"' in answer
    assert raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n").startswith(b"HTTP/1.1 408")


def test_what_is_no_http_gets_400(server: Running) -> None:
    for data in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/x.y\r\n\r\n"):
        assert raw(server, data, close=True)[:12] in {b"HTTP/1.1 400", b""}
    with server.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Running) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    for _ in range(20):
        assert raw(server, head + b'{"rows":', close=True) == b""
    with server.client() as client:
        assert client.post("/v1/predict", json=GOOD).status_code == 200


def test_rows_of_a_client_that_has_left_are_not_computed(
    tiny_folder: Path, known: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_folder, known, max_batch=1) as server:
        begun, left, computed, answer = Event(), Event(), [], server.batcher.catalogue.bank.answer

        def slowly(rows: Sequence[Prepared]) -> list[Prediction]:
            begun.set()
            assert left.wait(30)
            computed.append(rows)
            return answer(rows)

        monkeypatch.setattr(server.batcher.catalogue.bank, "answer", slowly)
        body = json.dumps({"rows": GOOD["rows"] * 50}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            line.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            assert begun.wait(30)
        until = time.monotonic() + 30
        while server.batcher.waiting and time.monotonic() < until:
            time.sleep(0.01)
        left.set()
        with server.client() as client:
            assert client.post("/v1/predict", json=GOOD).status_code == 200
        assert len(computed) == 2  # the one that had begun, and that of the client that stayed
