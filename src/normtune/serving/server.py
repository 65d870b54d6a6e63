"""A uvicorn server that stops without losing an accepted request and waits for no client for ever."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from normtune.errors import ConfigError
from normtune.serving.app import application
from normtune.serving.batcher import Batcher
from normtune.serving.connection import SELDOM, Connection

#: Connections that the system keeps until the server takes them.
_BACKLOG = 256


class Server(uvicorn.Server):
    """Serves until a signal to stop; a second signal stops at once.

    Args:
        batcher: What it serves.
        host: Name or address to listen at.
        port: Port, or 0 for a free one.
        started: Called with the address once it listens.
    """

    def __init__(
        self, batcher: Batcher, host: str, port: int, started: Callable[[str], None] = lambda address: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application(batcher),
                host=host,
                port=port,
                http=partial(Connection, batcher.settings),  # type: ignore[arg-type]
                ws="none",
                backlog=_BACKLOG,
                h11_max_incomplete_event_size=batcher.settings.max_head,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        for name in ("uvicorn.error", "normtune.serving.tasks", "normtune.serving.batcher"):
            logging.getLogger(name).addFilter(SELDOM)
        self._batcher, self._call, self._signalled, self._stopped = batcher, started, False, math.inf
        #: Connections that were cut off while it stopped, before their clients had their answers.
        self.cut = 0

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen.

        Raises:
            ConfigError: If the address is in use or not this machine's.
        """
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit as error:  # raised by uvicorn if it cannot listen
            raise ConfigError(f"Cannot listen at {self.config.host}:{self.config.port}; is it in use?") from error
        self._loop = asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._watch())
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._call(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def _watch(self) -> None:
        """Cut off clients that keep the server waiting too long, counted from its stop at the latest."""
        patience = self._batcher.settings.client_seconds
        while True:
            await asyncio.sleep(min(1.0, patience / 4))
            for one in self._connections():
                if one.due and self._loop.time() - min(one.since, self._stopped) > patience:
                    self._cut(one)

    def _connections(self) -> list[Connection]:
        return cast(list[Connection], [*self.server_state.connections])

    def _cut(self, one: Connection) -> None:
        self.cut += self._signalled and one.owed
        one.transport.abort()

    def _cut_all(self) -> None:
        for one in self._connections():
            self._cut(one)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the time for draining, once every accepted request is answered."""
        if self._signalled:
            self.force_exit = self.should_exit = True
            # It would log a traceback of each cancelled request.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self._loop.call_soon_threadsafe(self._cut_all)
            return
        self._signalled = True
        self._batcher.retire()
        drain = 0.0 if sig == signal.SIGINT else self._batcher.settings.drain_seconds
        if drain:
            asyncio.get_running_loop().call_later(drain, setattr, self, "should_exit", True)
        else:
            self.should_exit = True

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Answer what was accepted, and wait a while for clients to read it."""
        self._stopped = self._loop.time()
        await super().shutdown(sockets)  # type: ignore[arg-type]
        self._watching.cancel()
