"""A Ray cluster for a study's jobs: each runs on any node that has its processors and accelerators free."""

from __future__ import annotations

import logging
import os
import socket
from functools import lru_cache
from typing import Any, final

from normtune.errors import ConfigError
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Storage
from normtune.studies.executors.executor import Executor
from normtune.studies.jobs import Job, Outcomes, Result
from normtune.studies.schedule import Schedule

#: How often Ray restarts a job whose node or process died.
RETRIES = 5
#: Seconds to wait for jobs before looking again.
_PAUSE = 1.0
#: Seconds in which a cluster must answer.
_PATIENCE = 10.0


@final
class Cluster(Executor):
    """Runs jobs on a Ray cluster whose nodes share the study's folder.

    A node that dies costs only time: its jobs begin again elsewhere, from their checkpoints if they left any.

    Args:
        address: The cluster's address, ``auto`` for the one that this machine belongs to, or None for one on this
            machine alone.
        cpus: Processors of each job; by default as many as it has threads.
        gpus: Accelerators of each job.

    Raises:
        ConfigError: If Ray is not installed, or the numbers make no sense.
    """

    def __init__(self, address: str | None = None, *, cpus: float | None = None, gpus: float = 0) -> None:
        if (cpus is not None and cpus <= 0) or gpus < 0:
            raise ConfigError(f"A job takes some processors and no negative accelerators; got {cpus} and {gpus}.")
        self._ray = _ray()
        self._address, self._cpus, self._gpus = address, cpus, gpus

    def run(self, schedule: Schedule, engine: Engine) -> None:
        """Run all jobs that are left (see `Executor.run`).

        Raises:
            ConfigError: If there is no cluster at the address, or none of its nodes is large enough for a job.
        """
        ray = self._ray
        _knock(self._address)
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"There is no Ray cluster at {self._address!r}: {_first_line(error)}") from error
        try:
            self._check(engine.setup)
            self._work_off(schedule, engine)
        finally:
            ray.shutdown()  # ends what still runs

    def _check(self, setup: Setup) -> None:
        """Refuse jobs that would wait for ever."""
        wanted = {"CPU": self._cpus or setup.threads, "GPU": self._gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
            raise ConfigError(
                f"No node of the Ray cluster has {wanted['CPU']:g} processors and {wanted['GPU']:g} accelerators."
            )

    def _work_off(self, schedule: Schedule, engine: Engine) -> None:
        ray, setup = self._ray, engine.setup
        remote = ray.remote(_call).options(
            num_cpus=self._cpus or setup.threads, num_gpus=self._gpus, max_retries=RETRIES
        )
        running: dict[Any, Job] = {}
        while True:
            while (taken := schedule.take()) is not None:
                running[remote.remote(setup, engine.storage, *taken)] = taken[0]
            if not running:
                return
            finished, _ = ray.wait(list(running), timeout=_PAUSE)
            for reference in finished:
                schedule.settle(self._result(reference, running.pop(reference)))

    def _result(self, reference: Any, job: Job) -> Result:
        try:
            return Result.model_validate(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Result(key=job.key, state="failed", error=f"Ray: {_first_line(error)}")


def _call(setup: Setup, storage: Storage, job: Job, needs: Outcomes) -> Result:
    """Run one job (see `Engine.run`); the base model is kept for the next one in the same process."""
    return _engine(setup, storage).run(job, needs)


_engine = lru_cache(maxsize=1)(Engine)


def _knock(address: str | None) -> None:
    """Fail at once if nothing answers at the address, since Ray itself retries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise ConfigError(f"There is no Ray cluster at {address!r}: {error.strerror or error}.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _ray() -> Any:
    """Import Ray, kept quiet."""
    for name, value in {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0"}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError("A cluster needs Ray; install it with: pip install 'normtune[cluster]'.") from error
    return ray
