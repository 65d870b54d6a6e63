"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from normtune.deltas.answers import Prediction, Text
from normtune.deltas.entry import Entry
from normtune.serving.folder import NAME

Name = Annotated[str, Field(pattern=NAME, description="Letters, digits, dots, dashes and underscores.")]
#: A text that is not blank; how long it may be is a setting.
Words = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Question(_Wire):
    """A text for a task that the address names."""

    text: Words
    text_pair: Words | None = None

    @property
    def asked(self) -> Text:
        """The text, or the text and its pair."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


class Row(Question):
    """A text and the task that it is for."""

    task: Name


class Rows(_Wire):
    """Texts, each for a task of its own; they are answered in the same batches."""

    rows: Annotated[list[Row], Field(min_length=1)]


class Answer(_Wire):
    """The answer for one text: label and probabilities, or the value of a regression."""

    task: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None
    truncated: Annotated[bool, Field(description="Whether the text was longer than the task's limit and was cut.")]

    @classmethod
    def of(cls, task: str, truncated: bool, found: Prediction) -> Answer:
        """A prediction with what its client may want to know besides."""
        return cls(
            task=task, label=found.label, probabilities=found.probabilities, value=found.value, truncated=truncated
        )


class Answers(_Wire):
    """One answer a row, in the order of the rows."""

    answers: list[Answer]


class TaskInfo(_Wire):
    """What a task answers, and what it costs."""

    name: str
    kind: Annotated[str, Field(description="classification or regression")]
    labels: list[str]
    pair: Annotated[bool, Field(description="Whether it reads pairs of texts.")]
    max_length: Annotated[int, Field(description="Limit in tokens.")]
    method: str
    apart: Annotated[bool, Field(description="Whether it runs in batches of its own.")]
    bytes: Annotated[int, Field(description="Bytes in memory, head included.")]

    @classmethod
    def of(cls, entry: Entry) -> TaskInfo:
        """What a bank's entry says of itself."""
        info = entry.info
        return cls(
            name=entry.name,
            kind=info.kind,
            labels=list(info.labels),
            pair=info.pair,
            max_length=info.max_length,
            method=info.method,
            apart=entry.apart,
            bytes=entry.bytes,
        )


class TaskNames(_Wire):
    """One page of the names of the tasks, sorted."""

    total: int
    tasks: list[str]


class Source(_Wire):
    """Where a task comes from."""

    delta: Annotated[Name, Field(description="Name of a delta in the server's folder.")]


class State(_Wire):
    """Whether the server lives, or is ready."""

    status: str


class Problem(_Wire):
    """What was wrong with a request."""

    error: Annotated[str, Field(description="A short name for programs.")]
    detail: Annotated[str, Field(description="A sentence for people.")]
