"""Answering the test files: what there is to answer, what is missing, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normtune.data.encode import encode
from normtune.data.glue import load_glue, survey
from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split
from normtune.deltas.answering import task_of
from normtune.deltas.delta import Delta
from normtune.errors import DataError, DeltaError
from normtune.evaluation import EVAL_BATCH, decide, logits
from normtune.models.base import Base
from normtune.submission.files import FILES, WNLI_MAJORITY, AnswerFile
from normtune.submission.sources import Choice

#: Texts that are tokenised at a time: QQP's 390,965 pairs would not fit beside a large model.
CHUNK = 128 * EVAL_BATCH
#: What an empty text is read as; QQP's test file holds a few, and every row must be answered.
EMPTY = "-"


@dataclass(frozen=True)
class Part:
    """A file that can be answered.

    Attributes:
        file: The file.
        choice: Who answers, or None for the majority class.
        rows: How many texts there are to answer.
    """

    file: AnswerFile
    choice: Choice | None
    rows: int


@dataclass(frozen=True)
class Plan:
    """What a submission would hold.

    Attributes:
        parts: The files that can be answered, in the server's order.
        problems: Why the server would not take them, each a part of a sentence; empty where it would.
    """

    parts: tuple[Part, ...]
    problems: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many texts a model must answer."""
        return sum(part.rows for part in self.parts if part.choice is not None)


@dataclass(frozen=True)
class Answers:
    """The answers of one file.

    Attributes:
        part: Which one.
        values: Class numbers, or scores on the targets' own scale.
        truncated: Texts that were cut to the delta's limit of tokens.
        texts: Content hash of the texts; nothing where none were read.
    """

    part: Part
    values: np.ndarray
    truncated: int = 0
    texts: str = ""


def plan(choices: Mapping[str, Choice], data: Path | None, files: Sequence[AnswerFile] = FILES) -> Plan:
    """What can be answered, and what is missing; nothing is fetched and no text is read.

    Args:
        choices: The delta of each task.
        data: A folder in GLUE's layout, or None for the hub, which has every test file.
        files: The files of a submission.

    Returns:
        The plan.
    """
    sizes = _sizes(data, files)
    bare = dict.fromkeys(GLUE[file.model].title for file in files if file.model and file.model not in choices)
    absent = dict.fromkeys(file.place for file in files if file.model and file.name not in sizes)
    parts = tuple(
        # The majority class can be told without reading a text.
        Part(file, None, file.rows) if file.model is None else Part(file, choices[file.model], sizes[file.name])
        for file in files
        if file.model is None or (file.model in choices and file.name in sizes)
    )
    problems = [
        *([f"there is no delta of {_and(bare)}"] if bare else []),
        *([f"{data} has no {_and(absent)}"] if absent else []),
        *(
            f"{part.file.place} has {part.rows:,} rows where the server wants {part.file.rows:,}"
            for part in parts
            if part.rows != part.file.rows
        ),
    ]
    return Plan(parts, tuple(problems))


def answer(
    planned: Plan,
    data: Path | None,
    base_of: Callable[[Delta], Base],
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answers]:
    """Answer every file of a plan.

    Args:
        planned: The plan.
        data: A folder in GLUE's layout, or None for the hub.
        base_of: Loads the base model of a delta; deltas of one base, one after the other, share it.
        progress: Told of each number of texts answered.

    Returns:
        Answers in the order of the plan.

    Raises:
        DataError: If a test file does not hold what the plan says.
        DeltaError: If a delta is of another base, or gives a number that is not finite.
    """
    found = {part.file.name: _majority(part) for part in planned.parts if part.choice is None}
    base: Base | None = None
    for choice, parts in _by_choice(planned.parts):
        delta = Delta.load(choice.path)
        if base is None or base.identity != delta.info.base_identity:
            base = base_of(delta)
        with delta.apply(base):
            for part in parts:
                found[part.file.name] = _answer(part, data, base, delta, progress)
    return [found[part.file.name] for part in planned.parts]


def _answer(part: Part, data: Path | None, base: Base, delta: Delta, progress: Callable[[int], None]) -> Answers:
    """The answers of a delta that is on its base.

    Raises:
        DataError: If the file does not hold as many texts as it should.
        DeltaError: If an output is not finite.
    """
    examples = load_glue(part.file.task, data).split(part.file.split)
    if len(examples) != part.rows:
        raise DataError(f"{part.file.place} has {len(examples):,} texts where there should be {part.rows:,}.")
    values, truncated = [], 0
    for chunk in _chunks(examples):
        encoded = encode(chunk, base.need_tokenizer(), delta.info.max_length)
        outputs = logits(base, encoded)
        if not np.isfinite(outputs).all():
            raise DeltaError(f"The delta {delta.info.task!r} gives a number that is not finite for {part.file.name}.")
        values.append(decide(outputs, task_of(delta)))
        truncated += encoded.truncated
        progress(len(chunk))
    return Answers(part, np.concatenate(values), truncated, examples.identity())


def _majority(part: Part) -> Answers:
    return Answers(part, np.full(part.rows, WNLI_MAJORITY, dtype=np.int64))


def _by_choice(parts: Sequence[Part]) -> list[tuple[Choice, list[Part]]]:
    """The parts that each delta answers; AX comes with MNLI, so that its delta is put on once."""
    choices = {part.choice.task: part.choice for part in parts if part.choice is not None}
    return [(choice, [part for part in parts if part.choice == choice]) for choice in choices.values()]


def _chunks(examples: Split) -> Iterator[Split]:
    filled = Split({name: tuple(text or EMPTY for text in column) for name, column in examples.columns.items()})
    for start in range(0, len(filled), CHUNK):
        yield filled.take(range(start, min(start + CHUNK, len(filled))))


def _sizes(data: Path | None, files: Sequence[AnswerFile]) -> dict[str, int]:
    """Rows of each file whose texts are there."""
    if data is None:
        return {file.name: file.rows for file in files}
    found = {listing.name: listing.sizes for listing in survey(data)}
    return {file.name: found[file.task][file.split] for file in files if file.split in found[file.task]}


def _and(names: Mapping[str, None]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
