"""The gate in front of the application: it limits the number of requests, and the size and slowness of their bodies."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtune.serving.batcher import Batcher
from normtune.serving.schemas import Problem

#: A body that is too large is read up to this many times the limit, so that its client sees the refusal.
_PATIENCE = 4


class Gate:
    """ASGI middleware that reads a request's whole body within limits, and counts what is answered.

    Args:
        app: The application.
        batcher: Holds the limits and the metrics.
    """

    def __init__(self, app: ASGIApp, batcher: Batcher) -> None:
        self._app, self._settings, self._metrics, self._inside = app, batcher.settings, batcher.metrics, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
            await self._pass(scope, receive, noted)
        finally:
            self._inside -= 1
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status or "lost").inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        messages: list[Message] = []
        if self._inside > self._settings.max_requests:
            self._metrics.full.inc()
            app = problem(503, "full", "The server is at its limit; try again in 1 s.", {"Retry-After": "1"})
        else:
            try:
                async with asyncio.timeout(self._settings.body_seconds):
                    body = await _read(Request(scope, receive), self._settings.max_body)
                messages.append({"type": "http.request", "body": body, "more_body": False})
            except ClientDisconnect:
                return
            except TimeoutError:
                late = f"The body did not arrive within {self._settings.body_seconds:g} s."
                app = problem(408, "timeout", late, {"Connection": "close"})
            except ValueError as error:
                app = problem(413, "too-large", str(error), {"Connection": "close"})

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        await app(scope, again, send)


async def _read(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
        ValueError: If it is longer than `limit`.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > _PATIENCE * limit:
            break
    if size > limit:
        raise ValueError(f"A body may have {limit:,} bytes; this one has more.")
    return b"".join(parts)


def problem(status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response that says what is wrong."""
    return JSONResponse(Problem(error=error, detail=detail).model_dump(), status, headers)
