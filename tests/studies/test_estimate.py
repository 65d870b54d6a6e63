"""Estimated times, from how much is read and from a trial of each kind of job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from normtune.importance.measurement import MeasuredFisher, Measurement
from normtune.studies.engine import Storage
from normtune.studies.estimate import estimate, sizes
from normtune.studies.jobs import MaskJob
from normtune.studies.study import Study
from tests.studies.tiny import config


def test_a_longer_run_reads_more_in_proportion(tiny_folder: Path, tmp_path: Path) -> None:
    small = config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head",), seeds=(0,))
    before = sizes(Study.open(small, Storage(results=tmp_path)))
    for name, factor in (("epochs", 3), ("max_train", (96 + 32 / 3) / (48 + 32 / 3))):
        value = {"epochs": 3, "max_train": 96}[name]
        longer = small.model_copy(update={"protocol": small.protocol.model_copy(update={name: value})})
        after = sizes(Study.open(longer, Storage(results=tmp_path)))
        assert len(after) >= len(before) == 2
        assert [*after.values()][:2] == pytest.approx([size * factor for size in before.values()])


def test_every_kind_of_job_is_tried_out_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    study = Study.open(config(tiny_folder, parts=("figure2",), tasks=("rte",)), Storage(results=tmp_path / "none"))
    seconds, read = estimate(study), sizes(study)
    assert seconds.keys() == read.keys() == {job.key for job in study.missing}
    assert all((seconds[job.key] > 0) is not isinstance(job, MaskJob) for job in study.missing)
    for name in ("head", "layernorm"):
        own = [job.key for job in study.missing if job.about == name]
        assert len({round(seconds[key] / read[key], 12) for key in own}) == 1
    assert not (tmp_path / "none").exists()


def test_what_a_measurement_pays_once_is_not_paid_for_every_example(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = config(tiny_folder, parts=("table1",), tasks=("rte",))
    study, plain = Study.open(measured, Storage(results=tmp_path)), Measurement.measure
    warming = [900.0]

    def slower(self: Measurement, *args: object, **kwargs: object) -> MeasuredFisher:
        """Takes a hundred seconds, the first time a thousand, and one more for every example."""
        found = plain(self, *args, **kwargs)
        seconds = 100.0 + found.record.examples + (warming.pop() if warming else 0.0)
        return replace(found, record=found.record.model_copy(update={"seconds": seconds}))

    monkeypatch.setattr(Measurement, "measure", slower)
    assert measured.examples is not None
    assert [*estimate(study).values()] == [pytest.approx(measured.examples * len(measured.head_seeds))]
