"""A Ray cluster gives what one process gives, even where a node is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from normtune.errors import ConfigError
from normtune.studies.engine import Storage
from normtune.studies.executors.ray import Cluster
from normtune.studies.study import Study
from tests.studies.tiny import config, contents

ROOT = Path(__file__).parents[3]

#: Runs in a process of its own: Ray leaves threads, warnings and files behind.
SCRIPT = '''
import json, sys
from pathlib import Path
from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster as Nodes
from normtune.studies.executors.ray import Cluster
from normtune.studies.study import Study
from normtune.studies.config import StudyConfig
from normtune.studies.engine import Storage

class Killer:
    """Kills a node once it is in the middle of a job, after a few jobs."""

    def __init__(self, nodes, doomed):
        self.nodes, self.doomed, self.ended, self.lost, self.killed = nodes, doomed, 0, [], 0
    def begin(self, job): pass
    def tick(self, job, done, total, note): pass
    def end(self, job, result):
        self.ended += 1
        if result.state != "done":
            self.lost.append(result.error)
        free = available_resources_per_node().get(self.doomed.node_id, {})
        if self.ended >= 4 and not self.killed and not free.get("CPU", 0):
            self.nodes.remove_node(self.doomed, allow_graceful=False)
            self.killed = self.ended

memory = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
doomed = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
nodes.wait_for_nodes()
killer = Killer(nodes, doomed)
storage = Storage(results=Path(sys.argv[2]), track=("tensorboard",))
study = Study.open(StudyConfig.model_validate_json(sys.argv[1]), storage)
before = len(nodes.list_all_nodes())
results = study.run(Cluster(nodes.address), killer)
print(json.dumps({"nodes": [before, len(nodes.list_all_nodes())], "ended": killer.ended, "lost": killer.lost,
                  "killed": 4 <= killer.killed < killer.ended,
                  "states": sorted({r.state for r in results.values()}), "jobs": len(study.jobs)}))
nodes.shutdown()
'''


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_gives_what_one_process_gives(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `cluster`", exc_type=ImportError)
    pytest.importorskip("tensorboard", reason="needs the extra `track`")
    study = config(tiny_folder, parts=("table2", "figure2"), tasks=("rte",), sources=("rte",))
    Study.open(study, Storage(results=tmp_path / "one")).run()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, study.model_dump_json(), str(tmp_path / "ray")],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said == {
        **{"nodes": [2, 1], "killed": True, "lost": [], "states": ["done"]},
        **{"ended": said["jobs"], "jobs": said["jobs"]},
    }
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    # Every worker logged its runs; the killed worker's were logged again by another.
    assert len([*(tmp_path / "ray" / "tracking").iterdir()]) == len([*(tmp_path / "ray" / "runs").iterdir()])


def test_without_ray_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"A cluster needs Ray; install it with: pip install 'normtune\[cluster\]'"):
        Cluster()


@pytest.mark.parametrize("given", [{"cpus": 0}, {"cpus": -1}, {"gpus": -1}])
def test_what_makes_no_sense_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="takes some processors and no negative accelerators"):
        Cluster(**given)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `cluster`")
def test_an_address_without_a_cluster_is_refused_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    study = Study.open(config(tiny_folder, parts=("table1",), tasks=("rte",)), Storage(results=tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's import
        cluster = Cluster("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"There is no Ray cluster at '127\.0\.0\.1:1': Connection refused"):
        study.run(cluster)
