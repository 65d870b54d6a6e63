"""Times to come, from the times of records on this machine, or from a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from normtune.records.store import Store
from normtune.studies.engine import Place
from normtune.studies.estimate import estimate
from normtune.studies.study import Study
from tests.studies.tiny import config


@pytest.fixture
def results(tiny_folder: Path, tmp_path: Path) -> Path:
    """Two rates of the head, whose runs took 10 and 30 seconds."""
    place = Place(results=tmp_path)
    Study.open(config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head",), seeds=(0,)), place).run()
    store = Store(place.runs)
    for record, seconds in zip([*store], (10.0, 30.0), strict=True):
        store.put(record.model_copy(update={"seconds": seconds}))
    return tmp_path


def test_a_run_like_others_takes_as_long_as_they_did(results: Path, tiny_folder: Path) -> None:
    study = Study.open(
        config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head", "full")), Place(results=results)
    )
    guess = estimate(study, trial=False)
    assert guess.sources == {"head": "records", "full": "none"}
    [other] = [job for job in study.missing if job.about == "head"]
    assert guess.seconds == {other.key: pytest.approx(20)}
    assert guess.total([other]) == pytest.approx(20)
    assert guess.total(study.missing) is None


def test_a_longer_run_takes_longer_in_proportion(results: Path, tiny_folder: Path) -> None:
    small = config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head",), seeds=(0,))
    for name, factor in (("epochs", 3), ("max_train", (96 + 32 / 3) / (48 + 32 / 3))):
        value = {"epochs": 3, "max_train": 96}[name]
        longer = small.model_copy(update={"protocol": small.protocol.model_copy(update={name: value})})
        study = Study.open(longer, Place(results=results))
        guess = estimate(study, trial=False)
        assert len(study.missing) == 2
        assert [*guess.seconds.values()] == pytest.approx([20 * factor] * 2)


def test_records_of_another_machine_or_with_other_threads_say_nothing(results: Path, tiny_folder: Path) -> None:
    store = Store(results / "runs")
    for record, facts in zip(store, ({"threads": 7}, {"processor": "another"}), strict=True):
        store.put(record.model_copy(update={"machine": {**record.machine, **facts}}))
    study = Study.open(config(tiny_folder, parts=("table2",), methods=("head",)), Place(results=results))
    assert estimate(study, trial=False).sources == {"head": "none"}


def test_what_has_no_record_is_tried_out_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    study = Study.open(config(tiny_folder, parts=("figure2",), tasks=("rte",)), Place(results=tmp_path / "none"))
    guess = estimate(study, trial=True)
    assert guess.sources == dict.fromkeys(("head", "fisher", "layernorm"), "trial")
    total = guess.total(study.missing)
    assert total is not None
    assert total > 0
    assert not (tmp_path / "none").exists()
