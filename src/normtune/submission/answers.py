"""Answers GLUE's test files: finds the deltas and what is missing for a submission, and computes the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normtune.data.glue import load_glue, survey
from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split
from normtune.deltas.delta import FILE, Delta, DeltaInfo
from normtune.deltas.hub import fetch
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.evaluation import EVAL_BATCH, decide, logits
from normtune.models.base import Base
from normtune.records.run import Record
from normtune.records.submission import Answered, Source
from normtune.submission.files import FILES, TASKS, WNLI_MAJORITY, AnswerFile, content

#: Texts that are tokenized at a time: QQP's 390,965 pairs would not fit into memory beside a large model.
CHUNK = 128 * EVAL_BATCH
#: Replaces an empty text. QQP's test file has a few, and every row must be answered.
EMPTY = "-"
_RECORD = "record.json"


def named(given: Iterable[str]) -> dict[str, Source]:
    """The deltas that a user lists (folders, files or hub ids), by task.

    Raises:
        ConfigError: If two are of the same task.
        DeltaError: If there is no such delta, or it is of a task that no delta answers.
    """
    sources: dict[str, Source] = {}
    for text in given:
        path = fetch(text)
        info = Delta.load(path).info
        if info.task in sources:
            raise ConfigError(f"{sources[info.task].path} and {path} are both deltas of {GLUE[info.task].title}.")
        sources[info.task] = _source(path, info)
    return sources


def best_runs(folder: Path, method: str | None = None) -> dict[str, Source]:
    """For each task, the delta of the best run on dev, or the lowest seed on ties; tasks outside GLUE are ignored.

    Args:
        folder: The output of ``normtune train``: records with their deltas beside them, at any depth.
        method: The method of the runs, needed if there are several.

    Raises:
        DataError: If there are no runs.
        ConfigError: If the runs are of several methods, or of several base models.
        DeltaError: If a delta is damaged.
    """
    found = [path.parent for path in sorted(folder.rglob(_RECORD)) if (path.parent / FILE).is_file()]
    runs = [
        (path, record)
        for path, record in ((path, Record.load(path / _RECORD)) for path in found)
        if record.status == "done" and record.score is not None and record.config.task in TASKS
        if method in (None, record.config.method)
    ]
    if not runs:
        of = f" of {method!r}" if method else ""
        raise DataError(f"There are no runs{of} on GLUE's tasks in {folder}, each a {_RECORD} beside a {FILE}.")
    kinds = {(run.config.method, run.base_identity): f"{run.config.method} on {run.config.model}" for _, run in runs}
    if len(kinds) > 1:
        raise ConfigError(
            f"The runs in {folder} are of several methods or base models, {', '.join(sorted(kinds.values()))}; choose"
            " one with --method, or keep them in folders apart."
        )
    best_first = sorted(runs, key=lambda run: (-(run[1].score or 0.0), run[1].config.seed))
    best = {record.config.task: path for path, record in reversed(best_first)}
    return {task: _source(path, Delta.load(path).info) for task, path in best.items()}


def _source(path: Path, info: DeltaInfo) -> Source:
    """The facts of a delta, and of its run if the record is beside it."""
    if info.task not in TASKS or info.suite not in {"", "glue"}:
        of = f" of the suite {info.suite!r}" if info.task in TASKS else ""
        raise DeltaError(
            f"The delta {path} is of {info.task!r}{of}; those that answer are of {', '.join(TASKS)} (AX is answered by"
            " MNLI's delta, WNLI by its majority class)."
        )
    asked = GLUE[info.task]
    if (info.kind, info.labels, info.pair) != (asked.kind, asked.labels, asked.pair):
        labels = ", ".join(info.labels) or "a number"
        texts = "pairs" if info.pair else "single texts"
        raise DeltaError(f"The delta {path} reads {texts} and answers {labels}: that is not {asked.title}.")
    known = info.model_dump(include={"content", "note", "method", "base", "base_identity"})
    beside = (path if path.is_dir() else path.parent) / _RECORD
    record = Record.load(beside) if beside.is_file() else None
    if record is not None and record.config.task == info.task:
        known |= {"run": record.id, "seed": record.config.seed, "metric": record.primary, "dev": record.score}
    return Source(path=str(path), **known)


@dataclass(frozen=True)
class AnswerableFile:
    """A file that can be answered.

    Attributes:
        file: The file.
        source: The delta that answers, or None for the majority class.
        rows: How many texts there are to answer.
    """

    file: AnswerFile
    source: Source | None
    rows: int


def plan(
    sources: Mapping[str, Source], data: Path | None, files: Sequence[AnswerFile] = FILES
) -> tuple[list[AnswerableFile], list[str]]:
    """What can be answered, and what is missing. Nothing is fetched, and no text is read.

    Args:
        sources: The delta of each task.
        data: A folder in GLUE's layout, or None for the hub, which has every test file.
        files: The files of a submission.

    Returns:
        The files that can be answered, in the server's order, and clauses that say why the server would refuse them;
        none if it would not.
    """
    sizes = {} if data is None else {name: rows for name, (_, rows) in survey(data).items()}
    parts, bare, absent = [], {}, []
    for file in files:
        source = sources.get(file.model or "")
        # The majority class needs no text.
        rows = file.rows if data is None or file.model is None else sizes[file.task].get(file.split, 0)
        if file.model is not None and source is None:
            bare[GLUE[file.model].title] = True
        if not rows:
            absent.append(file.place)
        elif source is not None or file.model is None:
            parts.append(AnswerableFile(file, source, rows))
    problems = [f"there is no delta of {', '.join(bare)}"] if bare else []
    problems += [f"{data} has no {', '.join(absent)}"] if absent else []
    problems += [
        f"{part.file.place} has {part.rows:,} rows where the server wants {part.file.rows:,}"
        for part in parts
        if part.rows != part.file.rows
    ]
    return parts, problems


def answer(
    parts: Sequence[AnswerableFile],
    data: Path | None,
    base_of: Callable[[Delta], Base],
    progress: Callable[[int], None] = lambda _: None,
) -> list[tuple[Answered, str]]:
    """Answer files.

    Args:
        parts: The files.
        data: A folder in GLUE's layout, or None for the hub.
        base_of: Loads the base model of a delta; it is called again only when the next delta has another base.
        progress: Called with each number of texts answered.

    Returns:
        For each file its part of the record, and its text.

    Raises:
        DataError: If a test file has a different number of texts than planned.
        DeltaError: If a delta is for another base, or gives a number that is not finite.
    """
    answered = []
    base: Base | None = None
    for part in parts:
        values, facts = np.full(part.rows, WNLI_MAJORITY, dtype=np.int64), dict[str, Any]()
        if part.source is not None:
            delta = Delta.load(part.source.path)
            if base is None or base.identity != delta.info.base_identity:
                base = base_of(delta)
            with delta.apply(base):
                values, facts = _answer(part, data, base, delta, progress)
        text = content(part.file, values)
        facts |= {"file": part.file.name, "rows": len(values), "wanted": part.file.rows, "remark": part.file.remark}
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        answered.append((Answered(sha256=sha256, source=part.source, **facts), text))
    return answered


def _answer(
    part: AnswerableFile, data: Path | None, base: Base, delta: Delta, progress: Callable[[int], None]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The answers of a delta that is applied to its base, and facts about the texts for the record."""
    examples = load_glue(part.file.task, data).split(part.file.split)
    if len(examples) != part.rows:
        raise DataError(f"{part.file.place} has {len(examples):,} texts where there should be {part.rows:,}.")
    filled = Split({name: tuple(text or EMPTY for text in column) for name, column in examples.columns.items()})
    values, truncated = [], 0
    for start in range(0, len(filled), CHUNK):
        chunk = filled.take(range(start, min(start + CHUNK, len(filled))))
        encoded = base.encode(chunk, delta.info.max_length)
        values.append(decide(logits(base, encoded), delta.info.as_task))
        truncated += encoded.truncated
        progress(len(chunk))
    return np.concatenate(values), {"texts": examples.identity(), "truncated": truncated}
