"""A server's working parts, whatever speaks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from normtune.deltas.answers import Text
from normtune.errors import NormtuneError
from normtune.serving.batcher import Batcher
from normtune.serving.catalogue import Catalogue
from normtune.serving.metrics import Metrics
from normtune.serving.schemas import Answer
from normtune.serving.settings import Settings

T = TypeVar("T")


class TooLongError(NormtuneError):
    """A request with more rows, or a longer text, than the server takes."""


class Service:
    """Tasks, a queue in front of them, and the threads that do the work.

    Args:
        catalogue: The tasks.
        settings: The limits.
    """

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        self.catalogue, self.settings, self.metrics = catalogue, settings, Metrics()
        self._batcher: Batcher | None = None
        self._stopping = False
        # Loads, tokenizes and changes tasks, so that the event loop never waits for a file or a long text.
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="normtune-desk")
        self.metrics.watch(catalogue, lambda: self.batcher.waiting if self._batcher else 0)

    async def start(self) -> None:
        """Begin to answer."""
        self._batcher = Batcher(self.catalogue.bank, self.settings, self.metrics)

    async def stop(self) -> None:
        """Answer what was accepted, then stop."""
        self._stopping = True
        await self.batcher.close()
        self._desk.shutdown()

    def retire(self) -> None:
        """Say from now on that the server is not ready; it still answers."""
        self._stopping = True

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._batcher is not None and not self._stopping

    @property
    def batcher(self) -> Batcher:
        """The queue, once the service has started."""
        assert self._batcher is not None, "start the service first"
        return self._batcher

    async def predict(self, rows: Sequence[tuple[str, Text]]) -> list[Answer]:
        """The answers for texts, each with the name of its task before it.

        Raises:
            TooLongError: If there are too many, or one is too long.
            FullError: If there is no room for them now.
            UnknownTaskError: If there is no such task.
            DataError: If a text is empty, or its task does not read such.
        """
        self._check(rows)
        self.batcher.reserve(len(rows))
        try:
            prepared = await self.at_desk(lambda: self.catalogue.prepare(rows))
        except BaseException:
            self.batcher.release(len(rows))
            raise
        found = await self.batcher.answer(prepared)
        return [Answer.of(one.entry.name, one.truncated, answer) for one, answer in zip(prepared, found, strict=True)]

    async def at_desk(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread that may read files and change tasks."""
        return await asyncio.get_running_loop().run_in_executor(self._desk, work)

    def _check(self, rows: Sequence[tuple[str, Text]]) -> None:
        most = min(self.settings.max_rows, self.settings.max_queue)
        if len(rows) > most:
            raise TooLongError(f"A request may have {most:,} rows; this one has {len(rows):,}.")
        for number, (_, text) in enumerate(rows):
            longest = len(text) if isinstance(text, str) else max(map(len, text))
            if longest > self.settings.max_text:
                raise TooLongError(
                    f"A text may have {self.settings.max_text:,} characters; row {number} has one of {longest:,}."
                )
