"""Writing files so that nothing is lost, aside first, then renamed; and reading those with tensors of ours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from normtune.errors import NormtuneError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

Info = TypeVar("Info", bound=BaseModel)


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


def read_tensors(
    file: Path, noun: str, key: str, schema: type[Info], error: type[NormtuneError]
) -> tuple[Info, dict[str, Tensor]]:
    """Read a safetensors file whose header says as JSON what it holds.

    Args:
        file: The file.
        noun: What it holds, for messages.
        key: Under which name the JSON stands in the header.
        schema: Its fields; the default of ``format`` is the version that is read.
        error: What is raised.

    Returns:
        What the file says of itself, and its tensors by name.

    Raises:
        NormtuneError: If there is none, or it is truncated, corrupt or of a later version.
    """
    if not file.is_file():
        raise error(f"There is no {noun} at {file}.")
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as bad:
        raise error(f"The {noun} {file} is truncated or corrupt: {bad}") from bad
    try:
        raw = json.loads(metadata[key])
        found, wanted = raw["format"], schema.model_fields["format"].default
    except (KeyError, TypeError, ValueError, RecursionError) as bad:
        raise error(f"{file} is no normtune {noun}: its header holds none of our metadata.") from bad
    if found != wanted:
        raise error(f"{file} has format {found!r}; this version of normtune reads format {wanted}.")
    try:
        return schema.model_validate(raw), tensors
    except ValidationError as bad:
        raise error(f"The metadata of {file} is damaged: {bad.errors()[0]['msg']}.") from bad
