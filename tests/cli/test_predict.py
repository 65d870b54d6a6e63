"""``normtune predict``: how a file's columns are used, where answers go, and how the base is found."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
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


def test_a_file_of_answers_is_answered_without_losing_a_column(cli: Run, delta: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("body,label (file),label,p(no)\nthe cat,yes,no,0.25\n")
    status, text, error = cli("predict", delta, "--file", tmp_path / "t.csv", "--device", "cpu")
    assert status == 0, error
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["label (file)"], row["label (file) (file)"], row["p(no) (file)"]) == ("yes", "no", "0.25")


def test_the_other_columns_of_jsonl_are_kept_too(cli: Run, delta: Path, tmp_path: Path) -> None:
    lines = [{"body": "the cat", "of": {"id": 7}, "tags": ["a", 0.5]}, {"body": "a dog", "note": "x"}]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    status, text, error = cli("predict", delta, "--file", tmp_path / "t.jsonl", "--json", "--device", "cpu")
    assert status == 0, error
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert (first["of.id"], first["tags"], first["note"]) == (7, ["a", 0.5], None)
    assert (second["of.id"], second["tags"], second["note"]) == (None, None, "x")


def test_rows_with_tasks_keep_their_other_columns(cli: Run, delta: Path, tiny_base: Base, tmp_path: Path) -> None:
    changed(tiny_base, "layernorm", FIVE, 1).save(tmp_path / "e")
    (tmp_path / "t.csv").write_text("task,body,text,id\nd,the cat,,1\ne,,a dog,2\n")
    status, text, error = cli("predict", delta, tmp_path / "e", "--file", tmp_path / "t.csv", "--task-column", "task")
    assert status == 0, error
    rows = [*csv.DictReader(io.StringIO(text))]
    assert [(row["text"], row["id"], row["task"]) for row in rows] == [("the cat", "1", "d"), ("a dog", "2", "e")]


def test_small_numbers_are_no_zeros(cli: Run, tiny_base: Base, tmp_path: Path) -> None:
    number = changed(tiny_base, "layernorm", HeadSpec("regression"), scale=1e-8).save(tmp_path / "n").parent
    (tmp_path / "t.csv").write_text("text\nthe cat\n")
    values = []
    for ending in (".csv", ".jsonl"):
        status, _, error = cli("predict", number, "--file", tmp_path / "t.csv", "--out", tmp_path / f"a{ending}")
        assert status == 0, error
        lines = (tmp_path / f"a{ending}").read_text().splitlines()
        values.append(
            float(next(csv.DictReader(lines))["value"] if ending == ".csv" else json.loads(lines[0])["value"])
        )
    assert 0 < abs(values[1]) < 1e-6
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    status, text, _ = cli("predict", number, "--text", "the cat")
    assert float(text) == pytest.approx(values[1], rel=1e-3)


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
    status, _, error = cli("predict", delta, "--text", "the cat", "--dtype", "fp8")
    assert (status, "Unknown dtype 'fp8'. Known: bfloat16, float16, float32, int8, nf4." in error) == (1, True)


def test_a_base_that_is_not_found_may_be_elsewhere_now(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    changed(load_base("models/mine"), "layernorm").save(tmp_path / "runs" / "d")
    answer = cli("predict", "runs/d", "--text", "a cat")
    assert answer[0] == 0
    # From another folder, the base is found relative to where the delta was made (above it), or beside the delta.
    (tmp_path / "other" / "models" / "mine").mkdir(parents=True)  # no model, though it is called so
    monkeypatch.chdir(tmp_path / "other")
    assert cli("predict", "../runs/d", "--text", "a cat") == answer
    monkeypatch.chdir("/")
    assert cli("predict", tmp_path / "runs" / "d" / "delta.safetensors", "--text", "a cat") == answer
    (tmp_path / "models").rename(tmp_path / "runs" / "models")
    assert cli("predict", tmp_path / "runs" / "d", "--text", "a cat") == answer
    (tmp_path / "runs" / "models").rename(tmp_path / "elsewhere")
    status, _, error = cli("predict", tmp_path / "runs" / "d", "--text", "a cat")
    assert status == 1
    assert "The delta was trained on 'models/mine'; --model says where that is now." in error
    assert cli("predict", tmp_path / "runs" / "d", "--text", "a cat", "--model", tiny_folder) == answer
    status, _, error = cli("predict", tmp_path / "runs" / "d", "--text", "a cat", "--model", "../models/yours")
    assert (status, "says where" in error) == (1, False)


def test_another_base_above_the_delta_is_not_taken_for_its_own(
    cli: Run, tiny_base: Base, make_folder: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    delta = changed(tiny_base, "layernorm")
    replace(delta, info=delta.info.model_copy(update={"base": "models/mine"})).save(tmp_path / "runs" / "d")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(make_folder(make_model("bert", seed=5).base_model))
    status, _, error = cli("predict", tmp_path / "runs" / "d", "--text", "a cat")
    assert (status, "This delta belongs to the base model" in error) == (1, True)


def test_a_row_with_a_token_that_the_model_does_not_have_is_named(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder))
    base.need_tokenizer().add_tokens(["ticketid"])
    shutil.copytree(tiny_folder, tmp_path / "m")
    base.need_tokenizer().save_pretrained(tmp_path / "m")
    odd, table = load_base(str(tmp_path / "m")), tmp_path / "t.csv"
    changed(odd, "layernorm").save(tmp_path / "a")
    changed(odd, "layernorm", FIVE).save(tmp_path / "b")
    table.write_text("task,text,label\na,one cat,x\nb,a dog,y\n\na,my ticketid,x\nb,a bird,y\na,a book,x\n")
    said = f"{table}, line 5 has the token 'ticketid'"
    train = ("train", "--train", table, "--model", tmp_path / "m", "--out", tmp_path / "o", "--protocol", "own")
    calls = (
        ("predict", tmp_path / "a", "--file", table),
        ("predict", tmp_path / "a", tmp_path / "b", "--file", table, "--task-column", "task"),
        train,
    )
    for call in calls:
        status, _, error = cli(*call, "--device", "cpu")
        assert (status, said in error) == (1, True), error


def test_a_folder_of_deltas_that_is_not_there(cli: Run, table: Path) -> None:
    status, _, error = cli("predict", "rnus", "--file", table, "--task-column", "id")
    assert (status, "There is no delta at rnus." in error) == (1, True)
