"""Rows of many requests, gathered into batches that one thread answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from normtune.deltas.answers import Prediction
from normtune.deltas.bank import Bank
from normtune.deltas.entry import Prepared
from normtune.errors import NormtuneError
from normtune.serving.metrics import Metrics
from normtune.serving.settings import Settings

_log = logging.getLogger(__name__)


class FullError(NormtuneError):
    """There is no room for a request now.

    Args:
        seconds: After how many it may be tried again.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"The server is at its limit; try again in {seconds} s.")


class BatchError(NormtuneError):
    """A batch that failed, by no fault of the requests in it."""

    def __init__(self) -> None:
        super().__init__("The server failed on this request; its log says why.")


@dataclass(eq=False)
class _Request:
    """A request's rows on their way.

    Attributes:
        rows: What is asked.
        came: When it came.
        done: Becomes its answers.
        answers: Those known so far, by position.
        taken: How many of its rows have gone into batches.
    """

    rows: Sequence[Prepared]
    came: float
    done: asyncio.Future[list[Prediction]]
    answers: dict[int, Prediction] = field(default_factory=dict)
    taken: int = 0


class Batcher:
    """A bounded queue in front of a bank.

    A batch is run when it is full, or when its first row has waited long enough. While one runs, the next gathers, so
    that under load nothing waits on purpose. Rows go in the order they came; a long request may span batches.

    Args:
        bank: Answers the batches, in a thread of its own.
        settings: Rows a batch, the longest wait and the rows that may wait.
        metrics: What is told of the batches.
    """

    def __init__(self, bank: Bank, settings: Settings, metrics: Metrics) -> None:
        self._bank, self._settings, self._metrics = bank, settings, metrics
        self._queue: deque[_Request] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="normtune-model")
        self._more, self._task = asyncio.Event(), asyncio.create_task(self._run())
        #: Rows that wait or are promised room.
        self.waiting = 0
        self._pace = 0.0  # seconds a row, smoothed

    def reserve(self, rows: int) -> None:
        """Promise room for `rows`; to be followed by `answer`, or by `release` if it comes to nothing.

        Raises:
            FullError: If they would go beyond the limit.
        """
        if self.waiting + rows > self._settings.max_queue:
            self._metrics.full.inc()
            raise FullError(max(1, math.ceil(self.waiting * self._pace)))
        self.waiting += rows

    def release(self, rows: int) -> None:
        """Give room back."""
        self.waiting -= rows

    async def answer(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """The answers for rows that room was reserved for."""
        request = _Request(prepared, time.monotonic(), asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._more.set()
        return await request.done

    async def close(self) -> None:
        """Answer what waits, then stop."""
        while self._queue or self.waiting:
            await asyncio.sleep(0.005)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            rows = [request.rows[number] for request, number in batch]
            began = time.monotonic()
            try:
                answers = await loop.run_in_executor(self._thread, self._bank.answer, rows)
            except Exception:  # the requests of this batch fail; the server goes on
                _log.exception("A batch of %d rows failed", len(rows))
                self._fail(batch)
            else:
                self._hand_out(batch, answers)
            self._note(len(rows), time.monotonic() - began)

    async def _gather(self) -> None:
        """Wait until a batch is full, or the first row of it has waited long enough."""
        while not self._queue:
            self._more.clear()
            await self._more.wait()
        until = self._queue[0].came + self._settings.max_wait
        while self._gathered() < self._settings.max_batch and (left := until - time.monotonic()) > 0:
            self._more.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), left)

    def _gathered(self) -> int:
        return sum(len(request.rows) - request.taken for request in self._queue)

    def _take(self) -> list[tuple[_Request, int]]:
        batch: list[tuple[_Request, int]] = []
        while self._queue and len(batch) < self._settings.max_batch:
            request = self._queue[0]
            if request.done.done():  # given up by its client, or failed with an earlier batch
                self.release(len(request.rows) - request.taken)
                self._queue.popleft()
                continue
            end = min(len(request.rows), request.taken + self._settings.max_batch - len(batch))
            batch.extend((request, number) for number in range(request.taken, end))
            request.taken = end
            if end == len(request.rows):
                self._queue.popleft()
        return batch

    def _hand_out(self, batch: list[tuple[_Request, int]], answers: Sequence[Prediction]) -> None:
        for (request, number), answer in zip(batch, answers, strict=True):
            request.answers[number] = answer
            if len(request.answers) == len(request.rows) and not request.done.done():
                request.done.set_result([request.answers[at] for at in range(len(request.rows))])

    def _fail(self, batch: list[tuple[_Request, int]]) -> None:
        for request, _ in batch:
            if not request.done.done():
                request.done.set_exception(BatchError())

    def _note(self, rows: int, seconds: float) -> None:
        self.release(rows)
        pace = seconds / rows
        self._pace = pace if not self._pace else 0.9 * self._pace + 0.1 * pace
        self._metrics.batch_rows.observe(rows)
        self._metrics.batch_seconds.observe(seconds)
