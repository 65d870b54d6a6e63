"""Tables of trainings: the search, the store, the output folders, and rates beyond those of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from normtune.config import Pruning, protocol
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, OutputError, SelectionError
from normtune.importance.masks import Mask
from normtune.importance.scores import random_scores
from normtune.methods.expression import select
from normtune.models.base import Base
from normtune.studies import output, plan
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Storage
from normtune.studies.executors.executor import Here
from normtune.studies.jobs import Job, Result, TrainJob, rate_of
from normtune.studies.plan import mask_rows, method_rows, trainings
from normtune.studies.schedule import Schedule
from tests.training.test_session import TASK, assert_same_delta, comparable, data

SMALL = protocol("small", epochs=2, batch_size=8)
TASKS = [TrainJob(task=name, method="", seed=0) for name in ("one", "two")]


def engine_of(model: Path, folder: Path, *, epochs: int = 2, prune: Pruning | None = None, **storage: object) -> Engine:
    """An engine with three tasks of the same data."""
    setup = Setup(model=str(model), protocol=protocol("small", epochs=epochs, batch_size=8), prune=prune, device="cpu")
    own = {name: data(replace(TASK, name=name)) for name in ("animals", "one", "two")}
    return Engine(setup, Storage.model_validate({"results": folder, **storage}), own)


@pytest.fixture
def engine(tiny_folder: Path, tmp_path: Path) -> Engine:
    return engine_of(tiny_folder, tmp_path / "results")


def table(
    engine: Engine, method: str, seeds: Sequence[int], rates: Sequence[float] | None, folder: Path | None = None
) -> tuple[dict[str, Result], tuple[TrainJob, ...]]:
    """The results of a table of one cell, and the jobs of its runs."""
    rows = method_rows(engine.session, [TrainJob(task="animals", method="", seed=0)], [method])
    jobs, (runs,) = trainings(
        engine.setup,
        rows,
        seeds,
        rates=rates,
        search=rates is None,
        folder=lambda job: folder and folder / str(job.seed),
    )
    return done(engine, jobs), runs


def done(engine: Engine, jobs: Sequence[Job]) -> dict[str, Result]:
    schedule = Schedule(jobs, {})
    Here().run(schedule, engine)
    return schedule.results


def test_the_best_rate_of_the_first_seed_is_used_for_the_others(tiny_folder: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny_folder, tmp_path, epochs=4)
    results, runs = table(engine, "full", (0, 1, 2), (1e-9, 1e-3))
    tried = {(r.config.seed, r.config.rate): r.score for r in engine.store}
    best = max((1e-9, 1e-3), key=lambda rate: tried[0, rate] or 0.0)
    found = [engine.record(job, results[job.key]).config for job in runs]
    assert [(config.seed, config.rate) for config in found] == [(0, best), (1, best), (2, best)]
    assert len(tried) == 4


def test_what_is_in_the_store_is_not_run_again(tiny_folder: Path, tmp_path: Path) -> None:
    for known in (False, True):
        engine = engine_of(tiny_folder, tmp_path)
        results, runs = table(engine, "head", (0, 1), (1e-2, 1e-1))
        assert results[runs[0].key].known  # tried before
        assert all(result.known or key == runs[0].key for key, result in results.items()) is known
    assert len([*engine.storage.runs.iterdir()]) == 3


def test_deltas_wanted_but_not_kept_are_trained_again(tiny_folder: Path, tmp_path: Path) -> None:
    table(engine_of(tiny_folder, tmp_path / "aside", records=tmp_path / "store"), "head", (0,), (1e-2, 1e-1))
    for known in (False, True):
        engine = engine_of(tiny_folder, tmp_path / "aside", records=tmp_path / "store", deltas=True)
        results, (run,) = table(engine, "head", (0,), (1e-2, 1e-1), tmp_path / "out")
        assert results[run.key].known is known
        assert run.out is not None
        assert output.read_state(run.out) == output.FolderState("finished", results[run.key].id)
        # Of the rates tried, the best alone is trained for its delta.
        assert [file.stem for file in (tmp_path / "aside" / "deltas").iterdir()] == [results[run.key].id]
    record, delta = engine.session.run(engine.setup_run(run, results))
    assert_same_delta(Delta.load(run.out), delta)
    assert comparable(record) == comparable(engine.record(run, results[run.key]))


def test_another_training_in_a_folder_is_never_taken_for_this_one(tiny_folder: Path, tmp_path: Path) -> None:
    engine, ids = engine_of(tiny_folder, tmp_path / "aside", deltas=True), []
    for rate in (1e-2, 3e-2):
        results, (run,) = table(engine, "head", (0,), (rate,), tmp_path / "out")
        assert run.out is not None
        assert not results[run.key].known
        ids.append(results[run.key].id)
        assert output.read_state(run.out) == output.FolderState("finished", ids[-1])
        assert engine.record(run, results[run.key]).config.rate == rate
    folder = tmp_path / "out" / "0"
    with pytest.raises(
        OutputError, match="holds another training: choose another place, or replace it with --overwrite"
    ):
        output.claim(folder, "training", [ids[0]])
    assert not output.claim(folder, "training", ids)
    assert output.read_state(folder) == output.FolderState("finished", ids[1])
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "training").write_text("training")  # a kill before the clean-up
    assert output.read_state(folder) == output.FolderState("unfinished", "training")
    with pytest.raises(OutputError, match="It is not finished; its own command finishes it"):
        output.claim(folder, "another", ids)
    assert not output.claim(folder, "training")  # nothing is left to go on from
    (folder / ".unfinished" / "runs").mkdir()
    assert output.claim(folder, "training")
    output.finish(folder)
    assert output.read_state(folder).training == "training"
    assert not output.claim(folder, "training")  # finished by this very training, whatever its result is
    assert not output.claim(folder, "another", overwrite=True)
    assert output.read_state(folder) == output.FolderState("unfinished", "another")
    assert (folder / "record.json").is_file()  # the old results stay until the new ones are there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("dear")
    with pytest.raises(OutputError, match="is in use"):
        output.claim(tmp_path / "mine", "another", overwrite=True)
    assert output.read_state(tmp_path / "mine").kind == "foreign"
    assert output.read_state(tmp_path / "nothing").kind == "empty"
    with pytest.raises(OutputError, match="File name too long"):
        output.read_state(tmp_path / ("x" * 300))


def test_a_kill_in_the_clean_up_leaves_nothing_for_good(tiny_folder: Path, tmp_path: Path) -> None:
    for known in (False, True):
        engine = engine_of(tiny_folder, tmp_path / "aside", deltas=True)
        results, (run,) = table(engine, "head", (0,), (1e-2,), tmp_path / "out")
        assert run.out is not None
        assert results[run.key].known is known
        assert not (run.out / ".unfinished").exists()
        (run.out / ".unfinished" / "unfinished").mkdir(parents=True)


def test_one_rate_that_diverges_is_told_and_the_search_goes_on(engine: Engine) -> None:
    results, (run,) = table(engine, "full", (0,), (1e-3, 1e18))
    assert results[run.key].rate == 1e-3
    assert sorted(result.state for result in results.values()) == ["done", "done", "failed"]
    [lost] = [record for record in engine.store if record.status == "failed"]
    assert lost.config.rate == 1e18
    results, (run,) = table(engine, "full", (0,), (1e18,))
    assert (results[run.key].state, results[run.key].known) == ("failed", True)
    assert "at step" in (results[run.key].error or "")
    results, (_, other) = table(engine, "full", (0, 1), (1e17, 1e18))
    assert results[other.key].state == "blocked"


def test_a_search_goes_on_beyond_the_end_of_its_rates(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "BEYOND", 2)
    engine = engine_of(tiny_folder, tmp_path, epochs=3)
    like = TrainJob(task="animals", method="head", seed=0)

    def searched(score: Callable[[float], float]) -> tuple[list[float], float | None]:
        jobs, (cell,) = trainings(engine.setup, [(like, (0.3, 0.1, 1.0))], [0, 1], search=True)
        schedule, tried = Schedule(jobs, {}), list[float]()
        while (taken := schedule.take()) is not None:
            job, needs = taken
            if isinstance(job, TrainJob):
                rate = rate_of(job, needs)
                assert rate is not None
                tried += [rate] if job.rate is not None or job.beyond else []
                schedule.settle(Result(key=job.key, state="done", rate=rate, picked=score(rate)))
        return tried, schedule.results[cell[1].key].rate

    assert searched(lambda rate: -abs(rate - 0.3)) == ([0.1, 0.3, 1.0], 0.3)
    assert searched(lambda rate: rate) == ([0.1, 0.3, 1.0, 3.0, 10.0], 10.0)
    assert searched(lambda rate: -abs(rate - 0.03)) == ([0.1, 0.3, 1.0, 0.03, 0.01], 0.03)
    assert searched(lambda rate: min(rate, 1.0)) == ([0.1, 0.3, 1.0, 3.0], 1.0)
    # Rates that are given are all that is tried, and so are the protocol's where it is short.
    row = like, (0.3, 0.1, 1.0)
    assert len(trainings(engine.setup, [row], [0], rates=[0.1, 0.3])[0]) == 2 + 1
    short = engine.setup.model_copy(update={"protocol": protocol("small", epochs=2)})
    assert len(trainings(short, [row], [0], search=True)[0]) == 3 + 1


def test_every_method_gets_as_many_rates(engine: Engine) -> None:
    methods = ["head", "full", "bitfit", "layernorm", "random", "last-layers@1", "pooler.dense"]
    rows = method_rows(engine.session, TASKS[:1], methods)
    _, searched = trainings(engine.setup, rows, [0], search=True)
    assert {len(cell[0].best_of) for cell in searched} == {3}
    _, single = trainings(engine.setup, rows, [0])
    for (run,), (_, grid) in zip(single, rows, strict=True):
        assert (run.best_of, run.rate) == ((), grid[0])


# Masks


def mask(base: Base, folder: Path, seed: int = 0, fraction: float = 0.1, **info: object) -> Path:
    scores = random_scores(select(base.layout, "layernorm"), seed)
    made = Mask.make(base, scores, **{"fraction": fraction, "importance": "fisher", **info})
    return made.save(folder / f"{seed}-{fraction}-{info.get('target')}.safetensors")


def test_masks_of_one_name_are_one_row_where_each_task_takes_its_own(engine: Engine, tmp_path: Path) -> None:
    base = engine.session.base
    own = {t: mask(base, tmp_path, i, scope="individual", target=t) for i, t in enumerate(("one", "two", "three"))}
    every = mask(base, tmp_path, 3, scope="global")
    rows = mask_rows(engine.session, TASKS, [own["three"], every, own["two"], own["one"]])
    assert [(like.task, like.method, like.mask_file) for like, _ in rows] == [
        ("one", "fisher-individual@0.1", own["one"]),
        ("one", "fisher-global@0.1", every),
        ("two", "fisher-individual@0.1", own["two"]),
        ("two", "fisher-global@0.1", every),
    ]
    alone = mask_rows(engine.session, TASKS, [own["one"]])
    assert [like.method for like, _ in alone] == ["fisher-individual@0.1", "fisher-individual@0.1 for one"]


def test_masks_take_the_grid_of_their_size(engine: Engine, tmp_path: Path) -> None:
    session = engine.session
    files = [mask(session.base, tmp_path, fraction=fraction) for fraction in (0.0, 0.1, 1.0)]
    rows = mask_rows(session, TASKS[:1], files)
    assert rows[0][1] == session.grid("head")
    assert rows[1][1] == session.grid("layernorm") != session.grid("head")
    whole = select(session.base.layout, "full")
    assert session.grid("random@1.0 of full", whole) == session.grid("full") != session.grid("layernorm")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("one", "one"), "2 masks are called 'fisher@0.1', and 2 of them were made for one"),
        (("one", None), "2 masks are called 'fisher@0.1', and 0 of them were made for two"),
        (("one", "three"), "2 masks are called 'fisher@0.1', and 0 of them were made for two"),
    ],
)
def test_masks_that_leave_a_choice_open_are_refused(
    engine: Engine, tmp_path: Path, targets: tuple[str | None, ...], said: str
) -> None:
    files = [mask(engine.session.base, tmp_path, i, target=target) for i, target in enumerate(targets)]
    with pytest.raises(ConfigError, match=said):
        mask_rows(engine.session, TASKS, files)


def test_a_mask_of_another_model_is_refused(engine: Engine, make_base: Callable[..., Base], tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="This mask belongs to the base model"):
        mask_rows(engine.session, TASKS, [mask(make_base("bert", seed=4), tmp_path)])
