"""A pool of processes on one machine, for a study's jobs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import final

from normtune.config import Strict
from normtune.errors import ConfigError, NormtuneError
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Place
from normtune.studies.executors.executor import Executor, Report, tell_spare
from normtune.studies.jobs import Job, Result
from normtune.studies.schedule import Schedule

#: How often a job is begun before its workers' deaths are taken for its own fault.
ATTEMPTS = 3
#: Seconds between two words about a job that is running.
_PAUSE = 0.5


class _Order(Strict):
    """A job for a worker, and what became of those that it needs."""

    job: Job
    needs: dict[str, Result]


@dataclass
class _Worker:
    """A process of the pool, and the job that it is at."""

    process: BaseProcess
    pipe: Connection
    job: Job | None = None


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
        self._workers: list[_Worker] = []
        self._attempts: dict[str, int] = {}

    def run(self, schedule: Schedule, setup: Setup, place: Place, report: Report) -> None:
        """Do all jobs that are left (see `Executor.run`)."""
        self._attempts = {}
        tell_spare(schedule, report)
        try:
            while schedule.left:
                self._employ(schedule, setup, place, report)
                self._listen(schedule, report)
                tell_spare(schedule, report)
        finally:
            self._dismiss()

    def _employ(self, schedule: Schedule, setup: Setup, place: Place, report: Report) -> None:
        """Give every idle worker a job, as long as there are any."""
        while idle := self._idle():
            job = schedule.take()
            if job is None:
                return
            self._attempts[job.key] = self._attempts.get(job.key, 0) + 1
            worker = idle[0] if idle[0] is not None else self._hire(setup, place)
            worker.job = job
            if self._attempts[job.key] == 1:
                report.begin(job)
            with suppress(OSError):  # a worker that has just died is noticed by its silence
                worker.pipe.send_bytes(_Order(job=job, needs=schedule.needs(job)).model_dump_json().encode())

    def _idle(self) -> list[_Worker | None]:
        """Workers without a job, and None for one that can still be hired."""
        free: list[_Worker | None] = [worker for worker in self._workers if worker.job is None]
        return free or ([None] if len(self._workers) < self._count else [])

    def _hire(self, setup: Setup, place: Place) -> _Worker:
        # Not forked: torch's threads do not survive that.
        context = get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, setup.model_dump_json(), place.model_dump_json()), daemon=True
        )
        process.start()
        theirs.close()  # so that the pipe ends when the worker does
        worker = _Worker(process, mine)
        self._workers.append(worker)
        return worker

    def _listen(self, schedule: Schedule, report: Report) -> None:
        """Wait for word from a worker, and act on it."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                word = _Word.model_validate_json(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                self._bury(worker, schedule, report)
                continue
            job = worker.job
            assert job is not None
            if word.result is None:
                report.tick(job, word.done, word.total, word.note)
            else:
                worker.job = None
                schedule.settle(word.result)
                report.end(job, word.result)

    def _bury(self, worker: _Worker, schedule: Schedule, report: Report) -> None:
        """Part with a worker that died; its job waits again, unless it has cost too many."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        job = worker.job
        if job is None:
            return
        if self._attempts[job.key] < ATTEMPTS:
            schedule.give_back(job)
            return
        error = f"The worker died {ATTEMPTS} times, last with exit code {worker.process.exitcode}."
        result = Result(key=job.key, state="failed", error=error)
        schedule.settle(result)
        report.end(job, result)

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []


class _Word(Strict):
    """What a worker says: how far it has come, or what became of its job."""

    done: int = 0
    total: int = 0
    note: str = ""
    result: Result | None = None


def _serve(pipe: Connection, setup: str, place: str) -> None:
    """The life of a worker: one job after the other, until nobody gives it any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key pressed at the terminal reaches all; who gave the jobs decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    engine: Engine | None = None
    try:
        while True:
            order = _Order.model_validate_json(pipe.recv_bytes())
            try:
                engine = engine or Engine(Setup.model_validate_json(setup), Place.model_validate_json(place))
                result = engine.run(order.job, order.needs, _Teller(pipe))
            except NormtuneError as error:
                result = Result(key=order.job.key, state="failed", error=str(error))
            pipe.send_bytes(_Word(result=result).model_dump_json().encode())
    except EOFError:
        return


class _Teller:
    """Tells how far a job has come, now and then; so a worker whose employer is gone stops soon."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._last = pipe, time.monotonic()

    def __call__(self, done: int, total: int, note: str) -> None:
        """Tell it, unless it was told just now.

        Raises:
            SystemExit: If nobody listens any more.
        """
        if time.monotonic() - self._last < _PAUSE:
            return
        self._last = time.monotonic()
        try:
            self._pipe.send_bytes(_Word(done=done, total=total, note=note).model_dump_json().encode())
        except OSError:
            raise SystemExit(0) from None
