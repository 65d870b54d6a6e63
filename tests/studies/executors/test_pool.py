"""A pool gives what one process gives, whichever process is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from normtune.errors import ConfigError
from normtune.records.results import Store
from normtune.studies.engine import Storage
from normtune.studies.executors import pool
from normtune.studies.executors.executor import fair_threads
from normtune.studies.executors.pool import Pool
from normtune.studies.jobs import Job, Result
from normtune.studies.study import Study
from tests.studies.tiny import OPTIONS, SIZES, config, contents

CODE = "from normtune.cli.app import main; main()"


class Killer:
    """Kills a worker of the pool when one of the given numbers of jobs has begun."""

    def __init__(self, *moments: int) -> None:
        self._moments, self._began = {*moments}, 0
        self.killed: list[int] = []

    def begin(self, job: Job) -> None:
        self._began += 1
        if self._began in self._moments:
            time.sleep(0.05)
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            self.killed.append(worker.pid)

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        pass

    def end(self, job: Job, result: Result) -> None:
        assert result.state == "done", result.error


@pytest.mark.slow
def test_a_pool_whose_workers_are_killed_gives_what_one_process_gives(tiny_folder: Path, tmp_path: Path) -> None:
    study = config(tiny_folder, parts=("table2", "figure5"))
    Study.open(study, Storage(results=tmp_path / "one")).run()
    killer = Killer(3, 14)
    found = Study.open(study, Storage(results=tmp_path / "pool")).run(Pool(2), killer)
    assert len(killer.killed) == 2
    assert {result.state for result in found.values()} == {"done"}
    assert contents(tmp_path / "pool") == contents(tmp_path / "one")
    assert not multiprocessing.active_children()


class Noting:
    """Records the results of the jobs."""

    def __init__(self, inner: Killer) -> None:
        self._inner = inner
        self.results: list[Result] = []

    def begin(self, job: Job) -> None:
        self._inner.begin(job)

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        pass

    def end(self, job: Job, result: Result) -> None:
        self.results.append(result)


@pytest.mark.slow
def test_a_job_that_costs_too_many_workers_or_cannot_be_done_fails(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ATTEMPTS", 1)
    study = Study.open(config(tiny_folder, parts=("table1",)), Storage(results=tmp_path))
    (tmp_path / "fisher").write_text("in the way")
    watcher = Noting(Killer(1))
    study.run(Pool(1), watcher)
    dead, lost = watcher.results
    assert (dead.state, dead.error) == ("failed", "The worker died 1 times.")
    assert lost.state == "failed"
    assert "fisher" in (lost.error or "")


def command(model: Path, results: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-c", CODE, "study", "paper", "--model", str(model), "--tasks", "rte,sst2", *OPTIONS),
        *("--protocol", f"small,epochs=3,{SIZES}"),  # so that a rate can be dropped after the first epoch
        *("--fisher-tasks", "rte,sst2", "--methods", "head,layernorm", "--seeds", "0,1", "--fractions", "0,0.1,1"),
        *("--examples", "12", "--head-seeds", "0,1", "--prune", "0", "--results", str(results)),
        *more,
    ]


def records(results: Path) -> int:
    return len([*(results / "runs").glob("*.json")])


def killed(call: list[str], results: Path, draw: random.Random) -> None:
    """Start a study, and kill its whole process group at a random moment while it has jobs left."""
    before, more = records(results), draw.randint(1, 4)
    started = subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while records(results) < before + more and started.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5 * draw.random())
    assert started.poll() is None, "the study was over before it could be killed"
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What an undisturbed study leaves, with rates that were dropped early."""
    results = tmp_path_factory.mktemp("whole")
    subprocess.run(command(tiny_folder, results), check=True, capture_output=True, timeout=600)
    assert {record.status for record in Store(results / "runs")} == {"done", "pruned"}
    return contents(results)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--executor", "pool", "--workers", "2")], ids=["here", "pool"])
def test_killed_at_random_moments_and_continued_gives_the_same(
    tiny_folder: Path, tmp_path: Path, uninterrupted: dict[str, object], more: tuple[str, ...]
) -> None:
    draw, call = random.Random(len(more)), command(tiny_folder, tmp_path, *more)
    for _ in range(4):
        killed(call, tmp_path, draw)
        # Every record is whole, whenever its writer was killed.
        assert all(record.status in {"done", "pruned"} for record in Store(tmp_path / "runs"))
    done = subprocess.run(call, check=True, capture_output=True, timeout=600)
    assert b" known" in done.stdout
    assert contents(tmp_path) == uninterrupted


@pytest.mark.slow
def test_workers_stop_when_their_employer_is_killed_or_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        results = tmp_path / str(int(number))
        call = command(tiny_folder, results, "--executor", "pool", "--workers", "2")
        started = subprocess.Popen(call, stderr=subprocess.PIPE, start_new_session=True)
        until = time.monotonic() + 120
        while records(results) < 1 and time.monotonic() < until:
            time.sleep(0.05)
        started.send_signal(number)
        _, said = started.communicate(timeout=60)
        assert started.returncode == (-9 if number is signal.SIGKILL else 130), said
        until = time.monotonic() + 30
        while _group(started.pid) and time.monotonic() < until:
            time.sleep(0.2)
        assert not _group(started.pid), "a worker is left"
        if number is not signal.SIGKILL:
            assert b"Stopped." in said
            assert b"Traceback" not in said


def _group(leader: int) -> bool:
    """Whether a process of the group led by `leader` is alive."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def test_threads_are_divided_fairly() -> None:
    cores = os.cpu_count() or 1
    assert fair_threads(1) == cores
    assert fair_threads(cores) == 1
    assert fair_threads(cores + 5) == 1
    with pytest.raises(ConfigError, match="one worker or more; got 0"):
        Pool(0)


def test_each_worker_takes_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, count, expected in (("", 1, [""] * 3), ("2,5", 2, ["2", "5", "2"])):
        found = []
        for number in range(3):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
            monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
            pool._take_gpu(number)
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])
        assert found == expected
