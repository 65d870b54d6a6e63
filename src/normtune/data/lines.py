"""A plain text file as a task for a language model: running text, cut into blocks of tokens when encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normtune.data.content import decode, inner, read_bytes, task_name
from normtune.data.reading import RECOGNISED, Reading
from normtune.data.task import LINES, Split, Task, TaskData
from normtune.errors import ConfigError, DataError

#: The part of a file's lines, at its end, that becomes the dev split where there is no dev file.
DEV_FRACTION = 0.1


def is_running_text(path: Path) -> bool:
    """Whether a file is plain text (``.txt``, also compressed), and so a task for a language model."""
    return inner(path).suffix.lower() == ".txt"


def load_lines(train: Path, dev: Path | None, *, name: str | None = None, reading: Reading = RECOGNISED) -> TaskData:
    """Read a task for a language model from one or two plain text files.

    Without `dev`, the last tenth of the lines of `train` becomes the dev split; `name` defaults to that of `train`.

    Raises:
        ConfigError: If `dev` is another kind of file, or `reading` sets what plain text does not have.
        DataError: If a file cannot be read, is blank, or is too short to be divided.
    """
    if dev is not None and not is_running_text(dev):
        raise ConfigError(f"{train.name} is plain text, so {dev.name} must be a .txt file too.")
    whole, notes = read_lines(train, reading)
    if dev is None:
        cut = len(whole) - max(1, round(DEV_FRACTION * len(whole)))
        splits = {"train": whole.take(range(cut)), "dev": whole.take(range(cut, len(whole)))}
        if any(not "".join(split.columns["lines"]).strip() for split in splits.values()):
            raise DataError(f"{train} has too few lines for a part to be scored on; give another file with --dev.")
    else:
        beside, more = read_lines(dev, reading)
        splits, notes = {"train": whole, "dev": beside}, (*notes, *more)
    called = name or task_name(train)
    source = ", ".join(path.name for path in (train, dev) if path is not None)
    metrics = ("log_likelihood", "perplexity")
    task = Task(called, called, "language", (), metrics, LINES, "How likely is this text?", columns=("text",))
    return TaskData(task, splits, source, notes=notes)


def read_lines(path: Path, reading: Reading = RECOGNISED) -> tuple[Split, tuple[str, ...]]:
    """The lines of a plain text file, blank ones included, and notes on how it was read.

    Raises:
        ConfigError: If `reading` sets what plain text does not have.
        DataError: If the file cannot be read, or is blank.
    """
    if reading.delimiter or reading.decimal or reading.labels or reading.skip:
        raise ConfigError(f"{path.name} is plain text, for which --read takes only the encoding.")
    text, notes = decode(str(path), read_bytes(path), reading.encoding)
    if not text.strip():
        raise DataError(f"{path} is empty.")
    lines = [line + "\n" for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]
    # The text is its own target, so zeros stand in for labels.
    return Split({"lines": tuple(lines)}, np.zeros(len(lines))), notes
