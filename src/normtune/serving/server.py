"""uvicorn, which stops without losing an accepted request."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn

from normtune.errors import ConfigError
from normtune.serving.app import application
from normtune.serving.batcher import Batcher


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
                application(batcher), host=host, port=port, log_level="warning", access_log=False, server_header=False
            )
        )
        self._batcher, self._call, self._signalled = batcher, started, False

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen.

        Raises:
            ConfigError: If the address is in use or not of this machine.
        """
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit as error:  # raised by uvicorn if it cannot listen
            raise ConfigError(f"Cannot listen at {self.config.host}:{self.config.port}; is it in use?") from error
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._call(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the time for draining, once every accepted request is answered."""
        if self._signalled:
            self.force_exit = self.should_exit = True
            return
        self._signalled = True
        self._batcher.retire()
        drain = 0.0 if sig == signal.SIGINT else self._batcher.settings.drain_seconds
        if drain:
            asyncio.get_running_loop().call_later(drain, setattr, self, "should_exit", True)
        else:
            self.should_exit = True
