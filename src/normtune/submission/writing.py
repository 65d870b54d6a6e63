"""A submission on disk: the zip for the server, and beside it the record and a page for people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from normtune.errors import ConfigError, DataError, OutputError
from normtune.files import write_atomically
from normtune.records.submission import Answered, SubmissionRecord
from normtune.submission.answering import Answers
from normtune.submission.files import content, pack
from normtune.submission.scores import read_scores
from normtune.versions import versions


@dataclass(frozen=True)
class Place:
    """Where the files of a submission lie: all in one folder, under one name.

    Attributes:
        archive: The zip.

    Raises:
        ConfigError: If its name does not end in ``.zip``.
    """

    archive: Path

    def __post_init__(self) -> None:
        if self.archive.suffix != ".zip":
            raise ConfigError(f"A submission is a .zip; got {self.archive.name!r}.")

    @property
    def record(self) -> Path:
        """Its record: ``submission.json`` beside ``submission.zip``."""
        return self.archive.with_suffix(".json")

    @property
    def page(self) -> Path:
        """What is in it, for people; not in the zip, which holds nothing but answers."""
        return self.archive.with_suffix(".md")

    def claim(self) -> None:
        """Check that nothing is in the way.

        Raises:
            OutputError: If one of the files exists.
        """
        for path in (self.archive, self.record, self.page):
            if path.exists():
                raise OutputError(f"{path} exists already; choose another place or remove it first.")


def write_submission(place: Place, answers: Sequence[Answers], problems: Sequence[str]) -> SubmissionRecord:
    """Write a submission with its record and page, all or nothing.

    Args:
        place: Where to.
        answers: The answers of each file.
        problems: Why the server would not take it.

    Returns:
        The record.

    Raises:
        OutputError: If something is in the way, or cannot be written.
    """
    place.claim()
    contents = {one.part.file.name: content(one.part.file, one.values) for one in answers}
    packed = pack(contents)
    record = SubmissionRecord(
        file=place.archive.name,
        sha256=hashlib.sha256(packed).hexdigest(),
        made=_now(),
        problems=tuple(problems),
        answers=tuple(_answered(one, contents[one.part.file.name]) for one in answers),
        versions=versions(),
    )
    try:
        record.save(place.record)
        write_atomically(place.page, page(record))
        write_atomically(place.archive, packed)
    except BaseException:
        for path in (place.archive, place.page, place.record):
            path.unlink(missing_ok=True)
        raise
    return record


def record_scores(place: Place, reply: Path) -> SubmissionRecord:
    """Put the server's reply into the record of a submission.

    Args:
        place: The submission.
        reply: The file with the scores.

    Returns:
        The record, as it is now on disk.

    Raises:
        DataError: If there is no record, the zip is not the one that it describes, or the scores cannot be true.
    """
    record = SubmissionRecord.load(place.record)
    if place.archive.is_file() and hashlib.sha256(place.archive.read_bytes()).hexdigest() != record.sha256:
        raise DataError(f"{place.archive} was changed since {place.record} was written; the scores may not be its own.")
    scored = record.with_scores(*read_scores(reply), _now())
    scored.save(place.record)
    return scored


def page(record: SubmissionRecord) -> str:
    """What is in a submission, in Markdown."""
    lines = [
        f"# {record.file}",
        "",
        f"Made by normtune on {record.made}; its record is {Path(record.file).stem}.json.",
        "",
    ]
    if record.problems:
        lines += [f"**A trial: the GLUE server will not take it**, since {'; '.join(record.problems)}.", ""]
    else:
        lines += ["All eleven files that the GLUE server takes.", ""]
    lines += ["| file | rows | answered by | dev | remark |", "| --- | ---: | --- | --- | --- |"]
    lines += [f"| {' | '.join(cells(answered))} |" for answered in record.answers]
    return "\n".join(lines) + "\n"


def cells(answered: Answered) -> tuple[str, str, str, str, str]:
    """A file for a table: name, rows, who answered, the score on dev, and the remark."""
    source = answered.source
    rows = f"{answered.rows:,}" if answered.rows == answered.wanted else f"{answered.rows:,} of {answered.wanted:,}"
    who = "" if source is None else f"{source.path} ({source.method or 'no method named'})"
    dev = "" if source is None or source.dev is None else f"{source.metric} {source.dev:.4f}, seed {source.seed}"
    return answered.file, rows, who, dev, answered.remark


def _answered(answers: Answers, text: str) -> Answered:
    file, choice = answers.part.file, answers.part.choice
    return Answered(
        file=file.name,
        rows=len(answers.values),
        wanted=file.rows,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        texts=answers.texts,
        truncated=answers.truncated,
        source=None if choice is None else choice.source,
        remark=file.remark,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
