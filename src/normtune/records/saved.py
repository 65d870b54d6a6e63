"""Records: validated values, each in a JSON file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from normtune.config import Strict
from normtune.errors import DataError, refusing
from normtune.files import sealed, unsealed, write_atomically


class Saved(Strict):
    """A record that is written whole or not at all, and whose errors say what is wrong with its file."""

    #: What error messages call it.
    noun: ClassVar[str] = "record"

    def save(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all."""
        write_atomically(path, sealed(self, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            DataError: If there is none, or it is damaged.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"There is no {cls.noun} at {path}.") from error
        with refusing(DataError, f"The {cls.noun} {path} is damaged"):
            return cls.model_validate(unsealed(json.loads(content), path, cls.noun, DataError, {}))


class DevRecord(Saved):
    """A record of a model's scores on dev before and after it is changed.

    Attributes:
        base_identity: Content hash of the base model.
        data: Content hashes of the examples, by split.
        primary: Name of the task's first metric.
        dense: All metrics on dev before any change; None for a model without a trained head.
        machine: What it ran on.
        versions: Versions of the libraries.
    """

    base_identity: str
    data: dict[str, str]
    primary: str
    dense: dict[str, float] | None = None
    machine: dict[str, str | int]
    versions: dict[str, str]
