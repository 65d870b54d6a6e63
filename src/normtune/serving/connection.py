"""The connections of a server: how many there may be, and how long a client may keep one waiting."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from normtune.serving.schemas import Problem
from normtune.serving.settings import Settings


class Connection(H11Protocol):
    """A connection that answers invalid HTTP with an error in JSON.

    If there are too many connections, the one that has waited longest for its client is closed.
    """

    def __init__(self, settings: Settings, **given: Any) -> None:
        super().__init__(**given)
        self._settings = settings
        #: Since when it waits for its client, in the loop's time.
        self.since = self.loop.time()

    @property
    def due(self) -> bool:
        """Whether it waits for its client to send the headers of a request or to read an answer."""
        return self.cycle is None or self.cycle.response_complete or self.flow.write_paused

    @property
    def owed(self) -> bool:
        """Whether its client has yet to get the whole answer to its request."""
        flushed = self.transport.get_write_buffer_size() == 0
        return self.cycle is not None and not (self.cycle.response_complete and flushed)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, and drop one if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            there = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
            slow = [one for one in there if one.due or one.conn.their_state is h11.SEND_BODY]
            min(slow, key=lambda one: one.since).transport.abort()

    def on_response_complete(self) -> None:
        """Wait for the client."""
        self.since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for the client."""
        self.since = self.loop.time()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer that the request is invalid, unless an answer is under way."""
        if self.cycle is not None and self.cycle.response_started and self.owed:
            self.transport.abort()
            return
        detail = f"This is no valid HTTP, or its headers have more than {self._settings.max_head:,} bytes."
        body = Problem(error="bad-request", detail=detail).model_dump_json()
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        self.transport.close()


class RateLimit(logging.Filter):
    """Lets one warning a second through, so that refused requests do not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        if record.levelno > logging.WARNING:
            return True
        if (now := time.monotonic()) - self._last < 1:
            return False
        self._last = now
        return True


#: The filter on every logger that reports on requests.
SELDOM = RateLimit()
