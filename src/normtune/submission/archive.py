"""A submission on disk: the zip for the server, its record, a page for people, and the server's reply."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from normtune.data.task import plain
from normtune.errors import ConfigError, DataError, OutputError, UnknownNameError
from normtune.files import write_atomically
from normtune.records.submission import Answered, SubmissionRecord
from normtune.submission.files import FILES, pack
from normtune.versions import versions

_OVERALL = "overall"
#: Title and metrics by the name of a task in a reply.
_METRICS = {plain(file.title): (file.title, file.metrics) for file in FILES} | {_OVERALL: (_OVERALL, (_OVERALL,))}


@dataclass(frozen=True)
class Archive:
    """Where a submission is: its files lie beside each other.

    Attributes:
        path: The zip.

    Raises:
        ConfigError: If its name does not end in ``.zip``.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix != ".zip":
            raise ConfigError(f"A submission is a .zip; got {self.path.name!r}.")

    @property
    def record(self) -> Path:
        """Its record: ``submission.json`` beside ``submission.zip``."""
        return self.path.with_suffix(".json")

    @property
    def page(self) -> Path:
        """A table of its files for people; the zip itself holds answers only."""
        return self.path.with_suffix(".md")

    def claim(self) -> None:
        """Check that nothing is in the way.

        Raises:
            OutputError: If one of the files exists.
        """
        for path in (self.path, self.record, self.page):
            if path.exists():
                raise OutputError(f"{path} exists already; choose another place or remove it first.")

    def write(self, answers: Sequence[tuple[Answered, str]], problems: Sequence[str]) -> SubmissionRecord:
        """Write zip, record and page, all or nothing.

        Args:
            answers: For each file its part of the record, and its text.
            problems: Why the server would refuse it.

        Returns:
            The record.

        Raises:
            OutputError: If something is in the way, or cannot be written.
        """
        self.claim()
        packed = pack({answered.file: text for answered, text in answers})
        record = SubmissionRecord(
            file=self.path.name,
            sha256=hashlib.sha256(packed).hexdigest(),
            made=_now(),
            problems=tuple(problems),
            answers=tuple(answered for answered, _ in answers),
            versions=versions(),
        )
        try:
            record.save(self.record)
            write_atomically(self.page, _page(record))
            write_atomically(self.path, packed)
        except BaseException:
            for path in (self.path, self.page, self.record):
                path.unlink(missing_ok=True)
            raise
        return record

    def add_reply(self, reply: Path) -> SubmissionRecord:
        """Put the server's reply into the record, in place of an earlier one.

        Args:
            reply: The file with the scores.

        Returns:
            The record, as it is now on disk.

        Raises:
            DataError: If there is no record, the zip has changed since, or the scores cannot be true.
        """
        record = SubmissionRecord.load(self.record)
        if self.path.is_file() and hashlib.sha256(self.path.read_bytes()).hexdigest() != record.sha256:
            raise DataError(f"{self.path} was changed since {self.record} was written; the scores may be of another.")
        scored = record.with_scores(*read_reply(reply), _now())
        scored.save(self.record)
        return scored


def read_reply(path: Path) -> tuple[dict[str, dict[str, float]], float | None]:
    """Read the server's reply: a CSV file with the columns ``task,score``, with or without that header.

    Tasks are called as their files (``MNLI-m``), the average over tasks ``overall``. Scores are the server's, times
    100; two scores of one task are in the server's order: ``MRPC,88.9/84.8``.

    Args:
        path: The file.

    Returns:
        Scores by file and metric, and the average or None, as fractions of 1.

    Raises:
        DataError: If the file cannot be read, or a task or score in it cannot be true.
    """
    try:
        lines = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        rows = [(task, text) for task, text in filter(None, lines) if (task, text) != ("task", "score")]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is no CSV file with two columns, task and score.") from error
    found: dict[str, dict[str, float]] = {}
    for task, text in rows:
        if plain(task) not in _METRICS:
            raise DataError(f"{path}: {UnknownNameError('GLUE task', task, [title for title, _ in _METRICS.values()])}")
        title, metrics = _METRICS[plain(task)]
        scores = _fractions(text)
        if title in found or len(scores) != len(metrics):
            raise DataError(
                f"{path}: {title} must be there once, with {'/'.join(metrics)} from -100 to 100; got {text!r}."
            )
        found[title] = dict(zip(metrics, scores, strict=True))
    if all(abs(score) <= 0.01 for scores in found.values() for score in scores.values()):
        raise DataError(f"{path} has no score above 1; give the server's scores, times 100.")
    overall = found.pop(_OVERALL, {}).get(_OVERALL)
    return found, overall


def _fractions(text: str) -> list[float]:
    """Scores as fractions of 1; nothing if one of them is no number from -100 to 100."""
    try:
        values = [float(part) for part in text.split("/")]
    except ValueError:
        return []
    return [round(value / 100, 8) for value in values] if all(abs(value) <= 100 for value in values) else []


def cells(answered: Answered) -> tuple[str, str, str, str, str]:
    """A row of a table of files: name, rows, the delta that answered, its score on dev, and the remark."""
    source = answered.source
    rows = f"{answered.rows:,}" if answered.rows == answered.wanted else f"{answered.rows:,} of {answered.wanted:,}"
    who = "" if source is None else f"{source.path} ({source.method or 'no method named'})"
    dev = "" if source is None or source.dev is None else f"{source.metric} {source.dev:.4f}, seed {source.seed}"
    return answered.file, rows, who, dev, answered.remark


def _page(record: SubmissionRecord) -> str:
    state = "All eleven files that the GLUE server takes."
    if record.problems:
        state = f"**A trial: the GLUE server will not take it**, since {'; '.join(record.problems)}."
    lines = [
        f"# {record.file}",
        "",
        f"Made by normtune on {record.made}; its record is {Path(record.file).stem}.json.",
        "",
        state,
        "",
        "| file | rows | answered by | dev | remark |",
        "| --- | ---: | --- | --- | --- |",
        *(f"| {' | '.join(cells(answered))} |" for answered in record.answers),
    ]
    return "\n".join(lines) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
