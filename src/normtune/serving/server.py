"""uvicorn, stopped so that no accepted request is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn

from normtune.errors import ConfigError
from normtune.serving.application import application
from normtune.serving.service import Service


class Server(uvicorn.Server):
    """Serves a service until it is told to stop; a second signal stops at once.

    Args:
        service: What it serves.
        host: Name or address to listen at.
        port: Port, or 0 for a free one.
        started: Called with the address once it listens.
    """

    def __init__(
        self, service: Service, host: str, port: int, started: Callable[[str], None] = lambda address: None
    ) -> None:
        config = uvicorn.Config(
            application(service), host=host, port=port, log_level="warning", access_log=False, server_header=False
        )
        super().__init__(config)
        self._service, self._told, self._asked = service, started, False

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen.

        Raises:
            ConfigError: If the address cannot be listened at.
        """
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit as error:  # so uvicorn ends where the address is taken
            raise ConfigError(f"Cannot listen at {self.config.host}:{self.config.port}; is it in use?") from error
        if self.started:
            self._told(self.address)

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests, after the time for draining, and answer those that were taken."""
        if self._asked:
            self.force_exit = self.should_exit = True
            return
        self._asked = True
        self._service.retire()
        drain = self._service.settings.drain_seconds
        if drain == 0 or sig == signal.SIGINT:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(drain, self._stop)

    def _stop(self) -> None:
        self.should_exit = True
