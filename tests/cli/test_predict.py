"""``normtune predict``: what becomes of a file's columns, where answers go, and how the base is found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.models.base import Base
from tests.deltas.banked import FIVE, changed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def delta(tiny_base: Base, tmp_path: Path) -> Path:
    """The folder of a delta whose texts are in the column `body`."""
    return changed(tiny_base, "layernorm", columns=("body", "label")).save(tmp_path / "d").parent


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text("id,body,label,who\n007,the cat,yes,\n8,a dog,no,me\n")
    return tmp_path / "t.csv"


def test_the_other_columns_are_kept(cli: Run, delta: Path, table: Path) -> None:
    status, text, error = cli("predict", delta, "--file", table, "--device", "cpu")
    assert status == 0, error
    rows = [*csv.DictReader(io.StringIO(text))]
    assert [*rows[0]] == ["text", "id", "label (file)", "who", "label", "p(no)", "p(yes)"]
    assert [(row["id"], row["text"], row["label (file)"], row["who"]) for row in rows] == [
        ("007", "the cat", "yes", ""),
        ("8", "a dog", "no", "me"),
    ]
    assert {row["label"] for row in rows} <= {"no", "yes"}


def test_the_other_columns_of_jsonl_are_kept_too(cli: Run, delta: Path, tmp_path: Path) -> None:
    lines = [{"body": "the cat", "of": {"id": 7}, "tags": ["a"]}, {"body": "a dog", "note": "x"}]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    status, text, error = cli("predict", delta, "--file", tmp_path / "t.jsonl", "--json", "--device", "cpu")
    assert status == 0, error
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert (first["of.id"], first["tags"], first["note"]) == ("7", ["a"], None)
    assert (second["of.id"], second["tags"], second["note"]) == (None, None, "x")


def test_rows_with_tasks_keep_their_other_columns(cli: Run, delta: Path, tiny_base: Base, tmp_path: Path) -> None:
    changed(tiny_base, "layernorm", FIVE, 1).save(tmp_path / "e")
    (tmp_path / "t.csv").write_text("task,body,text,id\nd,the cat,,1\ne,,a dog,2\n")
    status, text, error = cli("predict", delta, tmp_path / "e", "--file", tmp_path / "t.csv", "--task-column", "task")
    assert status == 0, error
    rows = [*csv.DictReader(io.StringIO(text))]
    assert [(row["text"], row["id"], row["task"]) for row in rows] == [("the cat", "1", "d"), ("a dog", "2", "e")]


@pytest.mark.parametrize("ending", [".CSV", ".Tsv", ".JSONL"])
def test_endings_in_capitals(cli: Run, delta: Path, table: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"a{ending}"
    status, text, error = cli("predict", delta, "--file", table, "--out", out)
    assert (status, text) == (0, ""), error
    lines = out.read_text().splitlines()
    assert len(lines) == (2 if ending == ".JSONL" else 3)


def test_a_dash_is_standard_output_and_no_file(
    cli: Run, delta: Path, table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = cli("predict", delta, "--file", table)
    assert cli("predict", delta, "--file", table, "--out", "-") == plain
    assert not (tmp_path / "-").exists()


def test_an_out_without_an_ending_is_refused_before_anything_is_answered(cli: Run, table: Path, tmp_path: Path) -> None:
    for more in ((), ("--task-column", "id")):
        status, text, error = cli("predict", "nowhere", "--file", table, "--out", tmp_path / "answers", *more)
        assert (status, text) == (1, "")
        assert "--out writes .csv, .tsv or .jsonl; got 'answers'." in error


def test_the_dtype_is_that_of_the_base(cli: Run, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normtune.models import base

    loaded: list[str] = []
    real = base.load_base
    monkeypatch.setattr(base, "load_base", lambda *a, **k: loaded.append(k["dtype"]) or real(*a, **k))
    texts = [cli("predict", delta, "--text", "the cat", "--dtype", dtype)[1] for dtype in ("float32", "bfloat16")]
    assert loaded == ["float32", "bfloat16"]
    assert [text.split()[0] for text in texts] == [texts[0].split()[0]] * 2
    status, _, error = cli("predict", delta, "--text", "the cat", "--dtype", "int8")
    assert (status, "Unknown dtype 'int8'. Known: bfloat16, float16, float32." in error) == (1, True)


def test_a_base_that_is_not_found_may_be_elsewhere_now(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normtune.models.base import load_base

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    changed(load_base("models/mine"), "layernorm").save(tmp_path / "d")
    assert cli("predict", tmp_path / "d", "--text", "a cat")[0] == 0
    monkeypatch.chdir(tmp_path / "d")
    status, _, error = cli("predict", tmp_path / "d", "--text", "a cat")
    assert status == 1
    assert "The delta was trained on 'models/mine'; --model says where that is now." in error
    assert cli("predict", tmp_path / "d", "--text", "a cat", "--model", tiny_folder)[0] == 0
    status, _, error = cli("predict", tmp_path / "d", "--text", "a cat", "--model", "../models/yours")
    assert (status, "says where" in error) == (1, False)


def test_a_folder_of_deltas_that_is_not_there(cli: Run, table: Path) -> None:
    status, _, error = cli("predict", "rnus", "--file", table, "--task-column", "id")
    assert (status, "There is no delta at rnus." in error) == (1, True)
