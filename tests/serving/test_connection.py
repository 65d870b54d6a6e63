"""Clients that send nothing, or slowly, or too much, or do not read: none of them keeps the others from an answer."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from normtune.deltas.delta import Delta
from normtune.serving.connection import RateLimit
from tests.serving.running import Running, running
from tests.serving.test_gate import raw

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(server: Running, count: int = 1, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have sent `data`, with small receive buffers."""
    host, port = server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        lines = []
        for _ in range(count):
            line = stack.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.settimeout(20)
            line.connect((host, int(port)))
            line.sendall(data)
            lines.append(line)
        yield lines


def unread(server: Running, count: int = 1) -> AbstractContextManager[list[socket.socket]]:
    """Connections that ask for more than the system buffers."""
    return connected(server, count, b"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def ended(line: socket.socket) -> bool:
    """Whether the server ends a connection without sending anything."""
    try:
        return line.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def hasty(tiny_folder: Path, known: dict[str, Delta]) -> Iterator[Running]:
    """A server that waits only briefly for a client and takes few connections."""
    limits = {"client_seconds": 0.4, "max_connections": 8, "max_body": 5000, "max_bodies": 10_000}
    with running(tiny_folder, known, **limits) as started:
        yield started


@pytest.mark.parametrize("data", [b"", GET, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET])
def test_a_connection_without_a_whole_head_ends(hasty: Running, data: bytes) -> None:
    connections = hasty.server.server_state.connections
    with connected(hasty, 3, data):
        assert until(lambda: len(connections) == 3)
        time.sleep(0.1)
        assert len(connections) == 3
        assert until(lambda: not connections)


def test_a_head_that_comes_byte_by_byte_does_not_stretch_the_time(hasty: Running) -> None:
    with connected(hasty, 1, GET + b"X: ") as (line,):
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < 10:
                line.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_a_connection_that_is_used_stays(hasty: Running) -> None:
    with connected(hasty) as (line,):
        for _ in range(6):
            line.sendall(GET + b"\r\n")
            answer = b""
            while b"alive" not in answer:
                answer += (part := line.recv(1000))
                assert part, "the server ended the connection"
            time.sleep(0.15)


def test_beside_many_silent_connections_others_get_answers(hasty: Running) -> None:
    with connected(hasty, 40) as lines:
        for _ in range(3):
            assert raw(hasty, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert until(lambda: len(hasty.server.server_state.connections) <= 8)
        assert ended(lines[0])  # the one that is silent for longest goes first


def test_unfinished_bodies_are_held_up_to_a_limit(hasty: Running) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + b" " * 4000
    with connected(hasty, 2, head), connected(hasty, 1, head) as (line,):
        answer = line.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
    with hasty.client() as client:
        assert until(lambda: client.post("/v1/predict", content=b" " * 4000).status_code < 500)


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"GET / HTTP/x.y\r\n\r\n", GET + b"X: " + b"a" * 20_000])
def test_what_is_no_http_or_too_long_is_refused_in_json(hasty: Running, data: bytes) -> None:
    head, _, body = raw(hasty, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["error"] == "bad-request"


@pytest.mark.parametrize("data", [b"X: " + b"a" * 5_000_000, b"X: a\r\n" * 800_000], ids=["one", "many"])
def test_headers_without_an_end_are_not_kept(hasty: Running, data: bytes) -> None:
    answer = b""
    with connected(hasty, 1, GET) as (line,), suppress(OSError):  # it ends while we still send
        line.sendall(data + b"\r\n\r\n")
        answer = line.recv(1000)
    assert not answer.startswith(b"HTTP/1.1 200")


def test_nonsense_after_the_head_is_refused_too(hasty: Running) -> None:
    answer = raw(hasty, b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert raw(hasty, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_cut_off(hasty: Running) -> None:
    with unread(hasty, 2):
        assert until(lambda: len(hasty.server.server_state.connections) == 2)
        assert until(lambda: not hasty.server.server_state.connections)


def test_one_warning_a_second_is_logged() -> None:
    seldom = RateLimit()
    warning, failure = (logging.LogRecord("x", level, "", 1, "said", (), None) for level in (logging.WARNING, 40))
    assert [seldom.filter(warning) for _ in range(50)] == [True] + [False] * 49
    assert all(seldom.filter(failure) for _ in range(3))
