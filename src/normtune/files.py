"""Writing files so that nothing is lost: aside first, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from normtune.errors import OutputError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` whole or not at all, over what was there.

    Args:
        path: The file; its folder is made where it is missing.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OutputError: If it cannot be written, for want of space or of permission.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"Cannot write to {path.parent}: {error.strerror or error}.") from error
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error


def claim_folder(path: Path) -> None:
    """Make sure that `path` is a folder of one's own: absent or empty; it is made where it is missing.

    Raises:
        OutputError: If something is in the way.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"The output {path} is in use; choose another place or remove it first.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {path}: {error.strerror or error}.") from error
