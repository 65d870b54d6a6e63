"""What a study consists of, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from normtune.config import PROTOCOLS
from normtune.errors import ConfigError, DataError
from normtune.studies.config import FILE, PARTS, STUDIES, StudyConfig

SMALL = PROTOCOLS["small"]


def test_the_paper_is_all_of_its_parts() -> None:
    assert STUDIES["paper"] == PARTS
    assert STUDIES["figure5"] == ("figure5",)


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    study = StudyConfig(parts=("table2",), tasks=("rte",), seeds=(0, 3), protocol=SMALL, threads=2)
    file = tmp_path / FILE
    study.save(file)
    assert StudyConfig.load(file) == study
    with pytest.raises(DataError, match="There is no study at"):
        StudyConfig.load(tmp_path / "none" / FILE)
    file.write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        StudyConfig.load(file)


def test_two_studies_of_one_kind_are_one() -> None:
    one = StudyConfig(parts=("table2",), tasks=("rte",), seeds=(0,), protocol=SMALL)
    two = StudyConfig(parts=("figure5",), tasks=("mrpc", "rte"), seeds=(0, 1), protocol=SMALL)
    both = one.merged(two)
    assert both is not None
    assert (both.parts, both.tasks, both.seeds) == (("table2", "figure5"), ("rte", "mrpc"), (0, 1))
    assert one.merged(two.model_copy(update={"protocol": PROTOCOLS["paper"]})) is None
    assert one.merged(two.model_copy(update={"threads": 2})) is None
    measured = one.merged(StudyConfig(parts=("table1",), tasks=("rte",), seeds=(), protocol=SMALL))
    assert measured is not None
    assert (measured.parts, measured.seeds) == (("table2", "table1"), (0,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ()}, "takes at least one seed"),
        ({"seeds": (0, 0)}, "takes each of its seeds once"),
        ({"tasks": ("rte", "rte")}, "takes each of its tasks once"),
        ({"tasks": ("rte",), "sources": ("rte",)}, "leave-one-out mask for rte needs Fisher information of another"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StudyConfig.model_validate({"protocol": SMALL, **changes})


@pytest.mark.parametrize("changes", [{"fractions": (1.5,)}, {"sedes": (1,)}, {"parts": ("table9",)}])
def test_what_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StudyConfig.model_validate({"protocol": SMALL, **changes})
