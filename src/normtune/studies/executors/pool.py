"""A pool of processes on one machine, for a study's jobs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import final

from normtune.errors import ConfigError
from normtune.studies.config import Setup
from normtune.studies.engine import Place
from normtune.studies.executors.executor import Executor, Report, call, tell_spare
from normtune.studies.jobs import Job, Result, Results
from normtune.studies.schedule import Schedule

#: How often a job is begun before its workers' deaths are taken for its own fault.
ATTEMPTS = 3
#: Seconds between two words about a job that is running.
_PAUSE = 0.5


@final
class Pool(Executor):
    """Does jobs in processes of this machine, each of which keeps its base model.

    A worker that dies is replaced, and its job is begun again, where it left a checkpoint from there.

    Args:
        workers: How many processes.

    Raises:
        ConfigError: If that is none.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"A pool takes one worker or more; got {workers}.")
        self._count = workers

    def run(self, schedule: Schedule, setup: Setup, place: Place, report: Report) -> None:
        """Do all jobs that are left (see `Executor.run`)."""
        attempts = Counter[str]()
        workers = [_Worker() for _ in range(self._count)]
        busy: dict[Future[Result], tuple[int, Job]] = {}
        tell_spare(schedule, report)
        try:
            while schedule.left:
                for number in {*range(self._count)} - {number for number, _ in busy.values()}:
                    if (job := schedule.take()) is None:
                        break
                    busy[workers[number].begin(setup, place, job, schedule.needs(job))] = number, job
                    attempts[job.key] += 1
                    if attempts[job.key] == 1:
                        report.begin(job)
                ended, _ = wait(busy, _PAUSE, FIRST_COMPLETED)
                for number, job in busy.values():
                    for done, total, note in workers[number].words():
                        report.tick(job, done, total, note)
                for future in ended:
                    number, job = busy.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        workers[number].dismiss()
                        workers[number] = _Worker()
                        if attempts[job.key] < ATTEMPTS:
                            schedule.give_back(job)
                            continue
                        result = Result(key=job.key, state="failed", error=f"The worker died {ATTEMPTS} times.")
                    schedule.settle(result)
                    report.end(job, result)
                tell_spare(schedule, report)
        finally:
            for worker in workers:
                worker.dismiss()


class _Worker:
    """A process, and a pipe by which it tells how far its job has come; it ends with the pipe."""

    def __init__(self) -> None:
        context = get_context("spawn")  # not forked: torch's threads do not survive that
        self._pipe, theirs = context.Pipe()
        self._process = ProcessPoolExecutor(1, context, _begin, (theirs,))

    def begin(self, setup: Setup, place: Place, job: Job, needs: Results) -> Future[Result]:
        """Begin a job."""
        try:
            return self._process.submit(_work, setup, place, job, dict(needs))
        except BrokenProcessPool as error:  # it died without a job
            lost = Future[Result]()
            lost.set_exception(error)
            return lost

    def words(self) -> Iterator[tuple[int, int, str]]:
        """What it has told since it was asked last."""
        while self._pipe.poll():
            yield self._pipe.recv()

    def dismiss(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.shutdown(cancel_futures=True)


# In the worker


def _begin(pipe: Connection) -> None:
    """Make a process a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key pressed at the terminal reaches all; who gave the jobs decides
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    global _teller
    _teller = _Teller(pipe)
    Thread(target=_end_with, args=(pipe,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    """End this process as soon as nobody is at the other end of the pipe."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _work(setup: Setup, place: Place, job: Job, needs: Results) -> Result:
    assert _teller is not None
    return call(setup, place, job, needs, _teller)


class _Teller:
    """Tells how far a job has come, now and then."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._last = pipe, time.monotonic()

    def __call__(self, done: int, total: int, note: str) -> None:
        """Tell it, unless something was told just now."""
        if time.monotonic() - self._last >= _PAUSE:
            self._last = time.monotonic()
            self._pipe.send((done, total, note))


_teller: _Teller | None = None
