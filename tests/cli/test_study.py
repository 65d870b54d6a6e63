"""``normtune study``: the plan, the run, the summary, and errors of one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.cli import overview
from normtune.cli.render import console
from normtune.studies.config import StudyConfig
from normtune.studies.jobs import Result, TrainJob
from tests.studies.tiny import OPTIONS

Run = Callable[..., tuple[int, str, str]]


def arguments(what: str, model: Path, results: Path, *more: str) -> list[str]:
    return ["study", what, "--model", str(model), *OPTIONS, "--tasks", "rte", "--results", str(results), *more]


def test_a_study_finds_the_runs_of_train_and_train_finds_its(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    methods = ("--method", "head,random", "--seed", "0,1")
    trained = cli(
        *("train", "--model", tiny_folder, *OPTIONS, "--task", "rte", *methods, "--lr", "auto"),
        *("--records", tmp_path / "runs"),
    )
    assert trained[0] == 0, trained[2]
    count = len([*(tmp_path / "runs").iterdir()])
    assert 2 * (3 + 1) <= count <= 2 * (5 + 1)
    status, out, error = cli(*arguments("table2", tiny_folder, tmp_path, *methods, "--mode", "read-only"))
    assert status == 0, error
    assert f"{count} jobs: {count} known." in out
    assert not (tmp_path / "study.json").exists()
    status, out, error = cli(*arguments("table2", tiny_folder, tmp_path, "--method", "head,full", "--seed", "0,1"))
    assert status == 0, error
    made = len([*(tmp_path / "runs").iterdir()]) - count
    [known] = re.findall(rf"jobs: {made} done, (\d+) known\.", out)
    assert f"{known} of " in error
    after = cli(
        *("train", "--model", tiny_folder, *OPTIONS, "--task", "rte", "--method", "full", "--seed", "0,1"),
        *("--lr", "auto", "--records", tmp_path / "runs"),
    )
    assert after[2].count("found in the store") == made + 1  # the best rate on the first seed is named again
    assert StudyConfig.load(tmp_path / "study.json").methods == ("head", "full")


def test_a_study_that_only_measures_leaves_the_seeds_wanted_alone(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    trained = cli(*arguments("table2", tiny_folder, tmp_path, "--methods", "head", "--seeds", "1,2"))
    measured = cli(*arguments("table1", tiny_folder, tmp_path))
    assert (trained[0], measured[0]) == (0, 0), trained[2] + measured[2]
    assert StudyConfig.load(tmp_path / "study.json").seeds == (1, 2)


def test_the_plan_runs_nothing_and_says_how_long_it_takes(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 200)
    options = ("--fractions", "0,0.1,1", "--fisher-tasks", "rte,cola", "--examples", "12", "--plan")
    status, out, error = cli(*arguments("figure5", tiny_folder, tmp_path / "none", *options))
    assert status == 0, error
    assert not (tmp_path / "none").exists()
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["train", "rte", "head", "3", "0", "3"] in [row[:6] for row in rows]
    assert ["mask", "rte", "fisher-leave-one-out", "1", "0", "1"] in [row[:6] for row in rows]
    assert ["train", "rte", "fisher-global", "1"] in [r[:4] for r in rows]
    assert "9 runs, 2 measurements, 3 masks: 0 of 14 known" in out
    assert "1 thread each, which are part of a record's identity" in out
    assert re.search(r"Time left: about \d+ s with 1 worker on this machine", out)


def test_the_plan_as_json(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    small = ("--method", "head", "--seed", "0")
    assert cli(*arguments("table2", tiny_folder, tmp_path, *small))[0] == 0
    status, out, error = cli(
        *arguments("table2", tiny_folder, tmp_path, "--method", "head,bitfit", "--seed", "0,1", "--plan", "--json")
    )
    assert status == 0, error
    plan = json.loads(out)
    jobs = plan["plan"]
    assert (plan["jobs"], plan["workers"]) == (len(jobs), 1)
    assert plan["known"] == sum(job["state"] == "done" for job in jobs)
    assert plan["seconds"] == pytest.approx(sum(job["seconds"] or 0 for job in jobs))
    states = [(job["method"], job["rate"] is None, job["state"]) for job in jobs if not job["beyond"]]
    assert states == [
        *[("head", False, "done")] * 3,
        ("head", True, "missing"),
        *[("bitfit", False, "missing")] * 3,
        ("bitfit", True, "missing"),
    ]
    assert jobs[-1]["needs"] == jobs[-1]["best_of"] == [job["key"] for job in jobs[-4:-1]]
    assert StudyConfig.model_validate(plan["config"]).seeds == (0, 1)


def test_what_is_missing_fails_a_reading(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    status, out, error = cli(*arguments("table2", tiny_folder, tmp_path, "--method", "head", "--mode", "read-only"))
    assert status == 1
    assert "3 jobs: 3 missing." in out
    assert "missing: rte head rate 0.1 seed 0: not run yet" in out
    assert "3 of 3 jobs have no result, such as: rte head rate 0.1 seed 0." in error
    status, out, _ = cli(
        *arguments("table2", tiny_folder, tmp_path, "--method", "head", "--mode", "read-only", "--json")
    )
    assert status == 1
    assert json.loads(out)["missing"] == 3


def test_methods_stand_side_by_side_on_tasks_of_ones_own(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [f"the {animal} {verb},{animal == 'cat'}" for animal in ("cat", "dog") for verb in ("sees", "reads", "is")]
    (tmp_path / "cats.csv").write_text("\n".join(["text,label", *rows * 4]))
    manifest = tmp_path / "tasks.yaml"
    manifest.write_text("model: elsewhere\ntasks: [{name: cats, train: cats.csv}]")
    status, _, error = cli("study", "methods", "--tasks", manifest, "--model", tiny_folder, "--plan")
    assert (status, "says that its model is elsewhere; give that as --model." in error) == (1, True)
    manifest.write_text("tasks: [{name: cats, train: cats.csv}]")
    given = ("--tasks", manifest, "--model", tiny_folder, "--methods", "head,random,bitfit", "--entries", "40")
    given = (*given, "--protocol", "small,epochs=1,rates=1", "--threads", "1", "--seeds", "0,1")
    given = (*given, "--results", tmp_path / "results")
    status, out, error = cli("study", "methods", *given)
    assert status == 0, error
    assert "6 jobs: 6 done." in out
    assert "random@40" in out
    assert "Budget: 40 entries; @ stands before a method's size; over it, since they take no size: bitfit (" in out
    assert "One answer for every example scores at most: cats 50.0." in out
    assert "Fewer than three tasks have all runs of LayerNorm and another method: no test." in out
    status, out, _ = cli("study", "methods", *given, "--json")
    found = json.loads(out)
    assert (status, found["known"]) == (0, 6)
    assert {record["config"]["method"] for record in found["records"]} == {"head", "random@40", "bitfit"}
    assert {record["counts"]["selected"] for record in found["records"]} >= {0, 40}
    status, _, error = cli("study", "paper", *given[:4])
    assert (status, error.count("\n")) == (1, 1)
    assert "Files of your own go with table2 and figure1 alone" in error


def test_one_failed_rate_of_a_search_is_no_gap() -> None:
    low, high = (TrainJob(task="rte", method="head", seed=0, rate=rate) for rate in (0.1, 0.3))
    other = TrainJob(task="rte", method="head", seed=1, best_of=(low.key, high.key))
    jobs = (low, high, other)
    done = {job.key: Result(key=job.key, state="done") for job in jobs}
    failed = Result(key=high.key, state="failed", error="too hot")
    assert overview.unanswered(jobs, done) == []
    assert overview.unanswered(jobs, {**done, high.key: failed}) == []
    assert overview.unanswered(jobs, {low.key: done[low.key], other.key: done[other.key]}) == [high]
    none = {low.key: failed, high.key: failed, other.key: Result(key=other.key, state="blocked")}
    assert overview.unanswered(jobs, none) == [low, high, other]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("study", "tabel2"), "Unknown study 'tabel2'. Did you mean 'table2'?"),
        (("study", "table2", "--mode", "again"), "Unknown mode 'again'."),
        (("study", "table2", "--executor", "poll"), "Unknown executor 'poll'. Did you mean 'pool'?"),
        (("study", "table2", "--workers", "2"), "--workers goes with --executor pool."),
        (("study", "table2", "--address", "auto"), "--address, --cpus and --gpus go with --executor ray."),
        (("study", "table2", "--tasks", "rta"), "Unknown GLUE task 'rta'."),
        (("study", "table2", "--seeds", "0,x"), "--seeds takes different whole numbers from 0"),
        (("study", "table2", "--protocol", "big"), "Unknown protocol 'big'."),
        (("study", "figure2", "--fractions", "0.1,2"), "--fractions takes different numbers from 0 to 1"),
        (("study", "figure2", "--fractions", "some"), "--fractions takes different numbers from 0 to 1"),
        (("study", "figure5", "--masks", "local"), "Unknown kind of mask 'local'."),
        (("study", "figure5", "--tasks", "rte", "--fisher-tasks", "rte"), "needs Fisher information of another task"),
        (("study", "table2", "--tasks", "rte,RTE"), "A study takes each of its tasks once"),
        (("study", "figure2", "--entries", "9"), "figure2 makes no use of this: leave out --entries."),
        (("study", "methods", "--tasks", "none.yaml"), "There is no manifest at none.yaml."),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(cli: Run, given: tuple[str, ...], said: str) -> None:
    status, out, error = cli(*given)
    assert (status, out) == (1, "")
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_model_or_a_method_that_is_not_there_is_refused(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    status, _, error = cli(*arguments("table2", tmp_path / "no-model", tmp_path / "r"))
    assert status == 1
    assert len(error.splitlines()) == 1
    status, _, error = cli(*arguments("table2", tiny_folder, tmp_path / "r", "--method", "bitfitt"))
    assert status == 1
    assert "bitfitt" in error
    assert not (tmp_path / "r").exists()


def test_without_an_argument_it_is_the_methods_side_by_side(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rules = "small,epochs=1,max_train=32,max_dev=32,rates=1"
    status, out, error = cli(
        "study", "--model", tiny_folder, "--tasks", "rte", "--method", "head", "--protocol", rules, "--threads", "1"
    )
    assert status == 0, error
    assert "Methods. Scores and costs." in out
    [record] = (tmp_path / "runs" / "methods" / "runs").iterdir()
    assert json.loads(record.read_text())["data"]["suite"] == "toy"
