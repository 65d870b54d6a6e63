"""The folder that a server reads deltas from."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from normtune.deltas.delta import FILE, Delta
from normtune.errors import ConfigError, DeltaError, NormtuneError

#: Names of tasks, and of deltas in the folder: no separator, and no leading dot.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_NAME = re.compile(NAME)

#: Differs between versions of a file: its inode, size and time of change.
Stamp = tuple[int, int, int]


class FolderUnreachableError(NormtuneError):
    """The folder of deltas cannot be read now, for example because its network mount is down."""

    def __init__(self) -> None:
        super().__init__("The server's folder of deltas cannot be read now; try again later.")


class DeltaFolder:
    """A folder of deltas: ``NAME.safetensors``, or ``NAME/delta.safetensors`` as ``train --out`` writes them."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"There is no folder of deltas at {path}.")
        self.root = path.resolve()

    def names(self) -> list[str]:
        """The names of its deltas, sorted; their files are not read.

        Raises:
            FolderUnreachableError: If the folder cannot be read.
        """
        try:
            found = {entry.name.removesuffix(".safetensors") for entry in self.root.iterdir()}
        except OSError as error:
            raise FolderUnreachableError from error
        return sorted(name for name in found if self.find(name) is not None)

    def unnamed(self) -> list[str]:
        """The names of deltas there, unless hidden, that no task can have."""
        return sorted(
            entry.name.removesuffix(".safetensors")
            for entry in self.root.iterdir()
            if entry.suffix == ".safetensors" or (entry / FILE).is_file()
            if not entry.name.startswith(".") and not _NAME.fullmatch(entry.name.removesuffix(".safetensors"))
        )

    def find(self, name: str) -> Path | None:
        """The file of a delta, or None. A link that leads out of the folder is not followed.

        Raises:
            FolderUnreachableError: If the folder cannot be read.
        """
        if not _NAME.fullmatch(name):
            return None
        for place in (self.root / name / FILE, self.root / f"{name}.safetensors"):
            with suppress(OSError):  # such as a folder that may not be entered
                real = Path(os.path.realpath(place))
                if real.is_relative_to(self.root) and real.is_file():
                    return real
        if not self.is_there():
            raise FolderUnreachableError
        return None

    def is_there(self) -> bool:
        """Whether the folder itself exists."""
        return os.path.isdir(self.root)  # noqa: PTH112 (no error, whatever the system says)

    def stamp(self, name: str) -> Stamp | None:
        """The version of a delta's file; None if there is no file.

        Raises:
            FolderUnreachableError: If the folder cannot be read.
        """
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
            FolderUnreachableError: If the folder cannot be read.
        """
        file = self.find(name)
        if file is None:
            raise DeltaError(f"The folder of deltas has none of the name {name!r}.")
        try:
            return Delta.load(file)
        except DeltaError as error:
            # Clients must not learn where the folder is.
            raise DeltaError(str(error).replace(str(file), repr(name))) from error
