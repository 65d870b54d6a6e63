"""The bodies of requests and responses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from normtune.config import Strict
from normtune.data.kinds import KINDS
from normtune.deltas.answers import Prediction, Text
from normtune.deltas.bank import BankTask
from normtune.serving.folder import NAME

Name = Annotated[str, Field(pattern=NAME, description="Letters, digits, dots, dashes and underscores.")]
#: A text that is not blank; its maximum length is a setting.
Words = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Question(Strict):
    """A text for the task in the path."""

    text: Words
    text_pair: Words | None = None

    @property
    def asked(self) -> Text:
        """The text, or the text and its pair."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


class TaskQuestion(Question):
    """A text and its task."""

    task: Name


class Questions(Strict):
    """Texts, each with its task; all are answered in the same batches."""

    rows: Annotated[list[TaskQuestion], Field(min_length=1)]


class Answer(Prediction):
    """The answer for one text: label and probabilities, the value of a regression, or how likely the text is."""

    task: str
    truncated: Annotated[bool, Field(description="Whether the text was cut to the task's limit.")]


class Answers(Strict):
    """One answer for each row, in the order of the rows."""

    answers: list[Answer]


class TaskInfo(Strict):
    """What a task answers, and how much memory it takes."""

    name: str
    kind: Annotated[str, Field(description=f"One of: {', '.join(KINDS)}.")]
    labels: list[str]
    pair: Annotated[bool, Field(description="Whether it reads pairs of texts.")]
    max_length: Annotated[int, Field(description="Limit in tokens.")]
    method: str
    apart: Annotated[bool, Field(description="Whether it runs in batches of its own.")]
    bytes: Annotated[int, Field(description="Bytes in memory, with the head.")]

    @classmethod
    def of(cls, entry: BankTask) -> TaskInfo:
        """The facts of a task in the bank."""
        facts = entry.info.model_dump(include={"kind", "labels", "pair", "max_length", "method"})
        return cls(name=entry.name, apart=entry.apart, bytes=entry.bytes, **facts)


class TaskNames(Strict):
    """A page of the names of the tasks, sorted."""

    total: int
    tasks: list[str]


class TaskDelta(Strict):
    """The delta of a task."""

    delta: Annotated[Name, Field(description="Name of a delta in the server's folder.")]


class Health(Strict):
    """Whether the server is alive, or ready."""

    status: str


class Problem(Strict):
    """What is wrong with a request."""

    error: Annotated[str, Field(description="A short name for programs.")]
    detail: Annotated[str, Field(description="A sentence for people.")]
