"""The gate in front of the application: how many requests, how large a body, how slowly it may come."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtune.serving.schemas import Problem
from normtune.serving.service import Service

#: Of a body that is too large this many times the limit is read and thrown away, so that its client sees the answer.
_PATIENCE = 4


class Gate:
    """Takes a request's whole body within limits before the application sees it, and counts what is answered.

    Args:
        app: The application.
        service: Holds the limits and the counters.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service, self._inside = app, service, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._inside += 1
        try:
            await self._let_in(scope, receive, noted)
        finally:
            self._inside -= 1
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.requests.labels(route, status or "lost").inc()
            self._service.metrics.seconds.labels(route).observe(time.monotonic() - began)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self._service.settings
        if self._inside > settings.max_requests:
            self._service.metrics.full.inc()
            refusal = problem(503, "full", "The server is at its limit; try again in 1 s.", {"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        try:
            async with asyncio.timeout(settings.body_seconds):
                body = await _read(receive, settings.max_body)
        except TimeoutError:
            late = f"The body did not come within {settings.body_seconds:g} s."
            await problem(408, "timeout", late, {"Connection": "close"})(scope, receive, send)
            return
        except _GoneError:
            return
        if body is None:
            large = f"A body may have {settings.max_body:,} bytes; this one has more."
            await problem(413, "too-large", large, {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


class _GoneError(Exception):
    """The client left before its body was whole."""


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body, or None where it is longer than `limit`.

    Raises:
        _GoneError: If the client left before.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body", False) or size > _PATIENCE * limit:
            return b"".join(parts) if size <= limit else None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def problem(status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says what was wrong."""
    return JSONResponse(Problem(error=error, detail=detail).model_dump(), status, headers)
