"""``normtune predict`` over a file whose rows name their task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from normtune.models.base import Base
from tests.deltas.banked import FIVE, NUMBER, TEXTS, TWO, alone, changed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tiny_base: Base, tmp_path: Path) -> Path:
    """Three deltas: two of vectors, one of which reads pairs, and a whole model."""
    changed(tiny_base, "layernorm", FIVE, 1).save(tmp_path / "runs" / "letters")
    changed(tiny_base, "bitfit", NUMBER, 2, pair=True, center=2.0).save(tmp_path / "runs" / "number")
    changed(tiny_base, "full", TWO, 3, columns=("body", "", "intent")).save(tmp_path / "runs" / "whole.safetensors")
    return tmp_path / "runs"


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_row_is_answered_by_its_own_delta(cli: Run, folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    rows = [
        {"text": TEXTS[0], "body": "", "text_pair": "", "task": "letters"},
        {"text": TEXTS[1], "body": "", "text_pair": TEXTS[2], "task": "number"},
        {"text": "", "body": TEXTS[3], "text_pair": "", "task": "whole"},
        {"text": TEXTS[2], "body": "", "text_pair": "", "task": "letters"},
    ]
    source = table(tmp_path / "rows.csv", rows)
    status, text, error = cli("predict", folder, "--file", source, "--task-column", "task", "--device", "cpu")
    assert status == 0
    assert "run in batches of their own: whole." in error
    answers = list(csv.DictReader(io.StringIO(text)))
    assert [answer["task"] for answer in answers] == [row["task"] for row in rows]
    outputs = alone(tiny_base, changed(tiny_base, "layernorm", FIVE, 1), TEXTS[0])
    assert answers[0]["label"] == FIVE.labels[outputs.argmax()]
    assert float(answers[0]["probability"]) == pytest.approx(softmax(outputs).max(), abs=1e-5)
    pair = (TEXTS[1], TEXTS[2])
    number = alone(tiny_base, changed(tiny_base, "bitfit", NUMBER, 2, pair=True), pair)[0] + 2.0
    assert float(answers[1]["value"]) == pytest.approx(number, abs=1e-4)
    assert (answers[1]["label"], answers[1]["text_pair"]) == ("", TEXTS[2])
    assert answers[2]["label"] == TWO.labels[np.argmax(alone(tiny_base, changed(tiny_base, "full", TWO, 3), TEXTS[3]))]


def test_a_column_that_only_some_deltas_read_is_kept(cli: Run, folder: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "body": "a note", "task": "letters"}, {"text": "", "body": TEXTS[3], "task": "whole"}]
    source = table(tmp_path / "rows.csv", rows)
    status, text, error = cli("predict", folder, "--file", source, "--task-column", "task", "--device", "cpu")
    assert status == 0, error
    answers = list(csv.DictReader(io.StringIO(text)))
    assert [(answer["text"], answer["body"]) for answer in answers] == [(TEXTS[0], "a note"), (TEXTS[3], TEXTS[3])]


def test_other_columns_of_json_come_back_as_json(cli: Run, folder: Path, tmp_path: Path) -> None:
    long = "1" * 5000
    row = '{"text": "a cat", "tags": [1, 2.5, "x", null, true], "ok": true, "n": 1.10, "long": ' + long + "}"
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    call = ("predict", folder / "letters", "--file", tmp_path / "rows.jsonl", "--device", "cpu")
    status, text, error = cli(*call)
    assert status == 0, error
    (answer,) = csv.DictReader(io.StringIO(text))
    assert (answer["tags"], answer["ok"], answer["n"]) == ('[1, 2.5, "x", null, true]', "true", "1.10")
    status, text, error = cli(*call, "--json")
    assert status == 0, error
    answer = json.loads(text)
    assert (answer["tags"], answer["ok"], answer["n"]) == ([1, 2.5, "x", None, True], True, 1.1)
    assert answer["long"] == long


def test_json_and_names_of_ones_own(cli: Run, folder: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "rows.csv", [{"text": TEXTS[0], "of": "x"}, {"text": TEXTS[1], "of": "letters"}])
    more = ["--file", source, "--task-column", "of", "--out", tmp_path / "answers.jsonl"]
    status, _, _ = cli("predict", f"x={folder / 'letters'}", folder / "letters" / "delta.safetensors", *more)
    assert status == 0
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["task"] for answer in answers] == ["x", "letters"]
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)


def test_what_does_not_fit_is_said_in_one_sentence(cli: Run, folder: Path, tmp_path: Path) -> None:
    known = table(tmp_path / "known.csv", [{"text": TEXTS[0], "task": "letters"}])
    unknown = table(tmp_path / "unknown.csv", [{"text": TEXTS[0], "task": "letters"}, {"text": "a", "task": "leters"}])
    empty = table(tmp_path / "empty.csv", [{"text": " ", "task": "letters"}])
    other = folder.parent / "other" / "letters"
    other.mkdir(parents=True)
    (other / "delta.safetensors").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    column = ["--task-column", "task"]
    for options, message in (
        ([folder, "--file", unknown, *column], "line 3: Unknown task 'leters'. Did you mean 'letters'?"),
        ([folder, "--file", empty, *column], "line 2: a text is empty; --read skip-bad-rows leaves such rows out."),
        ([folder, "--file", known, "--task-column", "tusk"], "no column 'tusk'. Did you mean 'task'?"),
        ([folder / "letters", folder / "number", "--file", known], "With several deltas --task-column must say"),
        ([folder, "--text", "a", *column], "A text has no column: leave out --task-column."),
        ([folder, other, "--file", known, *column], "Two deltas are called 'letters'"),
        ([tmp_path / "nothing", "--file", known, *column], "There is no delta in the folder"),
        ([other, "--file", known, *column], "truncated or corrupt"),
    ):
        status, text, error = cli("predict", *options)
        assert (status, text) == (1, ""), options
        assert message in error
