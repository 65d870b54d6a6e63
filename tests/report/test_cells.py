from __future__ import annotations

from dataclasses import replace

from normtune.data.suites import Column
from normtune.records.aggregate import tabulate
from normtune.records.results import Results, Store, read
from normtune.records.run import Pruned, Record
from normtune.report.cells import PRINTED, Cells
from normtune.report.page import facts
from normtune.statistics import published
from tests.report import made


def column(task: str) -> Column:
    return next(each for each in PRINTED if each.task == task)


def test_the_columns_are_the_papers():
    assert [c.title.replace("-B", "B").replace("SST-2", "SST2") for c in PRINTED] == [*published.TASKS]


def test_a_task_of_ones_own_that_is_called_like_one_of_glue_is_none_of_its_columns(tmp_path):
    made.results(tmp_path, methods={"head": 0.0}, tasks=["rte"], measured=(), suite="")
    cells = Cells(read(tmp_path))
    assert cells.columns == (Column("rte", "rte"),)
    assert not {*cells.columns} & {*PRINTED}


def test_masks_of_few_entries_are_masks(tmp_path):
    made.results(tmp_path, methods={"fisher-individual@1e-05": 0.0, "head": 0.0}, tasks=["rte"], measured=())
    cells = Cells(read(tmp_path))
    assert (cells.whole, cells.masks()) == (("head",), {"fisher-individual": {1e-5: "fisher-individual@1e-05"}})


def test_cells_are_those_that_normtune_table_shows(folder, cells):
    for (method, task), known in tabulate(Store(folder / "runs")).items():
        assert cells.cell(method, column(task)) == replace(known, title=cells.title(task))
        assert known.complete


def test_the_rate_with_most_seeds_is_shown_then_the_best_first_seed(tmp_path):
    for seed, rate, below in [(0, 0.1, -0.2), (1, 0.1, -0.2), (0, 1.0, 0.0), (0, 2.0, 0.1)]:
        own = made.record("rte", "head", seed, below, config={"rate": rate})
        own.save(tmp_path / "runs" / f"{own.id}.json")
    cell = Cells(read(tmp_path)).cell("head", column("rte"))
    assert cell.runs[0].config.rate == 0.1
    assert {*cell.values} == {0, 1}


def test_a_missing_seed_is_counted(tmp_path):
    made.results(tmp_path, methods={"head": 0.0, "full": 0.0}, tasks=["rte"], measured=())
    gone = next(run for run in read(tmp_path).runs if (run.config.method, run.config.seed) == ("head", 1))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    scores = Cells(read(tmp_path))
    head, full = scores.cell("head", column("rte")), scores.cell("full", column("rte"))
    assert (head.complete, head.count, full.complete) == (False, "2 of 3", True)
    assert scores.cell("head", column("mnli")).mean is None


def test_a_plan_of_fewer_seeds_does_not_hide_those_that_there_are():
    runs = [made.record("rte", "head", seed) for seed in (0, 1)]
    other = made.record("rte", "full", 0)
    found = Cells(Results((*runs, other), (), planned=(0,)))
    assert found.seeds == (0, 1)
    assert found.cell("full", column("rte")).count == "1 of 2"


def test_a_failed_run_is_no_score(tmp_path):
    own = made.record("rte", "head", 0, status="failed", score=None, scores={}, error="the loss was not finite")
    own.save(tmp_path / "runs" / "a.json")
    assert Cells(read(tmp_path)).methods == ()


def test_mnli_has_two_columns():
    base = made.record("rte", "head", 0).model_dump()
    base["config"]["task"] = "mnli"
    base["scores"]["dev_mismatched"] = {"accuracy": 0.25}
    run = Record.model_validate(base)
    cells = Cells(Results((run,), ()))
    assert [cells.cell("head", c).mean for c in PRINTED if c.task == "mnli"] == [run.score, 0.25]
    assert cells.title("mnli") == "MNLI"


def test_a_run_that_was_dropped_is_no_score_and_is_called_so(tmp_path):
    made.results(tmp_path, tasks=["rte"], measured=())
    why = Pruned(epoch=1, of=3, score=0.4, leader="x", leader_rate=0.01, leader_score=0.6, margin=0.05, after=0.25)
    config = made.record("rte", "head", 0).config.model_copy(update={"rate": 1.0})
    own = made.record("rte", "head", 0, config={"rate": 1.0}, id="dropped")
    own = own.model_copy(
        update={"config": config, "status": "pruned", "score": None, "scores": {}, "pruned": why, "error": f"{why}."}
    )
    before = Cells(read(tmp_path))
    own.save(tmp_path / "runs" / "dropped.json")
    scores = Cells(read(tmp_path))
    assert scores.cell("head", column("rte")) == before.cell("head", column("rte"))
    assert "1 dropped early" in dict(facts(scores))["records"]
