from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from normtune import files
from normtune.config import fingerprint, protocol
from normtune.errors import ConfigError, DataError
from normtune.records.fisher import Estimator
from normtune.records.results import load_runs, read
from normtune.records.run import Record
from normtune.records.submission import SubmissionRecord
from normtune.report.cells import Cells
from normtune.report.evidence import evidence
from normtune.report.tables import table1
from normtune.studies.config import StudyConfig
from tests.report import made

ROOT = Path(__file__).parents[2]


def test_what_is_read_is_what_was_written(folder):
    found = read(folder)
    one = next(run for run in found.done if run.config.method == "full")
    whole = Record.load(folder / "runs" / f"{one.id}.json")
    assert (one.score, one.config, one.seconds) == (whole.score, whole.config, whole.seconds)
    assert sum(each.l1 for each in one.changes) == sum(each.l1 for each in whole.changes)
    assert {each.config.task for each in found.fisher} >= {"qqp", "stsb"}


def test_no_folder_and_no_records_are_said(tmp_path):
    with pytest.raises(DataError, match="no results folder"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match="no records"):
        read(tmp_path)
    made.results(tmp_path, methods={"head": 0.0}, tasks=["rte"], measured=())
    with pytest.raises(DataError, match="no records of protocol paper"):
        read(tmp_path, protocol="paper")


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ab.json").write_text("{}")
    with pytest.raises(DataError, match=r"ab\.json is damaged"):
        read(tmp_path)


def test_several_protocols_need_a_choice(tmp_path):
    for name in ("small", "paper"):
        own = made.record("rte", "head", 0)
        changed = own.config.model_copy(update={"protocol": own.config.protocol.model_copy(update={"name": name})})
        own.model_copy(update={"config": changed, "id": name}).save(tmp_path / "runs" / f"{name}.json")
    with pytest.raises(ConfigError, match="several protocols, paper, small; choose one with --protocol"):
        read(tmp_path)
    assert [run.id for run in read(tmp_path, protocol="paper").runs] == ["paper"]


def test_several_models_need_a_choice(tmp_path):
    made.record("rte", "head", 0).save(tmp_path / "runs" / "a.json")
    made.fisher("rte", base_identity="c" * 64).save(tmp_path / "fisher" / "b.json")
    with pytest.raises(ConfigError, match="several models"):
        read(tmp_path)


def test_other_data_is_refused(tmp_path):
    own = made.record("rte", "head", 0)
    own.save(tmp_path / "runs" / "a.json")
    other = own.data.model_copy(update={"identity": {"train": "else"}})
    own.model_copy(update={"id": "b", "data": other}).save(tmp_path / "runs" / "b.json")
    with pytest.raises(ConfigError, match="rte are on different data"):
        read(tmp_path)


def test_every_record_here_is_named_by_its_identity():
    folders = [ROOT / "results" / "runs", *ROOT.glob("results/*/runs")]
    assert len(folders) > 5
    for folder in folders:
        assert {record.id for record in load_runs(folder)} == {file.stem for file in folder.glob("*.json")}


def test_of_two_estimates_the_one_by_the_labels_is_shown(tmp_path):
    for task in ("rte", "cola", "sst2"):  # their files are ordered by hash
        for estimator in ("empirical", "exact"):
            own = made.fisher(task)
            own = own.model_copy(
                update={"config": own.config.model_copy(update={"estimator": Estimator(name=estimator)})}
            )
            own.save(tmp_path / "fisher" / f"{task}-{fingerprint(own.config)}.json")
    assert [(each.config.task, each.config.estimator.name) for each in read(tmp_path).fisher] == [
        (task, "empirical") for task in ("cola", "rte", "sst2")
    ]


def test_the_plan_says_which_seeds_there_should_be(tmp_path):
    made.results(tmp_path, methods={"head": 0.0}, tasks=["rte"], seeds=[0], measured=())
    plan = {"seeds": [0, 1, 2], "else": 1}
    (tmp_path / "study.json").write_text(json.dumps({**plan, "hash": files._hash(plan, {})}))
    assert read(tmp_path).planned == (0, 1, 2)
    plan |= {"protocol": protocol("reduced").model_dump(mode="json")}  # of another study in the same folder
    (tmp_path / "study.json").write_text(json.dumps({**plan, "hash": files._hash(plan, {})}))
    assert read(tmp_path).planned == ()


def test_measurements_of_different_parts_are_not_mixed(tmp_path):
    for task, within in (("rte", "full"), ("cola", "layernorm"), ("sst2", "layernorm")):
        own = made.fisher(task)
        config = own.config.model_copy(update={"within": within})
        own.model_copy(update={"config": config}).save(tmp_path / "fisher" / f"{task}.json")
    assert [each.config.task for each in read(tmp_path).fisher] == ["rte"]
    (tmp_path / "fisher" / "rte.json").unlink()
    assert [each.config.task for each in read(tmp_path).fisher] == ["cola", "sst2"]
    cells = Cells(read(tmp_path))
    assert table1(cells).rows == ()
    assert not {"first", "second"} & {*evidence(cells)}
    own = made.fisher("stsb")
    own.model_copy(update={"config": own.config.model_copy(update={"within": "pooler.dense"})}).save(
        tmp_path / "fisher" / "a.json"
    )
    assert [each.config.task for each in read(tmp_path).fisher] == ["cola", "sst2"]


def test_a_report_imports_no_torch(tmp_path: Path):
    folder = made.results(tmp_path / "results", methods={"head": 0.0}, tasks=["rte"], measured=["rte"])
    code = f"""
import sys
from pathlib import Path
from normtune.report.page import Report, page
from normtune.records.results import read
page(Report(read(Path({str(folder)!r}))))
assert not {{"torch", "transformers"}} & {{*sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_a_study_and_a_submission_of_another_model_are_left_out(tmp_path):
    own = made.record("rte", "head", 0)
    own.save(tmp_path / "runs" / "a.json")
    answer = {"file": "RTE.tsv", "rows": 1, "wanted": 1, "sha256": "0"}
    for model, base, kept in ((own.config.model, own.base_identity, True), ("other", "f" * 64, False)):
        study = StudyConfig(model=model, protocol=own.config.protocol, tasks=("rte",), seeds=(0, 1, 2))
        study.save(tmp_path / "study.json")
        source = {"path": "d", "content": "0", "base": model, "base_identity": base}
        SubmissionRecord(
            file="s.zip", sha256="0", made="now", answers=({**answer, "source": source},), versions={}
        ).save(tmp_path / "submission.json")
        found = read(tmp_path)
        assert (found.planned, len(found.submissions)) == (((0, 1, 2), 1) if kept else ((), 0))
