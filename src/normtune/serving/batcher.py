"""The queue in front of the model: rows of many requests are gathered into batches that one thread answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from normtune.deltas.answers import Prediction, Text
from normtune.deltas.bank import Prepared
from normtune.errors import AnswerError, NormtuneError
from normtune.serving.schemas import Answer
from normtune.serving.tasks import Catalogue

T = TypeVar("T")
_log = logging.getLogger(__name__)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class TooLongError(NormtuneError):
    """A request with more rows, or a longer text, than the server takes."""


class QueueFullError(NormtuneError):
    """The queue has no room for a request now; the client may try again after some seconds."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"The server is at its limit; try again in {seconds} s.")


class BatchError(NormtuneError):
    """A row that the model failed on."""

    def __init__(self) -> None:
        super().__init__("The server failed on this request; its log says why.")


class Metrics(Collector):
    """What a server tells Prometheus: counters and histograms, and the present state of its tasks and queue.

    No series is named after a task, since there may be a million of them.

    Args:
        catalogue: The tasks.
        waiting: Gives the number of rows in the queue.
    """

    def __init__(self, catalogue: Catalogue, waiting: Callable[[], int]) -> None:
        self._catalogue, self._waiting = catalogue, waiting
        self.registry = own = CollectorRegistry()
        self.requests = Counter("normtune_requests", "Requests answered.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "normtune_request_seconds", "Seconds from request to answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.full = Counter("normtune_queue_full", "Requests refused because the server was full.", registry=own)
        self.batch_rows = Histogram("normtune_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=own)
        self.batch_seconds = Histogram("normtune_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=own)
        own.register(self)

    def collect(self) -> Iterable[Metric]:
        """The present state."""
        cache, refused = self._catalogue.cache, self._catalogue.refused
        yield GaugeMetricFamily("normtune_queue_rows", "Rows that wait or are in a batch.", self._waiting())
        yield GaugeMetricFamily("normtune_tasks_loaded", "Tasks in memory.", len(self._catalogue.bank))
        yield GaugeMetricFamily("normtune_cache_bytes", "Memory of the tasks loaded from the folder.", cache.bytes)
        yield CounterMetricFamily("normtune_cache_hits", "Tasks that were in memory when asked for.", cache.hits)
        yield CounterMetricFamily("normtune_cache_misses", "Tasks that were not in memory.", cache.misses)
        yield CounterMetricFamily("normtune_cache_evictions", "Tasks dropped to make room.", cache.evictions)
        yield CounterMetricFamily("normtune_deltas_refused", "Deltas of the folder that were refused.", refused)


@dataclass(eq=False)
class _Row:
    """A row in the queue: the text with its task, when it came, and the future of its answer."""

    prepared: Prepared
    came: float
    answer: asyncio.Future[Prediction]


class Batcher:
    """A bounded queue in front of the tasks.

    A batch runs when it is full, or when its first row has waited long enough. While one runs, the next is gathered, so
    nothing waits on purpose under load. Rows run in the order in which they came; a long request may span batches.

    One thread runs the model. Another reads files, tokenizes and changes tasks, so the event loop never waits for them.

    Args:
        catalogue: The tasks, with the server's limits.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.settings = catalogue, catalogue.settings
        #: Rows of all requests that are not answered yet.
        self.waiting = 0
        #: Whether new requests are welcome.
        self.ready = False
        self.metrics = Metrics(catalogue, lambda: self.waiting)
        self._queue: deque[_Row] = deque()
        self._more = asyncio.Event()
        self._model = ThreadPoolExecutor(1, thread_name_prefix="normtune-model")
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="normtune-desk")
        self._pace = 0.0  # seconds a row, smoothed

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._run())
        self.ready = True

    def retire(self) -> None:
        """Ask for new requests to go elsewhere. Those that still come are answered, in batches that no longer wait."""
        self.ready = False
        self._more.set()

    async def stop(self) -> None:
        """Answer what was accepted, then stop."""
        self.retire()
        while self.waiting:
            await asyncio.sleep(0.005)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._model.shutdown()
        self._desk.shutdown()

    async def at_desk(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread that reads files and changes tasks."""
        return await asyncio.get_running_loop().run_in_executor(self._desk, work)

    async def predict(self, rows: Sequence[tuple[str, Text]]) -> list[Answer]:
        """Answer texts, each given with the name of its task.

        Raises:
            TooLongError: If there are too many rows, or a text is too long.
            QueueFullError: If there is no room for them now.
            UnknownTaskError: If there is no such task.
            DataError: If a text is empty, is no pair though its task reads pairs, or the reverse.
            AnswerError: If a task's outputs are not finite.
            BatchError: If the model failed.
        """
        self._check(rows)
        self.waiting += len(rows)
        try:
            prepared = await self.at_desk(lambda: self.catalogue.prepare(rows))
            found = await self._answers(prepared)
        finally:
            self.waiting -= len(rows)
        return [
            Answer(task=one.entry.name, truncated=one.truncated, **answer.model_dump())
            for one, answer in zip(prepared, found, strict=True)
        ]

    def _check(self, rows: Sequence[tuple[str, Text]]) -> None:
        most = min(self.settings.max_rows, self.settings.max_queue)
        if len(rows) > most:
            raise TooLongError(f"A request may have {most:,} rows; this one has {len(rows):,}.")
        for number, (_, text) in enumerate(rows):
            longest = max(map(len, text)) if isinstance(text, tuple) else len(str(text))
            if longest > self.settings.max_text:
                raise TooLongError(
                    f"A text may have {self.settings.max_text:,} characters; row {number} has one of {longest:,}."
                )
        if self.waiting + len(rows) > self.settings.max_queue:
            self.metrics.full.inc()
            raise QueueFullError(max(1, math.ceil(self.waiting * self._pace)))

    async def _answers(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        loop = asyncio.get_running_loop()
        rows = [_Row(one, time.monotonic(), loop.create_future()) for one in prepared]
        self._queue.extend(rows)
        self._more.set()
        try:
            return await asyncio.gather(*(row.answer for row in rows))
        finally:
            for row in rows:  # after a failure, or if the client has left, the others need no answer
                row.answer.cancel()

    async def _run(self) -> None:
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            began = time.monotonic()
            await self._answer(batch)
            seconds = time.monotonic() - began
            pace = seconds / len(batch)
            self._pace = 0.9 * self._pace + 0.1 * pace if self._pace else pace
            self.metrics.batch_rows.observe(len(batch))
            self.metrics.batch_seconds.observe(seconds)

    async def _answer(self, batch: list[_Row]) -> None:
        """Answer a batch. If it fails, answer it in halves, so that a row that fails does so alone."""
        prepared = [row.prepared for row in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                self._model, self.catalogue.bank.answer, prepared
            )
        except Exception as error:  # any row's fault, or the model's; the server goes on
            if len(batch) > 1:
                await self._answer(batch[: len(batch) // 2])
                await self._answer(batch[len(batch) // 2 :])
                return
            expected, name = isinstance(error, AnswerError), prepared[0].entry.name
            level = logging.WARNING if expected else logging.ERROR
            _log.log(level, "A row of the task %s failed: %s", name, error, exc_info=not expected)
            if not batch[0].answer.done():
                batch[0].answer.set_exception(error if expected else BatchError())
        else:
            for row, answer in zip(batch, answers, strict=True):
                if not row.answer.done():
                    row.answer.set_result(answer)

    async def _gather(self) -> None:
        """Wait until a batch is full, or its first row has waited long enough."""
        while not self._queue:
            self._more.clear()
            await self._more.wait()
        until = self._queue[0].came + self.settings.max_wait
        while self.ready and len(self._queue) < self.settings.max_batch and (left := until - time.monotonic()) > 0:
            self._more.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), left)

    def _take(self) -> list[_Row]:
        batch: list[_Row] = []
        while self._queue and len(batch) < self.settings.max_batch:
            row = self._queue.popleft()
            if not row.answer.done():
                batch.append(row)
        return batch
