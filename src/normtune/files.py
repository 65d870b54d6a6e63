"""Writing files so that nothing is lost: aside first, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from normtune.errors import OutputError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` whole or not at all, over what was there; text as UTF-8.

    The file's folder is made where it is missing.

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


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` in the end, or vanishes where anything goes wrong.

    Args:
        folder: Where the files are to be: absent or empty.

    Yields:
        The folder aside.

    Raises:
        OutputError: If something is in `folder`, or it cannot be written.
    """
    had = folder.is_dir()
    claim_folder(folder)
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        yield aside
        aside.chmod(0o755)
        for file in aside.iterdir():
            file.chmod(0o644)
        folder.rmdir()
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write {folder}: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if not had and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
