"""The record of a submission: its files, the deltas that answered them, and the server's reply."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from normtune.config import Strict
from normtune.records.saved import Saved


class Source(Strict):
    """The delta that answered a file.

    Attributes:
        path: Where it was found.
        content: The hash over its tensors.
        note: The delta's own note on where it comes from.
        method: The method that made its selection.
        base: Name of its base model.
        base_identity: That model's content hash.
        run: Identity of its run, known if the record lies beside the delta; likewise the fields below.
        seed: The run's seed.
        metric: The task's primary metric.
        dev: The run's score by that metric on dev.
    """

    path: str
    content: str
    note: str = ""
    method: str = ""
    base: str
    base_identity: str
    run: str | None = None
    seed: int | None = None
    metric: str | None = None
    dev: float | None = None


class Answered(Strict):
    """One file of a submission.

    Attributes:
        file: Its name.
        rows: How many answers it has.
        wanted: How many the server wants.
        sha256: Hash of the file.
        texts: Content hash of the examples answered, or nothing where none were read.
        truncated: Texts that were cut to the delta's limit of tokens.
        source: The delta that answered, or None for the majority class.
        remark: What a reader of its score must know: WNLI's majority class, AX's model.
    """

    file: str
    rows: int
    wanted: int
    sha256: str
    texts: str = ""
    truncated: int = 0
    source: Source | None = None
    remark: str = ""

    @property
    def title(self) -> str:
        """The file's name without its ending."""
        return Path(self.file).stem


class SubmissionRecord(Saved):
    """Everything about one submission.

    Attributes:
        file: Name of the zip.
        sha256: Its hash.
        made: When it was made, in UTC.
        problems: Why the server would not take it; empty for a complete submission.
        answers: Its files, in the server's order.
        versions: Versions of the libraries that answered.
        scores: What the server replied, by file (``MNLI-m``) and metric, as fractions of 1 like all scores here.
        overall: The server's average over tasks, as a fraction of 1.
        scored: When the reply was recorded, in UTC.
    """

    noun: ClassVar[str] = "record of a submission"

    file: str
    sha256: str
    made: str
    problems: tuple[str, ...] = ()
    answers: tuple[Answered, ...]
    versions: dict[str, str]
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    overall: float | None = None
    scored: str | None = None
