from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from normtune.errors import ConfigError, DataError, OutputError
from normtune.records.submission import SubmissionRecord
from normtune.submission import writing
from normtune.submission.answering import Answers, Part
from normtune.submission.files import FILES
from normtune.submission.writing import Place, record_scores, write_submission
from tests.submission.suite import read_zip

WNLI = next(file for file in FILES if file.title == "WNLI")


@pytest.fixture
def answers() -> list[Answers]:
    return [Answers(Part(WNLI, None, 146), np.zeros(146, dtype=np.int64))]


def test_written_and_read_again(answers: list[Answers], tmp_path: Path) -> None:
    place = Place(tmp_path / "new" / "glue.zip")
    record = write_submission(place, answers, ["there is no delta of RTE"])
    assert sorted(path.name for path in place.archive.parent.iterdir()) == ["glue.json", "glue.md", "glue.zip"]
    assert SubmissionRecord.load(place.record) == record
    assert record.sha256 == hashlib.sha256(place.archive.read_bytes()).hexdigest()
    assert read_zip(place.archive) == {"WNLI.tsv": ["0"] * 146}
    [wnli] = record.answers
    assert (wnli.title, wnli.rows, wnli.wanted, wnli.source) == ("WNLI", 146, 146, None)
    assert "majority class" in place.page.read_text()
    assert "there is no delta of RTE" in place.page.read_text()


@pytest.mark.parametrize("name", ["glue.zip", "glue.json", "glue.md"])
def test_what_is_there_is_left_alone(answers: list[Answers], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name} exists already"):
        write_submission(Place(tmp_path / "glue.zip"), answers, [])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_half_written(answers: list[Answers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes | str) -> None:
        path.write_bytes(b"half")
        raise OutputError("no space")

    monkeypatch.setattr(writing, "write_atomically", full)
    with pytest.raises(OutputError, match="no space"):
        write_submission(Place(tmp_path / "glue.zip"), answers, [])
    assert not list(tmp_path.iterdir())


def test_only_a_zip() -> None:
    with pytest.raises(ConfigError, match=r"A submission is a \.zip"):
        Place(Path("glue.tar"))


def test_the_reply_is_recorded_and_replaced(answers: list[Answers], tmp_path: Path) -> None:
    place, reply = Place(tmp_path / "glue.zip"), tmp_path / "reply.csv"
    made = write_submission(place, answers, [])
    reply.write_text("WNLI,65.1\nscore,80.5\n")
    scored = record_scores(place, reply)
    assert SubmissionRecord.load(place.record) == scored
    assert (scored.scores, scored.overall) == ({"WNLI": {"accuracy": 0.651}}, 0.805)
    assert scored.scored is not None
    assert scored.model_copy(update={"scores": {}, "overall": None, "scored": None}) == made
    reply.write_text("WNLI,66.1\n")
    assert (record_scores(place, reply).scores, record_scores(place, reply).overall) == (
        {"WNLI": {"accuracy": 0.661}},
        None,
    )


def test_a_reply_to_something_else_is_refused(answers: list[Answers], tmp_path: Path) -> None:
    place, reply = Place(tmp_path / "glue.zip"), tmp_path / "reply.csv"
    reply.write_text("RTE,70.1\n")
    with pytest.raises(DataError, match="There is no record of a submission at"):
        record_scores(place, reply)
    write_submission(place, answers, [])
    with pytest.raises(DataError, match=r"glue\.zip holds no RTE, so that cannot have been scored"):
        record_scores(place, reply)
    place.archive.write_bytes(b"other")
    with pytest.raises(DataError, match="was changed since"):
        record_scores(place, reply)
    place.record.write_text('{"file": "x"}')
    with pytest.raises(DataError, match="is damaged"):
        record_scores(place, reply)
