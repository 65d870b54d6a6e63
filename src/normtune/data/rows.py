"""Rows of a table file: CSV, TSV, JSONL, Parquet, or plain text with a text a line."""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

from normtune.errors import DataError


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        source: The file's path, or ``standard input``.
        columns: Names of the columns.
        rows: For each row its texts by column; a column that a row does not have is absent.
        lines: For each row where it starts: its 1-based line or, in Parquet, its 1-based number.
        unit: What `lines` counts: ``line`` or ``row``.
        unusable: Why a column holds no text: a sentence by name, for columns of lists, objects, dates or bytes.
    """

    source: str
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    lines: list[int]
    unit: str = "line"
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> str:
        """Where row `index` (from 0) is, to start a sentence about it."""
        return f"{self.source}, {self.unit} {self.lines[index]}"

    def column(self, name: str) -> list[str]:
        """The texts of a column, one a row, empty where the row has none.

        Raises:
            DataError: If there is no such column, or if it holds what is neither a text nor a number.
        """
        if name in self.unusable:
            raise DataError(self.unusable[name])
        if name not in self.columns:
            known = {other.casefold(): other for other in self.columns}
            close = difflib.get_close_matches(name.casefold(), known, n=1)
            guess = f" Did you mean {known[close[0]]!r}?" if close else ""
            raise DataError(
                f"{self.source} has no column {name!r}.{guess} It has: {', '.join(self.columns) or 'none'}."
            )
        return [row.get(name, "") for row in self.rows]


def as_text(cell: object) -> str:
    """A cell as text: 3 and 3.0 give ``3``, true gives ``true``, and what is missing (None, NaN) nothing."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:  # up to there every whole number is a float
        return str(int(cell))
    return str(cell)


def read_rows(path: Path | None) -> Rows:
    """Reads a table from a file, or plain text from standard input.

    Text is UTF-8, with or without a byte-order mark. CSV and TSV have a header and are quoted as RFC 4180 says;
    every row is as wide as the header. A line of JSONL is an object, and the columns are the keys of all of them. Plain
    text is one column, ``text``. Blank lines are no rows. Whatever else is wrong is a `DataError` too, which names the
    file and the line.

    Args:
        path: The file, whose ending is one of `READERS`; None reads standard input.

    Returns:
        The rows, of which there is at least one.

    Raises:
        DataError: If there are no rows.
    """
    source, ending = ("standard input", ".txt") if path is None else (str(path), path.suffix.lower())
    if ending not in READERS:
        raise DataError(f"{source} ends in {ending or 'nothing'!r}, which is none of: {', '.join(READERS)}.")
    rows = READERS[ending](source, sys.stdin.buffer.read() if path is None else read_bytes(path))
    if not rows.rows:
        raise DataError(f"{source} has no rows.")
    return rows


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def decode(source: str, raw: bytes) -> str:
    """The text of UTF-8 bytes, without a byte-order mark.

    Args:
        source: What the bytes are of, for messages.
        raw: The bytes.

    Returns:
        The text, which is not blank.

    Raises:
        DataError: If they are not UTF-8, hold a NUL character, as UTF-16 and binary files do, or are blank.
    """
    try:
        text = raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}, line {line}: not UTF-8 (byte {error.start} of the file); save it as UTF-8."
        ) from error
    if "\0" in text:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise DataError(f"{source}, line {line}: there is a NUL character; is this UTF-16 or a binary file?")
    if not text.strip():
        raise DataError(f"{source} is empty.")
    return text


def _check_distinct(place: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{place}: {count} columns have the name {name!r}.")


def _delimited(source: str, raw: bytes, delimiter: str) -> Rows:
    (first, header), *records = _records(source, decode(source, raw), delimiter)
    names = tuple(name.strip() for name in header)
    _check_distinct(f"{source}, line {first}", names)
    for line, cells in records:
        if len(cells) != len(names):
            hint = " (is there a separator in a text without quotes?)" if len(cells) > len(names) else ""
            raise DataError(f"{source}, line {line}: the row has {len(cells)} of {len(names)} cells{hint}.")
    rows = [dict(zip(names, cells, strict=True)) for _, cells in records]
    return Rows(source, names, rows, [line for line, _ in records])


def _records(source: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The records of a CSV text, each with the line on which it starts, without blank ones.

    Raises:
        DataError: If the quoting is broken.
    """
    # The module's limit is global. None of the cells is longer than the text.
    limit = csv.field_size_limit(len(text) + 1)
    found, start = [], 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                found.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        hint = "a cell that opens with a quote must close with one, and a quote inside it is written twice"
        raise DataError(f"{source}, line {start}: broken quotes ({error}); {hint}.") from error
    finally:
        csv.field_size_limit(limit)
    return found


def split_lines(text: str) -> list[str]:
    """The lines of a text; `str.splitlines` would also cut at U+2028 and U+0085, which occur inside texts."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _plain(source: str, raw: bytes) -> Rows:
    lines = enumerate(split_lines(decode(source, raw)), start=1)
    filled = [(number, line) for number, line in lines if line.strip()]
    return Rows(source, ("text",), [{"text": line} for _, line in filled], [number for number, _ in filled])


def _objects(source: str, unit: str, objects: Iterable[tuple[int, Mapping[str, object]]]) -> Rows:
    """Rows of objects with values of any type, each with its line or number."""
    columns: dict[str, None] = {}
    rows, lines = [], []
    unusable: dict[str, str] = {}
    for number, values in objects:
        row = {}
        for name, value in values.items():
            columns[name] = None
            if isinstance(value, str | int | float | Decimal | None):
                row[name] = as_text(value)
            elif name not in unusable:
                holds = f"the column {name!r} holds a value of type {type(value).__name__}"
                unusable[name] = f"{source}, {unit} {number}: {holds}, not a text or a number."
        rows.append(row)
        lines.append(number)
    return Rows(source, tuple(columns), rows, lines, unit, unusable)


def _jsonl(source: str, raw: bytes) -> Rows:
    lines = enumerate(split_lines(decode(source, raw)), start=1)
    return _objects(
        source, "line", ((number, _object(f"{source}, line {number}", line)) for number, line in lines if line.strip())
    )


def _object(place: str, line: str) -> dict[str, object]:
    """The JSON object that a line holds.

    Raises:
        DataError: If it holds none, or one that no UTF-8 can write.
    """
    try:
        value = json.loads(line)
        if "\\u" in line:  # which may be half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON ({error.msg}, at character {error.pos + 1}).") from error
    except (ValueError, RecursionError) as error:  # half of a surrogate pair, thousands of digits or of brackets
        raise DataError(f"{place}: not usable JSON ({error}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: not a JSON object, but {type(value).__name__}.")
    return value


def _parquet(source: str, raw: bytes) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"Reading {source} needs the package 'pyarrow': pip install pyarrow.") from error
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(raw)).read()
        _check_distinct(source, table.schema.names)
        objects = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{source} is not a readable Parquet file: {reason}.") from error
    return _objects(source, "row", enumerate(objects, start=1))


#: The readers by a file's ending; each takes the source, for messages, and all bytes.
READERS: Mapping[str, Callable[[str, bytes], Rows]] = {
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".txt": _plain,
}
