"""Records as one table, against the files themselves."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normtune.cli.render import console
from normtune.errors import DataError, UnknownNameError
from normtune.records.database import COLUMNS, by_id, differences, ordered, rows, select
from normtune.records.results import load_runs
from normtune.records.run import Record
from tests.records.test_aggregate import record as made

Run = Callable[..., tuple[int, str, str]]


def write(folder: Path, identity: str, **changed: Any) -> Record:
    """Put a record into a folder; `changed` names settings, or fields of the record."""
    plain = made("head", "rte", 0, 0.001, 0.5).model_dump(mode="json")
    plain |= {"id": identity, "seconds": 2.0, "best_epoch": 2, "versions": {"torch": "2"}}
    for name, value in changed.items():
        (plain["config"] if name in plain["config"] else plain)[name] = value
    record = Record.model_validate(plain)
    record.save(folder / f"{identity}.json")
    return record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "runs", "a1", score=0.5)
    write(tmp_path / "runs", "a2", seed=1, score=0.75, rate=3e-05, method="layernorm[1]")
    write(tmp_path / "runs", "b1", task="cola", status="failed", score=None, error="it diverged")
    return tmp_path


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in found]


def lines(text: str) -> list[list[str]]:
    """The cells of a table for people, without its head."""
    found = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return found[next(place for place, line in enumerate(found) if "─" in line[0]) + 1 :]


def test_a_row_says_what_the_record_says(tmp_path):
    write(tmp_path, "a", rate=0.1, seed=3)
    told = ["a", "done", "rte", "head", 0.1, 3, "small", "m", "accuracy", 0.5, 2, 12, 2.0, None]
    assert rows(tmp_path) == [dict(zip(COLUMNS, told, strict=True))]


@pytest.mark.parametrize("inside", ["intents", "rte/head/seed-3"])
def test_the_runs_of_trainings_in_folders_of_their_own_are_found(tmp_path, inside):
    write(tmp_path, "a", rate=0.1, seed=3)
    (tmp_path / "out" / inside).mkdir(parents=True)
    (tmp_path / "a.json").rename(tmp_path / "out" / inside / "record.json")
    assert [row["seed"] for row in rows(tmp_path / "out")] == [3]


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no folder of records"):
        rows(tmp_path / "nothing")
    with pytest.raises(DataError, match="no records"):
        rows(tmp_path)
    for text in ("[]", "{", '{"config": 3}', '{"id": "a", "status": "done", "config": {}}'):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"a\.json is damaged"):
            rows(tmp_path)


def test_rows_are_selected(folder):
    found = rows(folder)
    assert ids(select(found, {})) == ["a1", "a2", "b1"]
    assert ids(select(found, {"task": "rte"})) == ["a1", "a2"]
    assert ids(select(found, {"rate": 3e-5 * (1 + 1e-12), "seed": 1})) == ["a2"]
    with pytest.raises(UnknownNameError, match=r"Unknown task 'rtf'\. Did you mean 'rte'\? Known: cola, rte\."):
        select(found, {"task": "rtf"})
    with pytest.raises(DataError, match=r"No such record has the rate 0\.5; there are 3e-05, 0\.001\."):
        select(found, {"rate": 0.5})
    with pytest.raises(DataError, match="No such record has the seed 1; there are 0"):
        select(found, {"task": "cola", "seed": 1})


def test_rows_are_ordered_with_missing_values_last(folder):
    found = rows(folder)
    assert ids(ordered(found, "score")) == ["a1", "a2", "b1"]
    assert ids(ordered(found, "score", descending=True)) == ["a2", "a1", "b1"]
    with pytest.raises(UnknownNameError, match="Did you mean 'score'"):
        ordered(found, "scor")


def test_two_records_are_compared(tmp_path):
    first = write(tmp_path, "a1", versions={"torch": "2"})
    second = write(tmp_path, "a2", seed=1, score=0.75, versions={"torch": "3", "numpy": "2"}, steps=0)
    assert [tuple(row.values()) for row in differences(first, second)] == [
        ("configuration", "config.seed", 0, 1),
        ("machine", "versions.torch", "2", "3"),
        ("machine", "versions.numpy", None, "2"),
        ("outcome", "score", 0.5, 0.75),
    ]
    assert differences(first, first.model_copy(update={"id": "other"})) == []
    assert by_id([first, second], "a2") is second
    short = first.model_copy(update={"id": "a"})
    assert by_id([short, first], "a") is short
    for start, message in (("a", "ids of 2 records"), ("c", "No record"), ("", "No record")):
        with pytest.raises(DataError, match=message):
            by_id([first, second], start)


def test_a_reader_sees_short_numbers_and_whole_names(cli: Run, folder):
    status, text, error = cli("runs", folder, "--sort", "score", "--descending")
    assert (status, error) == (0, "")
    assert lines(text) == [
        ["a2", "done", "rte", "layernorm[1]", "3e-05", "1", "0.7500"],
        ["a1", "done", "rte", "head", "0.001", "0", "0.5000"],
        ["b1", "failed", "cola", "head", "0.001", "0"],
    ]
    write(folder / "runs", "c1", model="other")
    assert "other" in cli("runs", folder)[1]


def test_programs_read_csv_and_json(cli: Run, folder):
    status, text, _ = cli("runs", folder, "--status", "done", "--csv")
    read = list(csv.DictReader(io.StringIO(text)))
    assert (status, [(row["id"], float(row["rate"]), row["error"]) for row in read]) == (
        0,
        [("a1", 0.001, ""), ("a2", 3e-05, "")],
    )
    assert json.loads(cli("runs", folder, "--model", "m", "--rate", "0.00003", "--json")[1]) == [rows(folder)[1]]


def test_the_command_compares(cli: Run, folder):
    status, text, _ = cli("runs", folder, "--compare", "a1", "a2")
    assert status == 0
    assert ["configuration", "config.rate", "0.001", "3e-05"] in lines(text)
    assert ["outcome", "score", "0.5", "0.75"] in lines(text)
    same = {"kind": "configuration", "field": "config.seed", "first": 0, "second": 1}
    assert same in json.loads(cli("runs", folder, "--compare", "a1", "a2", "--json")[1])
    assert "differ in no setting" in cli("runs", folder, "--compare", "a1", "a1")[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "heat"], "Did you mean 'head'?"),
        (["--status", "don"], "Did you mean 'done'? Known: done, failed."),
        (["--json", "--csv"], "Choose one"),
        (["--descending"], "needs --sort"),
        (["--compare", "a1", "a2", "--seed", "0"], "shows nothing else: leave out --seed."),
        (["--compare", "a1", "zz"], "starts with 'zz'"),
    ],
)
def test_bad_input_is_one_sentence(cli: Run, folder, options, said):
    status, text, error = cli("runs", folder, *options)
    assert (status, text) == (1, "")
    assert said in " ".join(error.split())
    assert "Traceback" not in error


def test_the_table_is_read_without_torch(folder):
    code = "import sys; from pathlib import Path; from normtune.records.database import rows; rows(Path(sys.argv[1]))"
    code += "; assert not {'torch', 'pandas', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_a_table_of_real_records_fits_eighty_columns(cli: Run, monkeypatch):
    records = Path(__file__).parents[2] / "results" / "runs"
    monkeypatch.setattr(console, "_width", 80)
    status, text, _ = cli("runs", records)
    assert status == 0
    shown, known = lines(text), rows(records)
    assert len(known) == len(load_runs(records.parent))
    # One line per run; nothing is wrapped or cut off but the ids, whose starts are unique.
    assert len(shown) == len(known) == len({line[0] for line in shown})
    for line, row in zip(shown, known, strict=True):
        assert row["id"].startswith(line[0])
        assert line[1:5] == [row["status"], row["task"], row["method"], f"{row['rate']:g}"]
    assert cli("runs", records, "--compare", shown[0][0], shown[1][0])[0] == 0


@pytest.mark.parametrize(
    ("given", "task"), [("STS-B", "stsb"), ("sts_b", "stsb"), ("RTE", "rte"), ("My Intents", "my-intents")]
)
def test_tasks_are_found_in_any_spelling(cli: Run, tmp_path, given, task):
    for number, name in enumerate(("stsb", "rte", "my-intents")):
        write(tmp_path, f"a{number}", task=name)
    status, text, error = cli("runs", tmp_path, "--task", given, "--json")
    assert status == 0, error
    assert [row["task"] for row in json.loads(text)] == [task]
    status, text, error = cli("runs", tmp_path, "--task", "STS-C")
    assert (status, text) == (1, "")
    assert "Unknown task 'STS-C'. Did you mean" in error or "Unknown task 'STS-C'. Known:" in error
