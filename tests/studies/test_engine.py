"""Running jobs: the same runs as in a table of trainings, the masks of their definition, and every mode."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from normtune.importance.masks import Mask
from normtune.importance.measurement import Measurement
from normtune.methods.expression import select
from normtune.records.results import Store
from normtune.studies.config import StudyConfig
from normtune.studies.engine import Engine, Mode, Storage
from normtune.studies.executors.executor import Here
from normtune.studies.importance import measurement
from normtune.studies.jobs import FisherJob, Job, MaskJob, Result, TrainJob
from normtune.studies.plan import mask_rows, method_rows, trainings
from normtune.studies.schedule import Schedule
from normtune.studies.study import Study
from tests.studies.tiny import config, contents


class Tally:
    """Records what is run."""

    def __init__(self) -> None:
        self.began: list[Job] = []
        self.made = 0

    def begin(self, job: Job) -> None:
        self.began.append(job)

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        assert 0 < done <= total

    def end(self, job: Job, result: Result) -> None:
        assert job.key == result.key
        self.made += not result.known


def done(engine: Engine, jobs: Sequence[Job]) -> dict[str, Result]:
    """The results of jobs in this process."""
    schedule = Schedule(jobs, {})
    Here().run(schedule, engine)
    return schedule.results


def whole(model: Path) -> StudyConfig:
    """All parts that share runs."""
    return config(model, parts=("table1", "table2", "figure5"))


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Every run ends with a garbage collection, which can skip the libraries here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the whole tiny paper."""
    results = tmp_path_factory.mktemp("results")
    found = Study.open(whole(tiny_folder), Storage(results=results)).run()
    assert {result.state for result in found.values()} == {"done"}
    return results


def test_table_2_has_the_runs_of_a_training_with_a_search(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    study = whole(tiny_folder)
    engine = Engine(study, Storage(results=tmp_path))
    likes = [TrainJob(task=task, method="", seed=0) for task in study.tasks]
    jobs, cells = trainings(study, method_rows(engine.session, likes, study.methods), study.seeds, search=True)
    done(engine, jobs)
    assert [(runs[0].task, runs[0].method) for runs in cells[:2]] == [("rte", "head"), ("rte", "layernorm")]
    expected = {record.id: record.score for record in engine.store}
    found = {record.id: record.score for record in Store(finished / "runs") if record.config.mask is None}
    assert found == expected
    assert len(expected) == 2 * 3 * 3


def test_masked_runs_are_those_of_a_training_with_that_mask_at_layernorms_rate(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    engine = Engine(whole(tiny_folder), Storage(results=tmp_path))
    masks = sorted((finished / "masks").iterdir())
    runs = [*Store(finished / "runs")]
    wanted = set()
    for task in ("rte", "sst2"):
        tried = [r for r in runs if r.config.task == task and r.config.method == "layernorm"]
        first = [r for r in tried if r.config.seed == 0]
        rate = max(sorted(first, key=lambda r: r.config.rate), key=lambda r: r.score or 0.0).config.rate
        rows = mask_rows(engine.session, [TrainJob(task=task, method="", seed=0)], masks)
        jobs, _ = trainings(engine.setup, rows, [0, 1], rates=[rate])
        wanted |= {engine.setup_run(job, {}).id for job in jobs if isinstance(job, TrainJob)}
    assert {record.id for record in runs if record.config.mask is not None} == wanted
    assert len(wanted) == 2 * 3 * 2


def test_fisher_is_what_is_measured_and_found(finished: Path, tiny_folder: Path) -> None:
    study = Study.open(config(tiny_folder, parts=("table1",)), Storage(results=finished))
    assert len(study.known) == len(study.jobs) == 2
    for job in study.jobs:
        assert isinstance(job, FisherJob)
        data, base = study.engine.data(job), study.engine.session.base
        found = measurement(study.engine.setup, base, data, finished / "fisher").find()
        assert found.cached
        assert found.record.id == study.known[job.key].id


def test_masks_are_those_of_their_scores(finished: Path, tiny_folder: Path) -> None:
    study = Study.open(whole(tiny_folder), Storage(results=finished))
    engine = study.engine
    base = engine.session.base
    scores = {}
    for task in ("rte", "sst2"):
        data = engine.task(task)
        measured = measurement(engine.setup, base, data, finished / "fisher").find()
        assert measured.scores is not None
        scores[task] = np.concatenate([measured.scores.values[p.parameter] for p in measured.scores.within])
    both = sum(values / values.sum() for values in scores.values())
    wanted = {
        **{("individual", task): scores[task] for task in scores},
        ("global", None): both,
        ("leave-one-out", "rte"): scores["sst2"],
        ("leave-one-out", "sst2"): scores["rte"],
    }
    layernorm = select(engine.session.base.layout, "layernorm")
    for job in study.jobs:
        if isinstance(job, MaskJob):
            mask = Mask.load(finished / "masks" / study.known[job.key].id, base)
            taken = np.concatenate([
                np.isin(layernorm.indices(p.parameter), mask.selection.indices(p.parameter))
                if p.parameter in mask.selection.chosen
                else np.zeros(layernorm.count(p.parameter), bool)
                for p in layernorm
            ])
            own = wanted.pop((job.mask, job.task))
            assert taken.sum() == round(0.1 * len(layernorm))
            assert own[taken].min() >= own[~taken].max()
            assert mask.name == job.about
            assert set(mask.info.tasks) == ({"rte", "sst2"} if job.task is None else {*job.tasks})
    assert not wanted


def test_masks_by_importances_that_read_texts_are_made_once(tiny_folder: Path, tmp_path: Path) -> None:
    common = {"parts": ("figure5",), "tasks": ("rte",), "fractions": (0.1,), "seeds": (0,)}
    study = config(tiny_folder, **common, masks=("wanda", "magnitude", "obd"))
    study = study.model_copy(update={"protocol": study.protocol.model_copy(update={"rates": 1})})
    results = Study.open(study, Storage(results=tmp_path)).run()
    assert {result.state for result in results.values()} == {"done"}
    names = {record.config.method for record in Store(tmp_path / "runs")}
    assert names == {"wanda-individual@0.1", "magnitude@0.1", "obd-individual@0.1"}
    assert len(Study.open(study, Storage(results=tmp_path)).known) == len(results)
    fewer = study.model_copy(update={"examples": 6})
    missing = [job.about for job in Study.open(fewer, Storage(results=tmp_path)).missing if isinstance(job, MaskJob)]
    assert sorted(missing) == ["obd-individual@0.1", "wanda-individual@0.1"]


def test_a_leave_one_out_mask_never_reads_its_target(tiny_folder: Path, tmp_path: Path) -> None:
    study = config(
        tiny_folder, parts=("figure5",), tasks=("rte",), fractions=(0.1,), masks=("leave-one-out",), seeds=(0,)
    )
    own = Study.open(study, Storage(results=tmp_path))
    assert [job.task for job in own.jobs if isinstance(job, FisherJob)] == ["sst2"]


def test_what_is_done_is_never_done_again(finished: Path, tiny_folder: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*") if path.name != "study.json"}
    tally = Tally()
    results = Study.open(whole(tiny_folder), Storage(results=finished)).run(watcher=tally)
    assert tally.began == []
    assert all(result.known for result in results.values())
    assert files == {path: path.stat().st_mtime_ns for path in finished.rglob("*.*") if path.name != "study.json"}


def test_checkpoints_of_runs_that_are_done_go_and_those_of_others_stay(finished: Path, tiny_folder: Path) -> None:
    left = finished / "unfinished"
    left.mkdir(exist_ok=True)
    run = next(iter(Store(finished / "runs"))).id
    for name in (run, "another"):
        (left / f"{name}.safetensors").write_text("much")
    Study.open(whole(tiny_folder), Storage(results=finished, mode="read-only")).run()
    assert (left / f"{run}.safetensors").exists()
    Study.open(whole(tiny_folder), Storage(results=finished)).run()
    assert [file.stem for file in left.iterdir()] == ["another"]
    (left / "another.safetensors").unlink()


def test_what_was_lost_is_done_again_and_is_the_same(finished: Path, tiny_folder: Path) -> None:
    before = contents(finished)
    draw = random.Random(0)
    files = sorted(path for path in finished.rglob("*.*") if path.name != "study.json")
    for path in draw.sample(files, len(files) // 2):
        path.unlink()
    study = Study.open(whole(tiny_folder), Storage(results=finished))
    tally = Tally()
    study.run(watcher=tally)
    assert contents(finished) == before
    assert 0 < len(tally.began) < len(study.jobs)


def broken(folder: Path, mode: Mode = "cached", **changes: object) -> Study:
    """One search, one rate of which is far too large."""
    study = Study.open(
        config(folder, parts=("table2",), tasks=("rte",), methods=("full",)),
        Storage.model_validate({"results": changes["results"], "mode": mode}),
    )
    good, bad, other = study.jobs
    assert isinstance(bad, TrainJob)
    assert isinstance(other, TrainJob)
    bad = bad.model_copy(update={"rate": 1e18})
    other = other.model_copy(update={"best_of": (good.key, bad.key)})
    jobs = (good, bad, other)
    return Study(study.config, jobs, study.engine)


def test_a_run_that_diverges_leaves_a_record_that_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    study = broken(tiny_folder, results=tmp_path)
    good, bad, other = study.jobs
    results = study.run()
    assert [results[job.key].state for job in (good, bad, other)] == ["done", "failed", "done"]
    assert results[other.key].rate == results[good.key].rate
    record = Store(tmp_path / "runs").get(results[bad.key].id)
    assert record is not None
    assert (record.status, record.score, record.config.rate) == ("failed", None, 1e18)
    assert "stopped being finite at step" in (record.error or "")
    assert not [*(tmp_path / "unfinished").glob("*")]


def test_the_modes_say_what_is_done_again(tiny_folder: Path, tmp_path: Path) -> None:
    jobs = broken(tiny_folder, results=tmp_path).jobs
    wanted: list[tuple[Mode, int]] = [("read-only", 0), ("cached", 3), ("cached", 0), ("retry", 1), ("force", 3)]
    for mode, count in wanted:
        tally, study = Tally(), broken(tiny_folder, mode, results=tmp_path)
        assert tuple(study.jobs) == jobs
        results = study.run(watcher=tally)
        assert tally.made == count, mode
        assert len(results) == (0 if mode == "read-only" else 3)


def test_force_measures_and_masks_anew(tiny_folder: Path, tmp_path: Path) -> None:
    study = config(tiny_folder, parts=("figure2",), tasks=("rte",), fractions=(0.1,), seeds=(0,))
    for mode, made in (("cached", True), ("cached", False), ("force", True)):
        tally = Tally()
        Study.open(study, Storage.model_validate({"results": tmp_path, "mode": mode})).run(watcher=tally)
        assert (len(tally.began) == 2 + 1 + 1 + 1) is made
    assert len([*(tmp_path / "fisher").iterdir()]) == 2
    assert len([*(tmp_path / "masks").iterdir()]) == 1


def test_a_job_that_cannot_be_done_stops_none_of_the_others(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.open(
        config(tiny_folder, parts=("figure2",), tasks=("rte",), fractions=(0.1,), seeds=(0,)), Storage(results=tmp_path)
    )
    monkeypatch.setattr(Measurement, "measure", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    states = {job.about: study.run()[job.key] for job in study.jobs}
    assert {name: result.state for name, result in states.items()} == {
        "layernorm": "done",
        "fisher": "failed",
        "fisher-individual@0.1": "blocked",
    }
    assert "No space left" in (states["fisher"].error or "")
