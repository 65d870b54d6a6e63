"""Our own files: written whole or not at all, by one writer per folder, and read only if undamaged."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import reprlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from safetensors import SafetensorError

from normtune.errors import NormtuneError, OutputError, refusing

if TYPE_CHECKING:
    from torch import Tensor

Info = TypeVar("Info", bound=BaseModel)

#: Prefix of the temporary name of a file or folder that is being written; 16 hexadecimal digits follow.
_ASIDE = ".normtune-"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` whole or not at all, over what was there; text as UTF-8.

    The file's folder is created if it is missing.

    Raises:
        OutputError: If it cannot be written, such as for lack of space or permission.
    """
    data = content.encode() if isinstance(content, str) else content
    _make(path.parent, "Cannot write to {}")
    try:
        with _aside(path.parent, Path.touch) as aside:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.chmod(0o644)
            aside.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error


def expanded(name: str | Path) -> Path:
    """The path with ``~`` expanded; a path of an unknown user stays as it is."""
    with suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def refuse_existing(file: Path | None) -> None:
    """Check that nothing is where a file will be written; None is a place that was not chosen.

    Raises:
        OutputError: If something is there.
    """
    if file is not None and file.exists():
        raise OutputError(f"{file} exists already; choose another place or remove it first.")


def claim_folder(path: Path) -> None:
    """Make sure that `path` is an empty folder; it is created if it is missing.

    Raises:
        OutputError: If something is in the way.
    """
    remove_strays(path)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"The output {path} is in use; choose another place or remove it first.")
    except OSError as error:
        raise OutputError(f"Cannot look into {path}: {error.strerror}.") from error
    _make(path, "Cannot make the folder {}")


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write to, which becomes `folder` in the end, or is removed on any error.

    Raises:
        OutputError: If something is in `folder`, or it cannot be written.
    """
    if folder.is_symlink():
        folder = Path(os.path.realpath(folder))
    if folder.resolve().is_mount():
        raise OutputError(f"A file system is mounted at {folder}; choose a folder inside it.")
    had = folder.is_dir()
    claim_folder(folder)
    try:
        with _aside(folder.parent, Path.mkdir) as aside:
            yield aside
            aside.chmod(0o755)
            for inside in aside.rglob("*"):
                inside.chmod(0o755 if inside.is_dir() else 0o644)
            folder.rmdir()
            aside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write {folder}: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        if not had and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if it is missing, so that one command at a time writes there.

    The lock of a process that dies is released. Where the file system has no locks, nothing is locked.

    Raises:
        OutputError: If another command has locked it, or it cannot be created.
    """
    had = folder.is_dir()
    _make(folder, "Cannot make the folder {}")
    with _locked(folder) as mine:
        if mine is False:
            raise OutputError(f"Another command is writing to {folder}; wait until it ends, or choose another place.")
        try:
            yield
        finally:
            if not had:
                with suppress(OSError):  # unless something is in it by now
                    folder.rmdir()


def remove_strays(folder: Path) -> None:
    """Remove half-written files and folders of killed writers from a folder; those that a live process locks stay."""
    for aside in folder.glob(f"{_ASIDE}{'[0-9a-f]' * 16}"):
        with suppress(OSError), _locked(aside, os.O_NOFOLLOW) as mine:
            if mine:
                _remove(aside)


@contextmanager
def _aside(folder: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file or folder in `folder`, which `make` creates, under a unique name.

    It is locked within this context, for the caller to rename, and removed afterwards if it was not renamed.
    """
    remove_strays(folder)
    while True:
        aside = folder / f"{_ASIDE}{secrets.token_hex(8)}"
        make(aside)
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(_locked(aside))
            except FileNotFoundError:
                mine = False
            if mine is False or not aside.exists():
                continue  # another process removed it as a stray before it was locked
            stack.callback(_remove, aside)
            yield aside
            return


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[bool | None]:
    """Lock a file or folder; yields whether it is ours, or None where the file system has no locks."""
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine: bool | None = True
    except OSError as error:
        mine = False if isinstance(error, BlockingIOError) else None
    try:
        yield mine
    finally:
        os.close(handle)


def _make(folder: Path, sentence: str) -> None:
    """Create a folder if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{sentence.format(folder)}: {error.strerror or error}.") from error


# A hash over all that is read from a file: its JSON, which may be metadata or the whole file, and its tensors.

_HASH = "hash"
#: The largest safetensors header, in bytes, that is read, since JSON takes thirty times its size in memory.
_LARGEST = 16 << 20


def add_tensors(digest: hashlib._Hash, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
    """Add tensors to a hash by name, dtype, shape and bytes, whatever their order."""
    import torch

    for name in sorted(names):
        tensor = read(name).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def sealed(info: BaseModel, tensors: Mapping[str, Tensor] | None = None, *, indent: int | None = None) -> str:
    """The metadata of a file as JSON, with a hash over it and the file's tensors."""
    raw: dict[str, Any] = json.loads(info.model_dump_json())
    return json.dumps({**raw, _HASH: _hash(raw, tensors or {})}, ensure_ascii=False, indent=indent)


def unsealed(raw: Any, file: Path, noun: str, error: type[NormtuneError], tensors: Mapping[str, Tensor]) -> Any:
    """The metadata that `sealed` was given, from the JSON that it returned.

    Raises:
        NormtuneError: If the hash differs or is missing.
        UnicodeEncodeError: If a string has a lone surrogate.
    """
    json.dumps(raw, ensure_ascii=False).encode()
    if not isinstance(raw, dict) or _HASH not in raw:
        raise error(f"The {noun} {file} is damaged: it carries no hash of its content.")
    content = {name: value for name, value in raw.items() if name != _HASH}
    if raw[_HASH] != _hash(content, tensors):
        raise error(f"The {noun} {file} is damaged: its content does not match the hash that it carries.")
    return content


def _hash(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode())
    if tensors:
        add_tensors(digest, tensors, tensors.__getitem__)
    return digest.hexdigest()


def write_tensors(file: Path, key: str, info: BaseModel, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file for `read_tensors`, whole or not at all; equal content gives equal bytes.

    Raises:
        OutputError: If it cannot be written.
    """
    from safetensors.torch import save

    # A single key, since safetensors writes several in any order.
    write_atomically(file, save(dict(tensors), {key: sealed(info, tensors)}))


def read_tensors(
    file: Path, noun: str, key: str, schema: type[Info], error: type[NormtuneError]
) -> tuple[Info, dict[str, Tensor]]:
    """Read a safetensors file, which messages call a `noun`, with metadata of `schema` in its header under `key`.

    Only the version that is the default of the schema's ``format`` is read.

    Returns:
        The file's metadata, and its tensors by name.

    Raises:
        NormtuneError: An `error`, if there is no such file, or it is truncated, damaged or of a later version.
    """
    from safetensors.torch import load

    if not file.is_file():
        raise error(f"There is no {noun} at {file}.")
    with refusing(error, f"The {noun} {file} is truncated or corrupt"):
        content = file.read_bytes()  # not memory-mapped, so that the tensors survive if the file is overwritten
        size = int.from_bytes(content[:8], "little")
        if _LARGEST < size < len(content):
            raise error(f"The {noun} {file} has a header of {size:,} bytes; at most {_LARGEST:,} are read.")
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    wanted = schema.model_fields["format"].default
    try:
        raw = json.loads(metadata[key])
        found = raw["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as bad:
        raise error(f"{file} is no normtune {noun}: its header holds none of our metadata.") from bad
    if found != wanted:
        raise error(f"{file} has format {reprlib.repr(found)}; this version of normtune reads format {wanted}.")
    with refusing(error, f"The metadata of {file} is damaged"):
        return schema.model_validate(unsealed(raw, file, noun, error, tensors)), tensors
