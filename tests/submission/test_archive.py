from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from normtune.errors import ConfigError, DataError, OutputError
from normtune.models.base import Base
from normtune.records.submission import Answered, SubmissionRecord
from normtune.submission.answers import answer, plan
from normtune.submission.archive import add_reply, claim, read_reply, write
from tests.submission.suite import read_zip

SCORES = {
    "CoLA": {"matthews": 0.605},
    "MRPC": {"f1": 0.893, "accuracy": 0.854},
    "STS-B": {"pearson": 0.876, "spearman": 0.865},
    "MNLI-mm": {"accuracy": 0.859},
    "AX": {"matthews": -0.005},
}
Answers = list[tuple[Answered, str]]


def no_base(_: object) -> Base:
    raise AssertionError("nothing needs a model")


@pytest.fixture
def answers() -> Answers:
    """WNLI's majority class, which needs no delta."""
    return answer(plan({}, None)[0], None, no_base)


def test_written_and_read_again(answers: Answers, tmp_path: Path) -> None:
    place = tmp_path / "new" / "glue.zip"
    record = write(place, answers, ["there is no delta of RTE"])
    assert sorted(path.name for path in place.parent.iterdir()) == ["glue.json", "glue.zip"]
    assert SubmissionRecord.load(place.with_suffix(".json")) == record
    assert record.problems == ("there is no delta of RTE",)
    assert record.sha256 == hashlib.sha256(place.read_bytes()).hexdigest()
    assert read_zip(place) == {"WNLI.tsv": ["0"] * 146}
    [wnli] = record.answers
    assert (wnli.title, wnli.rows, wnli.wanted, wnli.source) == ("WNLI", 146, 146, None)
    assert "majority class" in wnli.remark


@pytest.mark.parametrize("name", ["glue.zip", "glue.json"])
def test_what_is_there_is_left_alone(answers: Answers, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name} exists already"):
        write(tmp_path / "glue.zip", answers, [])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_half_written(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(SubmissionRecord, "save", full)
    with pytest.raises(OutputError, match="no space"):
        write(tmp_path / "glue.zip", answers, [])
    assert not list(tmp_path.iterdir())


def test_only_a_zip() -> None:
    with pytest.raises(ConfigError, match=r"A submission is a \.zip"):
        claim(Path("glue.tar"))


def test_the_reply_is_recorded_and_replaced(answers: Answers, tmp_path: Path) -> None:
    place, reply = tmp_path / "glue.zip", tmp_path / "reply.csv"
    made = write(place, answers, [])
    reply.write_text("task,score\nWNLI,65.1\noverall,80.5\n")
    scored = add_reply(place, reply)
    assert SubmissionRecord.load(place.with_suffix(".json")) == scored
    assert (scored.scores, scored.overall) == ({"WNLI": {"accuracy": 0.651}}, 0.805)
    assert scored.scored is not None
    assert scored.model_copy(update={"scores": {}, "overall": None, "scored": None}) == made
    reply.write_text("task,score\nWNLI,66.1\n")
    assert (add_reply(place, reply).scores, add_reply(place, reply).overall) == (
        {"WNLI": {"accuracy": 0.661}},
        None,
    )


def test_a_reply_to_something_else_is_refused(answers: Answers, tmp_path: Path) -> None:
    place, reply = tmp_path / "glue.zip", tmp_path / "reply.csv"
    reply.write_text("task,score\nRTE,70.1\n")
    with pytest.raises(DataError, match="There is no record of a submission at"):
        add_reply(place, reply)
    write(place, answers, [])
    with pytest.raises(DataError, match=r"glue\.zip holds no RTE, so that cannot have been scored"):
        add_reply(place, reply)
    place.write_bytes(b"other")
    with pytest.raises(DataError, match="was changed since"):
        add_reply(place, reply)
    place.with_suffix(".json").write_text('{"file": "x"}')
    with pytest.raises(DataError, match="is damaged"):
        add_reply(place, reply)


def reply(folder: Path, text: str) -> Path:
    path = folder / "reply.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "task,score\nCoLA,60.5\nMRPC,89.3/85.4\nSTS-B,87.6/86.5\nMNLI-mm,85.9\nAX,-0.5\noverall,80.5\n",
        "\ufefftask,score\r\ncola,60.5\r\n"
        "mrpc,89.3 / 85.4\r\n\r\nSTSB,87.6/86.5\r\nmnli_mm,85.9\r\nax,-0.5\noverall,80.5",
    ],
)
def test_a_reply(tmp_path: Path, text: str) -> None:
    assert read_reply(reply(tmp_path, text)) == (SCORES, 0.805)
    assert read_reply(reply(tmp_path, "task,score\nRTE,70.1")) == ({"RTE": {"accuracy": 0.701}}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CoLA,60.5\nCola,61", "CoLA must be there once"),
        ("CoLA,sixty", "CoLA must be there once, with matthews from -100 to 100; got 'sixty'"),
        ("RTE,nan", "got 'nan'"),
        ("RTE,700", "got '700'"),
        ("SST-2,-50", "SST-2 must be there once, with accuracy from 0 to 100; got '-50'"),
        ("CoLA,-101", "with matthews from -100 to 100"),
        ("MRPC,88", "with f1/accuracy from 0 to 100; got '88'"),
        ("RTE,88/87", "with accuracy from 0 to 100; got '88/87'"),
        ("RTF,70", "Did you mean 'RTE'"),
        ("RTE,accuracy,70", "line 2: "),
        ("RTE,0.7\nCoLA,0.6", "no score above 1"),
    ],
)
def test_a_reply_that_cannot_be_true_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_reply(reply(tmp_path, f"task,score\n{text}\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_reply(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no column 'task'"):
        read_reply(reply(tmp_path, "RTE,70.1\nCoLA,50.1\n"))
