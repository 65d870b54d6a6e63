"""A submission on disk: the zip for the server and, beside it, its record, to which the server's reply is added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from normtune.data.rows import read_rows
from normtune.data.task import plain
from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.files import refuse_existing, write_atomically
from normtune.records.submission import Answered, SubmissionRecord
from normtune.submission.files import FILES, pack
from normtune.versions import versions

_OVERALL = "overall"
#: The metrics of each task's score in a reply, by its title.
_METRICS = {file.title: file.metrics for file in FILES} | {_OVERALL: (_OVERALL,)}
#: The metrics that can be below zero.
_SIGNED = {"matthews", "pearson", "spearman", _OVERALL}


def claim(path: Path) -> None:
    """Check that a submission can be written to `path` and its record beside it.

    Raises:
        ConfigError: If its name does not end in ``.zip``.
        OutputError: If one of the files exists.
    """
    if path.suffix != ".zip":
        raise ConfigError(f"A submission is a .zip; got {path.name!r}.")
    for file in (path, path.with_suffix(".json")):
        refuse_existing(file)


def write(path: Path, answers: Sequence[tuple[Answered, str]], problems: Sequence[str]) -> SubmissionRecord:
    """Write the zip, and its record ``submission.json`` beside ``submission.zip``: both or neither.

    Args:
        path: The zip.
        answers: For each file its part of the record, and its text.
        problems: Why the server would refuse it.
    """
    claim(path)
    packed = pack({answered.file: text for answered, text in answers})
    record = SubmissionRecord(
        file=path.name,
        sha256=hashlib.sha256(packed).hexdigest(),
        made=_now(),
        problems=tuple(problems),
        answers=tuple(answered for answered, _ in answers),
        versions=versions(),
    )
    try:
        write_atomically(path, packed)
        record.save(path.with_suffix(".json"))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return record


def add_reply(path: Path, reply: Path) -> SubmissionRecord:
    """Put the server's reply into the record of the submission at `path`, in place of an earlier one.

    Raises:
        DataError: If the zip has changed since its record was written, or it lacks a file that has a score.
    """
    place = path.with_suffix(".json")
    record = SubmissionRecord.load(place)
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
        raise DataError(f"{path} was changed since {place} was written; the scores may belong to another submission.")
    scores, overall = read_reply(reply)
    if absent := scores.keys() - {answered.title for answered in record.answers}:
        raise DataError(
            f"The submission {record.file} holds no {', '.join(sorted(absent))}, so that cannot have been scored."
        )
    scored = record.model_copy(update={"scores": scores, "overall": overall, "scored": _now()})
    scored.save(place)
    return scored


def read_reply(path: Path) -> tuple[dict[str, dict[str, float]], float | None]:
    """Read the server's reply: a CSV file with the columns ``task,score``.

    Tasks are named like their files (``MNLI-m``), the average over tasks ``overall``. Scores are the server's, times
    100; two scores of one task are in the server's order: ``MRPC,88.9/84.8``.

    Returns:
        Scores by file and metric, and the average or None, as fractions of 1.

    Raises:
        DataError: If the file cannot be read, or a task or score in it is invalid.
    """
    rows = read_rows(path)
    titles = {plain(title): title for title in _METRICS}
    found: dict[str, dict[str, float]] = {}
    for task, text in zip(rows.column("task"), rows.column("score"), strict=True):
        if plain(task) not in titles:
            raise DataError(f"{path}: {UnknownNameError('GLUE task', task, _METRICS)}")
        title = titles[plain(task)]
        metrics, scores = _METRICS[title], _fractions(text)
        least = -1 if {*metrics} <= _SIGNED else 0
        if title in found or len(scores) != len(metrics) or min(scores) < least:
            raise DataError(
                f"{path}: {title} must be there once, with {'/'.join(metrics)} from {100 * least} to 100; got {text!r}."
            )
        found[title] = dict(zip(metrics, scores, strict=True))
    if all(abs(score) <= 0.01 for scores in found.values() for score in scores.values()):
        raise DataError(f"{path} has no score above 1; give the server's scores, times 100.")
    overall = found.pop(_OVERALL, {}).get(_OVERALL)
    return found, overall


def _fractions(text: str) -> list[float]:
    """Scores as fractions of 1; empty if one of them is not a number from -100 to 100."""
    try:
        values = [float(part) for part in text.split("/")]
    except ValueError:
        return []
    return [round(value / 100, 8) for value in values] if all(abs(value) <= 100 for value in values) else []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
