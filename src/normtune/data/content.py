"""The content of a file: its bytes, decompressed where needed, and their text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normtune.errors import DataError, refusing

#: Endings of compressed files, after the ending of the file inside.
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
# Limits on what a file may unpack to, since a small one may exceed memory: bytes, or a multiple of its size.
_LEAST_ROOM, _EXPANSION = 2**26, 32


def inner(path: Path) -> Path:
    """The path without the ending of a compressed file, if it has one."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def task_name(path: Path) -> str:
    """A task's name, derived from its file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", inner(path).stem).strip("-.") or "task"


def room(size: int) -> int:
    """The most bytes that a file of `size` bytes may unpack to; ordinary files stay far below."""
    return max(_LEAST_ROOM, _EXPANSION * size)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is compressed; for a zip archive, the bytes of its only file.

    Raises:
        DataError: If it cannot be read or unpacked.
    """
    if path.suffix.lower() in PACKED:
        from pandas.io.common import get_handle

        form = {"compression": "infer", "is_text": False}
        with library_errors(str(path), "compressed", "zstandard"), get_handle(path, "rb", **form) as opened:
            most = room(path.stat().st_size)
            raw: bytes = opened.handle.read(most + 1)
        if len(raw) > most:
            raise DataError(f"{path} unpacks to more than {most:,} bytes; unpack it, and take a part.")
        return raw
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


@contextmanager
def library_errors(source: str, kind: str, package: str) -> Iterator[None]:
    """Turn any error that a library raises on the file `source` into one sentence.

    Raises:
        DataError: If the package that reads it is missing, or the library cannot read it as a file of this kind.
    """
    with refusing(DataError, f"{source} is not a readable {kind} file"):
        try:
            yield
        except ImportError as error:
            raise DataError(f"Reading {source} needs the package {package!r}: pip install {package}.") from error


def decode(source: str, raw: bytes, asked: str = "", *, guess: bool = True) -> tuple[str, tuple[str, ...]]:
    """Decode bytes to text without a byte-order mark, with a note if their encoding is guessed.

    The encoding is `asked` or, if empty, UTF-16 if the bytes have its mark, else UTF-8 or, if `guess`, Windows-1252.

    Raises:
        DataError: If the bytes do not decode, or hold a NUL character, as binary files do.
    """
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = asked or ("UTF-16" if marked else "UTF-8")
    notes: tuple[str, ...] = ()
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        guess &= not asked
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"{source}, line {line}: not {encoding} (byte {error.start} of the file)"
        notes = (f"{found}; it is read as Windows-1252.",)
        try:
            # Damaged UTF-8 has valid multi-byte characters elsewhere; other encodings hardly ever do.
            text = raw.decode("cp1252" if guess and not marked and raw.decode(errors="ignore").isascii() else encoding)
        except UnicodeDecodeError:
            more = ", or say --read encoding=NAME" if guess else ""
            hint = "is it in another encoding?" if asked else f"save it as UTF-8{more}."
            raise DataError(f"{found}; {hint}") from error
    except ValueError as error:  # from codecs that report no position
        raise DataError(f"{source}: not {encoding} ({error}); is it in another encoding?") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{source}, line {line}: there is a NUL character; is this UTF-16 or a binary file?")
    return text, notes


def filled_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers.

    `str.splitlines` would also cut at U+2028 and U+0085, which occur inside texts.
    """
    return [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
