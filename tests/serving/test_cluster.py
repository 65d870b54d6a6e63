"""Replicas on a local Ray cluster: they follow a folder, and one killed under load loses only the requests it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from normtune.errors import ConfigError
from normtune.models.base import Base
from tests.deltas.banked import TWO, changed
from tests.serving.running import alone, same

ROOT = Path(__file__).parents[2]

#: Runs in a process of its own: Ray leaves threads, warnings and files behind.
SCRIPT = """
import json, os, shutil, signal, sys, threading, time
from pathlib import Path
import httpx2, psutil, ray
from ray import serve
from normtune.serving.cluster import deployment
from normtune.serving.settings import Settings

model, folder, store = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
port = int(sys.argv[4])
url = f"http://127.0.0.1:{port}"
ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(deployment(model, folder, replicas=2, cpus=1, settings=Settings(recheck=0.2)))

def put(name, source):
    shutil.copy(store / source, folder / f".{name}")
    (folder / f".{name}").replace(folder / f"{name}.safetensors")

def pids():
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::ServeReplica" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:  # it has just ended
            pass
    return sorted(found)

client = httpx2.Client(base_url=url, timeout=60, trust_env=False)
ask = lambda task: client.post(f"/v1/tasks/{task}/predict", json={"text": "a dog"})
told = {"replicas": len(pids()), "unknown": ask("mine").status_code}
put("mine", "first.safetensors")
time.sleep(0.5)
told["first"] = [ask("mine").json() for _ in range(12)]
put("mine", "second.safetensors")
time.sleep(0.5)
told["second"] = [ask("mine").json() for _ in range(12)]
told["refused"] = client.put("/v1/tasks/mine", json={"delta": "mine"}).status_code
before = pids()
answers, stop = [], threading.Event()

def load():
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as own:
        while not stop.is_set():
            try:
                got = own.post("/v1/tasks/mine/predict", json={"text": "a dog"})
                answers.append((time.time(), got.status_code, got.json() if got.status_code == 200 else None))
            except httpx2.HTTPError as error:
                answers.append((time.time(), -1, repr(error)))

threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
[thread.start() for thread in threads]
time.sleep(2)
os.kill(before[0], signal.SIGKILL)
killed = time.time()
deadline = killed + 90
while time.time() < deadline and not (len(pids()) == 2 and before[0] not in pids()):
    time.sleep(0.5)
time.sleep(2)
stop.set()
[thread.join() for thread in threads]
told["lost"] = [status for _, status, _ in answers if status != 200]
told["under_load"] = [body for _, status, body in answers if status == 200][::20]
told["after_kill"] = sum(moment > killed and status == 200 for moment, status, _ in answers)
told["replaced"] = len(pids()) == 2 and before[0] not in pids()
told["last"] = [ask("mine").status_code for _ in range(20)]
(folder / "mine.safetensors").unlink()
time.sleep(0.5)
told["gone"] = [ask("mine").status_code for _ in range(12)]
serve.shutdown()
ray.shutdown()
print(json.dumps(told))
"""


@pytest.mark.slow
def test_replicas_follow_a_folder_and_outlive_one_of_them(tiny_folder: Path, lone: Base, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs the extra `cluster`", exc_type=ImportError)
    deltas = {name: changed(lone, "layernorm", TWO, seed) for seed, name in enumerate(("first", "second"))}
    for name, delta in deltas.items():
        delta.save(tmp_path / "store" / f"{name}.safetensors")
    (tmp_path / "deltas").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_folder), str(tmp_path / "deltas"), str(tmp_path / "store"), "18431"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["replicas"], told["unknown"], told["refused"]) == (2, 404, 403)
    wanted = {name: alone(lone, delta, "a dog") for name, delta in deltas.items()}
    assert all(same(answer, wanted["first"]) for answer in told["first"])
    assert all(same(answer, wanted["second"]) for answer in told["second"] + told["under_load"])
    # Each of the four clients had at most one request with the replica when it was killed.
    assert len(told["lost"]) <= 4
    assert all(status in {-1, 500, 503} for status in told["lost"])
    assert told["after_kill"] > 0
    assert told["replaced"]
    assert told["last"] == [200] * 20
    assert told["gone"] == [404] * 12


def test_without_ray_serve_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from normtune.serving.cluster import deployment

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'normtune\[cluster,serve\]'"):
        deployment("minilm", tmp_path)
