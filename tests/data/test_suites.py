"""SUITES: the one registry of suites; a new suite is one line in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normtune.data.suites import SUITES, Column, Suite, in_order, known_task, load_task, spelled, suite_of, title_of
from normtune.data.task import Split, Task, TaskData
from normtune.errors import UnknownNameError

BIRDS = Task("birds", "Birds-2", "classification", ("no", "yes"), ("accuracy",), about="Is it a bird?")


def load_birds(name: str, _: Path | None) -> TaskData:
    train = Split.of_texts(("a robin", "a cat"), labels=np.array([1, 0]))
    return TaskData(replace(BIRDS, name=name), {"train": train, "dev": train.take([1])}, "memory")


@pytest.fixture
def animals(monkeypatch: pytest.MonkeyPatch) -> Suite:
    suite = Suite("Animals", {"birds": BIRDS}, (Column("Birds", "birds"),), load_birds, aliases={"fowl": "birds"})
    monkeypatch.setitem(SUITES, "animals", suite)
    return suite


@pytest.mark.parametrize("name", ["birds", "BIRDS", "Birds-2", "birds2", "Fowl"])
def test_a_suite_of_ones_own(name: str, animals: Suite) -> None:
    found = load_task(name, "animals")
    assert (found.task.name, found.suite, list(found)) == ("birds", "animals", ["train", "dev"])
    assert animals.reported == ("birds",)
    assert (title_of("birds"), spelled("BIRDS-2", ["birds", "rte"])) == ("Birds-2", "birds")
    assert in_order(["mine", "birds", "rte", "cola", "rte"]) == ["cola", "rte", "birds", "mine"]


@pytest.mark.usefixtures("animals")
def test_every_suite_is_listed(cli: Callable[..., tuple[int, str, str]]) -> None:
    status, text, _ = cli("tasks", "--json")
    found = {(own["suite"], own["name"]): own["sizes"] for own in json.loads(text)}
    assert status == 0
    assert found["animals", "birds"] == {"train": 2, "dev": 1}
    assert found["toy", "mnli"] == {"train": 2000, "dev": 500, "dev_mismatched": 500}
    assert found["glue", "wnli"] == {}
    _, text, _ = cli("tasks")
    assert all(word in text for word in ("--suite animals", "Birds-2", "--suite toy", "2,000", "500 + 500"))


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Unknown suite 'superglue'"):
        suite_of("superglue")
    with pytest.raises(UnknownNameError, match="Unknown toy task 'wnli'"):
        load_task("wnli", "toy")
    assert (known_task("mine"), title_of("mine"), spelled("Mine", ["mine"])) == (None, "mine", "mine")


def test_the_papers_columns() -> None:
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    for suite in (SUITES["glue"], SUITES["toy"]):
        assert suite.reported == tasks
        assert len(suite.columns) == 9
        assert suite.resolve("MNLI-mm") == "mnli"
