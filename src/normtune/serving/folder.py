"""The folder that a server reads its deltas from, and nothing outside it."""

from __future__ import annotations

import re
from pathlib import Path

from normtune.deltas.delta import FILE, Delta
from normtune.errors import ConfigError, DeltaError

#: Names of tasks and of deltas in the folder: no separators, and no dot in front.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_NAME = re.compile(NAME)

#: What changes when a file is replaced: its inode, size and time of change.
Stamp = tuple[int, int, int]


class DeltaFolder:
    """A folder of deltas: ``NAME.safetensors``, or ``NAME/delta.safetensors`` as ``train --out`` leaves them.

    Args:
        path: The folder.

    Raises:
        ConfigError: If it is no folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"There is no folder of deltas at {path}.")
        self.root = path.resolve()

    def names(self) -> list[str]:
        """The names of its deltas, sorted; their files are not read."""
        found = {entry.name.removesuffix(".safetensors") for entry in self.root.iterdir()}
        return sorted(name for name in found if self.find(name) is not None)

    def find(self, name: str) -> Path | None:
        """The file of a delta, or None where there is none inside the folder: links that lead out are none."""
        if not _NAME.fullmatch(name):
            return None
        for place in (self.root / name / FILE, self.root / f"{name}.safetensors"):
            real = place.resolve()
            if real.is_relative_to(self.root) and real.is_file():
                return real
        return None

    def stamp(self, name: str) -> Stamp | None:
        """Tells one version of a delta's file from another; None where there is no file."""
        file = self.find(name)
        try:
            found = None if file is None else file.stat()
        except OSError:  # removed in between
            return None
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)

    def load(self, name: str) -> Delta:
        """Read a delta.

        Raises:
            DeltaError: If there is none, or it is damaged.
        """
        file = self.find(name)
        if file is None:
            raise DeltaError(f"The folder of deltas has none of the name {name!r}.")
        try:
            return Delta.load(file)
        except DeltaError as error:
            # Where the folder lies is nothing that a client needs to know.
            raise DeltaError(str(error).replace(str(file), repr(name))) from error
