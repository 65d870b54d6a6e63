"""Records: validated values that lie in a JSON file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from normtune.config import Strict
from normtune.errors import DataError, refusing
from normtune.files import sealed, unsealed, write_atomically


class Saved(Strict):
    """A record that is written whole or not at all, and that says what is wrong with its file."""

    #: What a message calls it.
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
