"""The gate in front of the application: it limits host names, requests at a time, and the size and time of bodies."""

from __future__ import annotations

import asyncio
import time

from anyio import CancelScope
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtune.serving.batcher import Batcher
from normtune.serving.schemas import Problem
from normtune.serving.settings import is_loopback

#: A body that is too large is read up to this many times the limit, so that its client sees the refusal.
_PATIENCE = 4


class Gate:
    """ASGI middleware that passes on requests to this server with bodies within limits, and counts the answers."""

    def __init__(self, app: ASGIApp, batcher: Batcher) -> None:
        self._app, self._settings, self._metrics = app, batcher.settings, batcher.metrics
        #: Requests at the moment, and the bytes of their bodies.
        self._inside = self._bytes = 0

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
        parts: list[bytes] = []
        messages: list[Message] = []

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        app = self._app
        try:
            try:
                async with asyncio.timeout(self._settings.body_seconds):
                    await self._read(Request(scope, receive), parts)
            except TimeoutError:
                late = f"The body did not arrive within {self._settings.body_seconds:g} s."
                app = _RefusedError(408, "timeout", late).response
            except _RefusedError as refused:
                app = refused.response
            else:
                messages.append({"type": "http.request", "body": b"".join(parts), "more_body": False})
            with CancelScope() as work:
                leaving = asyncio.create_task(_cancel_if_left(receive, work))
                try:
                    await app(scope, again, send)
                finally:
                    leaving.cancel()
        except ClientDisconnect:
            return
        finally:
            self._bytes -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        """Check a request, and read its body into `parts`."""
        settings, size = self._settings, 0
        if settings.hosts is not None and not _is_ours(request.headers.get("host", ""), settings.hosts):
            # Another site can point a name of its own at this server (DNS rebinding), and must not get in by it.
            raise _RefusedError(403, "forbidden", "This server does not answer to this host name; see --allow-host.")
        if self._inside > settings.max_requests:
            raise self._full()
        async for part in request.stream():
            size += len(part)
            if size <= settings.max_body:
                parts.append(part)
                self._bytes += len(part)
            elif size > _PATIENCE * settings.max_body:
                break
            if self._bytes > settings.max_bodies:
                raise self._full()
        if size > settings.max_body:
            detail = f"A body may have {settings.max_body:,} bytes; this one has more."
            raise _RefusedError(413, "too-large", detail)

    def _full(self) -> _RefusedError:
        self._metrics.full.inc()
        return _RefusedError(503, "full", "The server is at its limit; try again in 1 s.")


async def _cancel_if_left(receive: Receive, work: CancelScope) -> None:
    """Cancel the work on a request once its client has gone, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()


class _RefusedError(Exception):
    """A refused request, with the response to it. Its connection ends, since its body is not read."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        again = {"Retry-After": "1"} if status == 503 else {}
        self.response = problem(status, error, detail, {"Connection": "close", **again})


def _is_ours(host: str, names: tuple[str, ...]) -> bool:
    """Whether the header ``Host``, with or without a port, names this machine itself or is among `names`."""
    name = host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host
    return is_loopback(name) or name.lower() in names


def problem(status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response that says what is wrong."""
    return JSONResponse(Problem(error=error, detail=detail).model_dump(), status, headers)
