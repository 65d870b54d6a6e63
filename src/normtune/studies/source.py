"""A task in files of the user's own, as a plain value that any process can load."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from normtune.config import Strict
from normtune.data.files import FileTask, load_files
from normtune.errors import ConfigError

#: Bytes of a task's name, which becomes that of a folder.
_LONGEST = 100


class OwnFiles(Strict):
    """A task in the user's own files.

    Attributes:
        name: The task's name; by default that of the file.
        train: File of training examples.
        dev: File of dev examples; without it a seeded, stratified slice of `train` is split off.
        text: Column of the texts.
        pair: Column of their pairs.
        label: Column of the labels.
        regression: Whether the labels are numbers to be predicted.
        class_weights: Whether rare classes weigh more.
        seed: Seeds the split.
    """

    name: str | None = None
    train: Path
    dev: Path | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    regression: bool = False
    class_weights: bool = False
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Check the name, which becomes that of a folder."""
        if self.name is not None:
            check_name(self.name)

    def load(self) -> FileTask:
        """Read the files.

        Returns:
            The task, which remembers its columns, and what its author should know of the files.
        """
        found = load_files(**self.model_dump())
        columns = (self.text, *([self.pair] if self.pair else []), self.label)
        return replace(found, data=replace(found.data, task=replace(found.data.task, columns=columns)))


def check_name(name: str) -> None:
    """Refuse a task's name that cannot be a folder's.

    Raises:
        ConfigError: If it is too long, or leads out of its folder.
    """
    size = len(name.encode())
    if size > _LONGEST:
        raise ConfigError(f"The name of a task has at most {_LONGEST} bytes; {name[:20]!r}... has {size}.")
    if not re.fullmatch(r"\w[\w .,+@-]*", name):
        raise ConfigError(
            f"The name of a task has letters, digits and any of ' .,+@-', and begins with the former; got {name!r}."
        )
