"""A pool of processes on one machine, for a study's jobs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import final

import torch

from normtune.errors import ConfigError
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Storage
from normtune.studies.executors.executor import Executor
from normtune.studies.jobs import Job, Outcomes, Result
from normtune.studies.schedule import Schedule

#: Attempts at a job before the deaths of its workers count as its failure.
ATTEMPTS = 3
#: Minimum seconds between two progress messages of a running job.
_PAUSE = 0.5


@final
class Pool(Executor):
    """Runs jobs in processes of this machine, each of which keeps its base model.

    A worker that dies is replaced, and its job begins again, from its checkpoint if it left one.

    Args:
        workers: How many processes.

    Raises:
        ConfigError: If there are none.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"A pool takes one worker or more; got {workers}.")
        self._count = workers

    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Run all jobs that are left (see `Executor.run`)."""
        deaths = Counter[str]()
        workers = [_Worker(engine, number) for number in range(self._count)]
        try:
            while True:
                for worker in workers:
                    if worker.job is None and (taken := schedule.take()) is not None:
                        worker.begin(*taken)
                busy = [(worker, worker.job) for worker in workers if worker.job is not None]
                if not busy:
                    return
                ready = wait([worker.pipe for worker, _ in busy])
                for worker, job in busy:
                    if worker.pipe not in ready:
                        continue
                    word = worker.word()
                    if word is None:
                        deaths[job.key] += 1
                        worker.replace()
                        if deaths[job.key] < ATTEMPTS:
                            schedule.give_back(job)
                            continue
                        word = Result(key=job.key, state="failed", error=f"The worker died {ATTEMPTS} times.")
                    if isinstance(word, Result):
                        worker.job = None
                        schedule.settle(word)
                    else:
                        schedule.watcher.tick(job, *word)
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A process that runs jobs, its present job, and the pipe to it."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine, self._number = engine, number
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # not forked: torch's threads do not survive that
        self.job: Job | None = None
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, self._engine.setup, self._engine.storage, self._number)
        )
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def begin(self, job: Job, needs: Outcomes) -> None:
        """Begin a job."""
        self.job = job
        with suppress(OSError):  # the process is dead; `word` will say so
            self.pipe.send((job, needs))

    def word(self) -> Result | tuple[int, int, str] | None:
        """The next message: the result of its job, or its progress; None if the process is dead."""
        try:
            word: Result | tuple[int, int, str] = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return word

    def replace(self) -> None:
        """Start another process in place of this one."""
        self.end()
        self._start()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


# In the worker


def _work(pipe: Connection, setup: Setup, storage: Storage, number: int) -> None:
    """Run the jobs that come through the pipe, and send their progress and results back."""
    _take_gpu(number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    Thread(target=_end_with_parent, daemon=True).start()
    engine, told = Engine(setup, storage), time.monotonic()

    def tell(done: int, total: int, note: str) -> None:
        nonlocal told
        if time.monotonic() - told >= _PAUSE:
            told = time.monotonic()
            pipe.send((done, total, note))

    while True:
        job, needs = pipe.recv()
        pipe.send(engine.run(job, needs, tell))


def _take_gpu(number: int) -> None:
    """Restrict this process to one of several GPUs, by the worker's number, before torch uses any."""
    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % count]


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
