"""Records from before: read as they are, and given today's identity where theirs follows from what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from normtune.config import protocol
from normtune.data.suites import load_task
from normtune.records.results import Store
from normtune.records.run import Record
from normtune.training.session import Session

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "runs"

#: A run of MiniLM on the toy suite as a version of before wrote it, cut to what is read; its id is of that version.
BEFORE: dict[str, Any] = {
    "id": "a44cf71202944e8c",
    "status": "done",
    "config": {
        "model": "minilm",
        "task": "mrpc",
        "method": "full",
        "rate": 0.0001,
        "seed": 2,
        "protocol": {"name": "small", "epochs": 3, "max_train": 2000, "dropout": False, "rates": 3, "prefix": True},
    },
    "base_identity": "7a40",
    "selection": "47c6",
    "counts": {"selected": 1, "head": 1, "trained": 2, "total": 3, "share": 0.5},
    "data": {
        **{"source": "MRPC", "train": 2000, "train_of": 3668, "dev": 408, "dev_of": 408, "held_out": 0},
        **{"identity": {"train": "a", "pick": "b", "dev": "b"}, "truncated": {}, "dropped": {}},
    },
    "primary": "f1",
    "machine": {"device": "cpu", "threads": 1, "linear": "onednn"},
    "versions": {},
}


def convert(folder: Path) -> int:
    """Run the command on a folder; how many records it converted."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "convert.py", folder], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for changes in ({}, {"id": "another"}):
        record = {**BEFORE, **changes}
        (tmp_path / f"{record['id']}.json").write_text(json.dumps(record))
    return tmp_path


def test_a_record_from_before_is_read_with_its_ways(folder: Path) -> None:
    record = Record.load(folder / f"{BEFORE['id']}.json")
    assert (record.trains, record.ways, record.config.protocol.name) == ("47c6", ("prefix",), "small")


def test_it_gets_todays_identity_suite_and_norms_once(folder: Path) -> None:
    assert convert(folder) == 1
    [new] = [record for record in Store(folder) if record.id != "another"]
    assert (folder / f"{new.id}.json").is_file()
    assert not (folder / f"{BEFORE['id']}.json").exists()
    assert (new.data.suite, new.norms.closing) == ("glue", ("output.LayerNorm",))
    assert convert(folder) == 0


def test_an_identity_that_does_not_follow_is_left_alone(folder: Path) -> None:
    """Of a run with class weights, say, nothing in its record tells them: it must not be taken for a plain run."""
    convert(folder)
    assert json.loads((folder / "another.json").read_text()) == {**BEFORE, "id": "another"}


def test_every_record_here_is_named_by_its_identity_of_today() -> None:
    files = {file.stem for file in RESULTS.glob("*.json")}
    assert {record.id for record in Store(RESULTS)} == files
    assert not [file for file in RESULTS.glob("*.json") if '"selection"' in file.read_text()]


def test_what_the_session_would_name_a_run_is_what_its_record_says(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    data = load_task("rte", "toy")
    rules = protocol("small", epochs=1, max_train=16, max_dev=16)
    run = session.prepare(data, "layernorm", 1e-2, 0, rules)
    record, _ = session.run(run)
    assert record.id == run.id
    assert Session(str(tiny_folder), plain=True).prepare(data, "layernorm", 1e-2, 0, rules).id != record.id
