"""Tracked runs: the event files say what the record says, and the record says what it says without them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from normtune.errors import ConfigError, TrainingError, UnknownNameError
from normtune.models.device import accelerator
from normtune.studies.engine import Storage
from normtune.studies.study import Study
from normtune.training import tracking
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from normtune.training.tracking import check_trackers, run_name
from tests.studies.tiny import config
from tests.training.test_session import SMALL, assert_same_delta, comparable, data

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra `track`")


def tracked(model: Path, folder: Path) -> Session:
    return Session(str(model), accelerator=accelerator("cpu", trackers=["tensorboard"], folder=folder))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in a run's event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = folder.glob("events.*")
    read = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def close(values: list[float] | float) -> Any:
    """Event files hold float32."""
    return pytest.approx(values, rel=1e-6)


def test_the_events_say_what_the_record_says_and_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    session, plain = tracked(tiny_folder, tmp_path), Session(str(tiny_folder), accelerator=accelerator("cpu"))
    ticks: list[StepInfo] = []
    for rate in (1e-2, 3e-2):
        made = session.prepare(data(), "layernorm", rate, 0, SMALL)
        ticks.clear()
        record, delta = session.run(made, watch=ticks.append)
        wanted, without = plain.run(made)
        assert comparable(record) == comparable(wanted)
        assert_same_delta(delta, without)
        found = events(tmp_path / run_name(made.config, record.id))
        assert found["train/loss"] == [(step, close(tick.loss)) for step, tick in enumerate(ticks, 1)]
        # AdamW's rate rises over the warm-up and falls in a straight line to zero.
        warmup, steps = round(record.steps * SMALL.warmup_fraction), record.steps
        ideal = [min(done / max(1, warmup), (steps - done) / (steps - warmup)) * rate for done in range(steps)]
        assert [value for _, value in found["train/rate"]] == close(ideal)
        ends = [5, 10]
        for name in ("accuracy", "macro_f1"):
            assert [step for step, _ in found[f"dev/{name}"]] == ends
            assert [value for _, value in found[f"dev/{name}"]] == close([p.scores[name] for p in record.curve])
            assert found[f"best/dev/{name}"] == [(10, close(record.scores["dev"][name]))]
        assert [value for _, value in found["train/epoch_loss"]] == close([point.loss for point in record.curve])
        assert [value for _, value in found["best/epoch"]] == [record.best_epoch]
        [file] = (tmp_path / run_name(made.config, record.id)).glob("*/hparams.yml")
        settings = yaml.safe_load(file.read_text())
        assert settings["run"] == record.id
        assert (settings["rate"], settings["protocol.epochs"], settings["method"]) == (rate, 2, "layernorm")
    assert len([*tmp_path.iterdir()]) == 2
    assert session.accelerator.trackers == []


def test_a_run_that_fails_closes_its_trackers_and_the_next_is_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    session = tracked(tiny_folder, tmp_path)
    with pytest.raises(TrainingError, match="stopped being finite"):
        session.run(session.prepare(data(), "full", 1e18, 0, SMALL))
    assert session.accelerator.trackers == []
    record, _ = session.run(session.prepare(data(), "head", 1e-2, 0, SMALL))
    own = events(tmp_path / run_name(record.config, record.id))
    assert len(own["train/loss"]) == record.steps


def test_long_runs_log_some_of_their_steps(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "POINTS", 4)
    session = tracked(tiny_folder, tmp_path)
    record, _ = session.run(session.prepare(data(), "head", 1e-2, 0, SMALL))
    found = events(tmp_path / run_name(record.config, record.id))
    assert [step for step, _ in found["train/loss"]] == [3, 6, 9]


def test_held_out_scores_are_called_so_and_names_fit_a_path(tiny_folder: Path, tmp_path: Path) -> None:
    session = tracked(tiny_folder, tmp_path)
    held = SMALL.model_copy(update={"held_out": 0.2, "epochs": 1})
    record, _ = session.run(session.prepare(data(), "output.LayerNorm.bias@0 + pooler.dense", 1e-2, 3, held))
    [folder] = tmp_path.iterdir()
    assert folder.name == f"animals-output.LayerNorm.bias@0_+_pooler.dense-0.01-seed3-{record.id[:8]}"
    found = events(folder)
    assert [value for _, value in found["held_out/accuracy"]] == close([record.curve[0].scores["accuracy"]])
    assert found["best/dev/accuracy"] == [(record.steps, close(record.score or 0.0))]


@pytest.mark.parametrize("method", ["adalora@1", "diff-pruning@500"])
def test_every_epoch_is_tracked_where_the_first_cannot_be_the_best(
    tiny_folder: Path, tmp_path: Path, method: str
) -> None:
    session = tracked(tiny_folder, tmp_path)
    record, _ = session.run(session.prepare(data(), method, 1e-3, 0, SMALL))
    [folder] = tmp_path.iterdir()
    assert len(events(folder)["dev/accuracy"]) == len(record.curve)


def test_a_tracker_that_fails_is_no_failure_of_the_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").write_text("in the way")
    study = config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head",), seeds=(0,))
    storage = Storage(results=tmp_path / "study", track=("tensorboard",))
    monkeypatch.setattr(Storage, "tracking", property(lambda _: tmp_path / "logs"))
    results = Study.open(study, storage).run()
    for result in results.values():
        assert result.state == "failed"
        assert (result.error or "").startswith("A tracker failed (tensorboard): ")
    assert not (tmp_path / "study" / "runs").exists()
    assert len([*(tmp_path / "study" / "unfinished").glob("*")]) == 0


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
def test_a_local_store_of_mlflow_says_what_the_record_says(tiny_folder: Path, tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path}")
    session = Session(str(tiny_folder), accelerator=accelerator("cpu", trackers=["mlflow"]))
    record, _ = session.run(session.prepare(data(), "layernorm", 1e-2, 0, SMALL))
    client = mlflow.MlflowClient(f"file://{tmp_path}")
    [experiment] = client.search_experiments(filter_string="name = 'normtune'")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == run_name(record.config, record.id)
    assert (run.data.params["run"], float(run.data.params["rate"])) == (record.id, 1e-2)
    assert run.data.metrics["best/dev/accuracy"] == record.score
    history = client.get_metric_history(run.info.run_id, "dev/accuracy")
    assert [point.value for point in history] == [point.scores["accuracy"] for point in record.curve]
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == record.steps


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_done(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    assert check_trackers(["tensorboard", "tensorboard"]) == ("tensorboard",)
    missing = sorted({*LOGGER_TYPE_TO_CLASS} - {str(name) for name in get_available_trackers()})
    for command in (("train", "--task", "rte", "--out", tmp_path / "out"), ("study", "table2", "--results", tmp_path)):
        status, out, error = cli(*command, "--model", tiny_folder, "--track", f"tensorboard,{missing[0]}")
        assert (status, out) == (1, "")
        assert f"The tracker {missing[0]} is not installed; install it with: pip install" in error
        assert len(error.splitlines()) == 1
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"install it with: pip install 'normtune\[track\]'\."):
        check_trackers(["tensorboard"])


def test_the_command_line_tracks_every_run_of_train_and_study(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    small = ("--model", tiny_folder, "--suite", "toy", "--threads", "1")
    sized = (
        *small,
        "--protocol",
        "small,epochs=1,max_train=32,max_dev=16",
        "--task",
        "rte",
        "--method",
        "head",
        "--device",
        "cpu",
    )
    given = ("--lr", "auto", "--records", tmp_path / "runs", "--track", "tensorboard")
    status, _, error = cli("train", *sized, *given)
    assert status == 0, error
    ids = {file.stem[:8] for file in (tmp_path / "runs").iterdir()}
    assert {folder.name[-8:] for folder in (tmp_path / "tracking").iterdir()} == ids
    assert 3 <= len(ids) <= 5
    # What is known is not run, so it is not logged either.
    study = ("study", "table2", *sized, "--seeds", "0,1", "--results", tmp_path)
    status, _, error = cli(*study, "--plan")
    assert status == 0, error
    assert len([*(tmp_path / "tracking").iterdir()]) == len(ids)
    status, _, error = cli(*study, "--track", "tensorboard")
    assert status == 0, error
    [new] = {file.stem[:8] for file in (tmp_path / "runs").iterdir()} - ids
    assert {folder.name[-8:] for folder in (tmp_path / "tracking").iterdir()} == {*ids, new}
