"""Pruning rates: the rule by hand, the same records in any order of execution, and never in place of a whole run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normtune.config import Pruning, protocol
from normtune.records.aggregate import by_rate, tabulate
from normtune.records.results import Store
from normtune.records.run import EpochScore, Record
from normtune.studies.config import FILE, StudyConfig
from normtune.studies.engine import Storage
from normtune.studies.executors.executor import Here
from normtune.studies.executors.pool import Pool
from normtune.studies.jobs import Job, TrainJob
from normtune.studies.pruning import pruned_identity, trial_order, verdict
from normtune.studies.schedule import Schedule
from normtune.studies.study import Study
from normtune.training.loop import PrunedError, StepInfo
from normtune.training.session import Session
from tests.studies.test_trainings import engine_of, table
from tests.studies.tiny import RULES, SIZES, config, contents
from tests.training.test_session import comparable, data

Run = Callable[..., tuple[int, str, str]]

SMALL = protocol("small", epochs=5, batch_size=8)
#: Anything behind is dropped: the tiny model's scores differ little.
STRICT = Pruning(margin=0.0)


def curve(*scores: float) -> tuple[EpochScore, ...]:
    return tuple(EpochScore(epoch=i, loss=1.0, scores={"accuracy": s}, seconds=0) for i, s in enumerate(scores, 1))


@pytest.fixture(scope="module")
def whole(tiny_folder: Path) -> Record:
    session = Session(str(tiny_folder))
    return session.run(session.prepare(data(), "head", 1e-2, 0, SMALL))[0]


def rival(like: Record, rate: float, *scores: float) -> Record:
    made = like.config.model_copy(update={"rate": rate})
    return like.model_copy(update={"id": f"at {rate}", "config": made, "curve": curve(*scores)})


@pytest.mark.parametrize(
    ("margin", "own", "epoch"),
    [
        (0.05, (0.5, 0.54, 0.9), None),  # epoch 1 is too early, at 2 it is 0.05 behind and no more
        (0.05, (0.5, 0.53, 0.9), 2),
        (0.05, (0.53, 0.1, 0.1), 2),  # the best so far counts, on both sides
        (0.3, (0.1, 0.1, 0.1), 2),
        (0.55, (0.1, 0.1, 0.1), 3),
        (0.65, (0.1, 0.1, 0.1), None),
    ],
)
def test_a_run_is_lost_where_its_best_is_more_than_the_margin_behind(
    whole: Record, margin: float, own: tuple[float, ...], epoch: int | None
) -> None:
    rivals = [rival(whole, 0.1, 0.55, 0.59, 0.55, 0.8), rival(whole, 0.2, 0.0, 0.0, 0.7, 0.7)]
    rule = Pruning(margin=margin, after=0.5)
    assert rule.first(4) == 2
    found = verdict(rule, "accuracy", curve(*own), 4, rivals)
    assert (found and found.epoch) == epoch
    if found is not None:
        assert (found.leader, found.of, found.margin) == ("at 0.2" if epoch == 3 else "at 0.1", 4, margin)
        assert found.score == max(own[: found.epoch])
        # Training further does not change the verdict.
        assert verdict(rule, "accuracy", curve(*own, 1.0), 4, rivals) == found
    assert verdict(rule, "accuracy", curve(*own), 4, []) is None


def test_the_last_epoch_drops_nobody_and_a_quarter_is_rounded_up(whole: Record) -> None:
    best = rival(whole, 0.1, 1.0, 1.0)
    assert verdict(STRICT, "accuracy", curve(0.5, 0.5), 2, [best]) is not None
    assert verdict(Pruning(after=0.6), "accuracy", curve(0.5, 0.5), 2, [best]) is None
    assert [Pruning().first(epochs) for epochs in (1, 3, 4, 5, 20)] == [1, 1, 1, 2, 5]


def test_rates_are_tried_from_the_middle_outwards() -> None:
    assert trial_order((1.0, 2.0, 3.0)) == (2.0, 1.0, 3.0)
    assert trial_order((4.0, 1.0, 3.0, 2.0)) == (3.0, 2.0, 4.0, 1.0)
    assert trial_order((5.0,)) == (5.0,)


def test_a_dropped_run_is_the_start_of_the_whole_one_and_has_an_identity_of_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    rates = (1e-9, 1e-3, 3e-3)
    every = engine_of(tiny_folder, tmp_path / "whole", epochs=4)
    table(every, "full", (0, 1), rates)
    engine = engine_of(tiny_folder, tmp_path / "pruned", epochs=4, prune=STRICT)
    results, (first, _) = table(engine, "full", (0, 1), rates)
    some = engine.store
    by = {(r.config.rate, r.config.seed): r for r in every.store}
    for record in some:
        own = by[record.config.rate, record.config.seed]
        if record.status == "done":
            assert comparable(record) == comparable(own)
    dropped = [record for record in some if record.status == "pruned"]
    assert dropped
    for record in dropped:
        own, why = by[record.config.rate, 0], record.pruned
        assert why is not None
        assert comparable(record)["curve"] == comparable(own)["curve"][: why.epoch]  # type: ignore[index]
        assert (record.status, record.score, record.best_epoch, record.scores) == ("pruned", None, None, {})
        assert record.id not in {own.id for own in every.store}
        leader = next(r for r in every.store if r.id == why.leader)
        assert why.score < why.leader_score == max(point.scores["accuracy"] for point in leader.curve[: why.epoch])
        assert record.steps == why.epoch * 5 < own.steps
        assert str(why) in (record.error or "")
    # Tried and lost: the best of the others is taken, and no table shows what was dropped.
    left = [r for r in some if r.status == "done" and r.config.seed == 0]
    best = engine.record(first, results[first.key])
    assert best.picked == max(run.picked for run in left)
    assert len(left) + len(dropped) == 3
    assert tabulate(some)["full", "animals"].rate == best.config.rate
    assert set(by_rate(some, ["animals"], ["full"])["full on animals"]) == {r.config.rate for r in left}
    # Again: everything is known, and the unpruned search takes no pruned run for a whole one.
    files = {path.name: path.read_bytes() for path in some.folder.iterdir()}
    again, _ = table(engine, "full", (0, 1), rates)
    assert {own.id for own in again.values() if own.state == "pruned"} == {record.id for record in dropped}
    assert files == {path.name: path.read_bytes() for path in some.folder.iterdir()}
    table(engine_of(tiny_folder, tmp_path / "pruned", epochs=4), "full", (0, 1), rates)
    assert {r.id: comparable(r) for r in some if r.status == "done"} == {r.id: comparable(r) for r in every.store}


def test_another_margin_or_rival_is_another_identity(whole: Record) -> None:
    others = [rival(whole, 0.1, 0.5), rival(whole, 0.2, 0.5)]
    made = {
        pruned_identity("run", Pruning(), others),
        pruned_identity("run", Pruning(margin=0.04), others),
        pruned_identity("run", Pruning(after=0.5), others),
        pruned_identity("run", Pruning(), others[:1]),
        pruned_identity("other", Pruning(), others),
    }
    assert len(made) == 5
    assert pruned_identity("run", Pruning(), others[::-1]) in made
    assert "pruned" not in whole.model_dump_json(exclude={"pruned"})


def test_what_is_not_pruned_keeps_its_file(whole: Record, tmp_path: Path) -> None:
    whole.save(tmp_path / "a.json")
    assert "pruned" not in json.loads((tmp_path / "a.json").read_text())


def test_a_checkpoint_beyond_the_verdict_gives_the_same_record(tiny_folder: Path, tmp_path: Path) -> None:
    dropped = []

    class StopError(Exception):
        pass

    def stop(tick: StepInfo) -> None:
        if (tick.epoch, tick.step % 5) == (5, 3):
            raise StopError

    for name, ahead in (("straight", False), ("ahead", True)):
        engine = engine_of(tiny_folder, tmp_path / name, epochs=5, prune=STRICT)
        if ahead:  # an unpruned search that was stopped in its fifth epoch
            lost = engine.session.prepare(data(), "full", 1e-9, 0, SMALL)
            file = tmp_path / name / "unfinished" / f"{lost.id}.safetensors"
            with pytest.raises(StopError):
                engine.session.run(lost, checkpoint=file, watch=stop)
            assert file.is_file()
        table(engine, "full", (0,), (1e-9, 1e-3))
        assert not [*(tmp_path / name / "unfinished").glob("*.safetensors")]
        dropped += [record for record in engine.store if record.status == "pruned"]
    assert comparable(dropped[0]) == comparable(dropped[1])
    assert dropped[0].pruned is not None
    assert dropped[0].pruned.epoch < 4


def test_a_judge_ends_a_training_of_ones_own(tiny_folder: Path) -> None:
    session, told = Session(str(tiny_folder)), list[tuple[int, int]]()

    def judge(points: tuple[EpochScore, ...], steps: int) -> bool:
        told.append((len(points), steps))
        return len(points) < 3

    with pytest.raises(PrunedError, match="ended after 3 epochs"):
        session.run(session.prepare(data(), "head", 1e-2, 0, SMALL), judge=judge)
    assert told == [(1, 5), (2, 10), (3, 15)]


# Studies


def pruning(folder: Path, **changes: Any) -> StudyConfig:
    rules = RULES.model_copy(update={"epochs": 3, "rates": 3})
    given = {
        "parts": ("table2",),
        "tasks": ("stsb",),
        "methods": ("head", "layernorm"),
        "protocol": rules,
        "prune": STRICT,
        **changes,
    }
    return config(folder, **given)


class Shuffled:
    """A schedule that hands out ready jobs in random order."""

    def __init__(self, inner: Schedule, draw: random.Random) -> None:
        self._inner, self._draw = inner, draw

    def take(self) -> Job | None:
        waiting = [*self._inner._waiting.values()]
        self._draw.shuffle(waiting)
        self._inner._waiting = {job.key: job for job in waiting}
        return self._inner.take()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("pruned")
    found = Study.open(pruning(tiny_folder), Storage(results=results)).run()
    assert {result.state for result in found.values()} == {"done", "pruned"}
    return results


def test_each_rate_waits_for_those_before_it(tiny_folder: Path, tmp_path: Path) -> None:
    study = Study.open(pruning(tiny_folder, methods=("head",)), Storage(results=tmp_path))
    runs = [job for job in study.jobs if isinstance(job, TrainJob)]
    rates = sorted(job.rate for job in runs if job.rate is not None)
    assert [job.rate for job in runs[:3]] == [*trial_order(rates)]
    assert [job.rivals for job in runs[:3]] == [(), (runs[0].key,), (runs[0].key, runs[1].key)]
    by_rate = {job.rate: job.key for job in runs}
    assert {*runs[3].best_of} == {by_rate[rate] for rate in rates}
    assert runs[3].rivals == ()


def test_no_order_of_execution_changes_a_record(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    study = Study.open(pruning(tiny_folder), Storage(results=tmp_path))
    schedule: Any = Shuffled(Schedule(study.jobs, {}), random.Random(3))

    Here().run(schedule, study.engine)
    study.config.save(tmp_path / FILE)
    assert contents(tmp_path) == contents(finished)


def test_a_pruned_study_that_lost_records_makes_the_same_ones(finished: Path, tiny_folder: Path) -> None:
    before, draw = contents(finished), random.Random(1)
    known = Study.open(pruning(tiny_folder), Storage(results=finished))
    assert len(known.known) == len(known.jobs)
    files = sorted((finished / "runs").iterdir())
    for path in draw.sample(files, len(files) // 2):
        path.unlink()
    Study.open(pruning(tiny_folder), Storage(results=finished)).run()
    assert contents(finished) == before


@pytest.mark.slow
def test_a_pool_prunes_as_one_process_does(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    Study.open(pruning(tiny_folder), Storage(results=tmp_path, track=("tensorboard",))).run(Pool(2))
    assert contents(tmp_path) == contents(finished)
    # Every worker logs its own runs.
    assert len([*(tmp_path / "tracking").iterdir()]) == len([*(tmp_path / "runs").iterdir()])


def test_whole_runs_that_are_known_are_taken(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    every = pruning(tiny_folder, methods=("head",), prune=None)
    Study.open(every, Storage(results=tmp_path)).run()
    study = Study.open(every.model_copy(update={"prune": STRICT}), Storage(results=tmp_path))
    assert {result.state for result in study.known.values()} == {"done"}
    assert len(study.known) == len(study.jobs)


# The command line


def test_the_command_line_says_what_was_dropped_and_saved(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    sized = (
        *("--model", tiny_folder, "--suite", "toy", "--protocol", f"small,epochs=3,{SIZES}"),
        *("--threads", "1", "--device", "cpu"),
        *("--task", "stsb", "--method", "layernorm", "--prune", "0"),
    )
    status, out, error = cli("study", "table2", *sized, "--results", tmp_path)
    assert status == 0, error
    lost = [record for record in Store(tmp_path / "runs") if record.status == "pruned"]
    assert lost
    saved = sum(3 - len(record.curve) for record in lost)
    tried = len([*(tmp_path / "runs").iterdir()])
    assert 3 <= tried <= 5
    said = f"{len(lost)} of {tried} rates tried; {saved} of {3 * tried} epochs saved."
    assert f"Dropped early, more than 0 behind: {said}" in out
    assert f"{len(lost)} pruned" in out
    assert " ".join(error.split()).count("dropped after epoch") == len(lost)
    assert cli("study", "table2", *sized, "--results", tmp_path, "--mode", "read-only")[0] == 0
    plain = json.loads(cli("study", "table2", *sized, "--results", tmp_path, "--json")[1])
    assert (plain["pruned"], plain["saved_epochs"]) == (len(lost), saved)
    # `train` finds them, and says the same.
    status, _, error = cli("train", *sized, "--lr", "auto", "--records", tmp_path / "runs")
    assert status == 0, error
    assert f"{len(lost)} of {tried} rates tried; {saved} of {3 * tried} epochs saved." in " ".join(error.split())
    assert len([*(tmp_path / "runs").iterdir()]) == tried
    rows = json.loads(cli("runs", tmp_path, "--status", "pruned", "--json")[1])
    assert [row["id"] for row in rows] == [record.id for record in lost]
    assert all(row["score"] is None and "dropped after epoch" in row["error"] for row in rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("train", "--task", "rte", "--prune", "0.05"), "--prune drops rates of a search; add --lr auto"),
        (("study", "table1", "--prune", "0.05"), "leave out --prune"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(cli: Run, given: tuple[str, ...], said: str) -> None:
    status, out, error = cli(*given)
    assert (status, out) == (1, "")
    assert said in error
    assert len(error.splitlines()) == 1
