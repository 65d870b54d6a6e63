"""Rows of a table file: CSV, TSV, JSONL, Parquet, or plain text with a text a line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from normtune.errors import DataError, UnknownNameError

Cell = str | float | int | None

# Up to here every whole number is a float, so 3.0 can be written as 3.
_EXACT = 2.0**53


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        source: The file's path, or what a stream is called.
        columns: Names of the columns.
        rows: For each row its cells by column; what a row does not have is None.
        lines: For each row where it starts: its 1-based line or, in Parquet, its 1-based number.
        unit: What `lines` counts: ``line`` or ``row``.
        unusable: Why a column holds no text: a sentence by name, for columns of lists, objects, dates or bytes.
    """

    source: str
    columns: tuple[str, ...]
    rows: list[dict[str, Cell]]
    lines: list[int]
    unit: str = "line"
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> str:
        """Where row `index` (from 0) is, to start a sentence about it."""
        return f"{self.source}, {self.unit} {self.lines[index]}"

    def column(self, name: str) -> list[str]:
        """The texts of a column, unchanged; what is no text is written as `as_text` says.

        Args:
            name: The column.

        Returns:
            One text a row, empty where the row has none.

        Raises:
            DataError: If there is no such column, or if it holds what is neither a text nor a number.
        """
        if name in self.unusable:
            raise DataError(self.unusable[name])
        if name not in self.columns:
            close = _closest(name, self.columns)
            guess = f" Did you mean {close!r}?" if close else ""
            raise DataError(
                f"{self.source} has no column {name!r}.{guess} It has: {', '.join(self.columns) or 'none'}."
            )
        return [as_text(row.get(name)) for row in self.rows]


def as_text(cell: Cell) -> str:
    """A cell as text: 3 and 3.0 give ``3``, true gives ``true``, and what is missing (None, NaN) nothing."""
    if isinstance(cell, str):
        return cell
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _EXACT:
        return str(int(cell))
    return str(cell)


def read_rows(path: Path | TextIO, *, format: str | None = None) -> Rows:  # noqa: A002
    """Reads a table from a file or a stream.

    Text is UTF-8, with or without a byte-order mark. CSV and TSV have a header and are quoted as RFC 4180 says;
    every row is as wide as the header. A line of JSONL is an object, and the columns are the keys of all of them. Plain
    text is one column, ``text``. Blank lines are no rows. Whatever else is wrong is a `DataError` too, which names the
    file and the line.

    Args:
        path: The file, or an open stream such as standard input.
        format: One of `FORMATS`; None goes by the file's ending, and takes a stream as plain text.

    Returns:
        The rows, of which there is at least one.

    Raises:
        UnknownNameError: If `format` is not one of `FORMATS`.
        DataError: If there are no rows.
    """
    if isinstance(path, Path):
        source, kind = str(path), format or _by_ending(path)
    else:
        source, kind = _title(path), format or "txt"
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    raw = _bytes(path)
    if not raw.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{source} is empty.")
    rows = FORMATS[kind](source, raw)
    if not rows.rows:
        raise DataError(f"{source} has no rows{' after its header' if kind in {'csv', 'tsv'} else ''}.")
    return rows


def _closest(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that is most like `name`, whatever the case, if any is."""
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def _by_ending(path: Path) -> str:
    """The format that a file's ending stands for.

    Raises:
        DataError: If it stands for none.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path} ends in {ending or 'nothing'!r}, which is none of: {', '.join(ENDINGS)}.")
    return ENDINGS[ending]


def _title(stream: TextIO) -> str:
    name = getattr(stream, "name", None)
    if stream is sys.stdin or name == "<stdin>":
        return "standard input"
    return name if isinstance(name, str) else "the stream"


def _bytes(path: Path | TextIO) -> bytes:
    """All bytes of a file or of a stream, whatever encoding the stream believes in.

    Raises:
        DataError: If the file cannot be read.
    """
    if not isinstance(path, Path):
        buffer = getattr(path, "buffer", None)
        raw: bytes = path.read().encode("utf-8", "surrogatepass") if buffer is None else buffer.read()
        return raw
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _decode(source: str, raw: bytes) -> str:
    """The text of UTF-8 bytes, without a byte-order mark.

    Raises:
        DataError: If they are not UTF-8, or hold a NUL character, as UTF-16 and binary files do.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{source}, line 1: the file is UTF-16; save it as UTF-8.")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}, line {line}: not UTF-8 (byte {error.start} of the file); save it as UTF-8."
        ) from error
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(f"{source}, line {line}: there is a NUL character; is this UTF-16 or a binary file?")
    return text


def _distinct(place: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns.

    Raises:
        DataError: If one stands twice.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{place}: {count} columns have the name {name!r}.")
    return tuple(names)


def _delimited(delimiter: str) -> Callable[[str, bytes], Rows]:
    def read(source: str, raw: bytes) -> Rows:
        text = _decode(source, raw)
        records = _records(source, text, delimiter)
        first, header = next(records, (1, []))
        names = _distinct(f"{source}, line {first}", [name.strip() for name in header])
        rows: list[dict[str, Cell]] = []
        lines: list[int] = []
        for line, cells in records:
            if len(cells) != len(names):
                raise DataError(f"{source}, line {line}: {_width_problem(len(cells), len(names), delimiter)}.")
            rows.append(dict(zip(names, cells, strict=True)))
            lines.append(line)
        return Rows(source, names, rows, lines)

    return read


def _width_problem(width: int, header: int, delimiter: str) -> str:
    if width < header:
        return f"the row has {width} of {header} cells"
    separator = "comma" if delimiter == "," else "tab"
    return f"the row has {width} cells where the header has {header} (a {separator} inside a text without quotes?)"


def _records(source: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV text, each with the line on which it starts, without blank ones.

    Raises:
        DataError: If the quoting is broken.
    """
    with _long_cells(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problem = (
                    "a quote that opens a cell is never closed"
                    if "end of data" in str(error)
                    else "a cell goes on after its closing quote (inside a quoted cell, a quote is written twice)"
                )
                raise DataError(f"{source}, line {start}: {problem}.") from error
            if cells is None:
                return
            if cells:
                yield start, cells


@contextlib.contextmanager
def _long_cells(size: int) -> Iterator[None]:
    """Let the csv module, whose limit is global, read cells of this size."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, size))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _plain(source: str, raw: bytes) -> Rows:
    # str.splitlines would also cut at separators such as U+2028 and U+0085, which occur inside texts.
    lines = [line.removesuffix("\r") for line in _decode(source, raw).split("\n")]
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return Rows(source, ("text",), [{"text": line} for _, line in filled], [number for number, _ in filled])


class _RepeatedKeyError(ValueError):
    """A key stands twice in a JSON object."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _RepeatedKeyError(f"the key {name!r} stands twice")
    return found


def _jsonl(source: str, raw: bytes) -> Rows:
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    names: dict[str, None] = {}
    rows: list[dict[str, Cell]] = []
    lines: list[int] = []
    unusable: dict[str, str] = {}
    for number, line in enumerate(_decode(source, raw).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        row: dict[str, Cell] = {}
        for name, value in _object(decoder, place, line).items():
            names[name] = None
            if value is None or isinstance(value, str | int | float):
                row[name] = value
            else:
                what = "a list" if isinstance(value, list) else "an object"
                unusable.setdefault(name, f"{place}: the column {name!r} holds {what}, not a text or a number.")
        rows.append(row)
        lines.append(number)
    return Rows(source, tuple(names), rows, lines, unusable=unusable)


def _object(decoder: json.JSONDecoder, place: str, line: str) -> dict[str, object]:
    """The JSON object that a line holds.

    Raises:
        DataError: If it holds none, or one with half of a surrogate pair, which no UTF-8 can write.
    """
    try:
        value = decoder.decode(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON ({error.msg}, at character {error.pos + 1}).") from error
    except RecursionError as error:
        raise DataError(f"{place}: the JSON is nested too deeply.") from error
    except ValueError as error:  # a repeated key, or a number of thousands of digits
        raise DataError(f"{place}: not usable JSON ({error}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: not a JSON object, but {type(value).__name__}.")
    if "\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: an escape \\u... is half of a surrogate pair.") from error
    return value


def _parquet(source: str, raw: bytes) -> Rows:
    """All columns of texts and numbers.

    Raises:
        DataError: If `pyarrow` is not installed, or if the file is damaged.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"Reading {source} needs the package 'pyarrow': pip install pyarrow.") from error
    unusable: dict[str, str] = {}
    columns: dict[str, list[Cell]] = {}
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(raw)).read()
        for name, kind, cells in zip(table.schema.names, table.schema.types, table.columns, strict=True):
            if _usable(kind):
                columns[name] = [
                    cell if isinstance(cell, str | int | float | None) else str(cell) for cell in cells.to_pylist()
                ]
            else:
                unusable[name] = f"{source}: the column {name!r} holds {kind}, not texts or numbers."
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{source} is not a readable Parquet file: {reason}.") from error
    names = _distinct(source, table.schema.names)
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    rows = rows if columns else [{} for _ in range(table.num_rows)]
    return Rows(source, names, rows, list(range(1, len(rows) + 1)), unit="row", unusable=unusable)


def _usable(kind: object) -> bool:
    """Whether an Arrow type is one of texts or numbers."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _usable(kind.value_type)  # type: ignore[attr-defined]
    return any(
        check(kind)
        for check in (
            types.is_string,
            types.is_large_string,
            types.is_boolean,
            types.is_integer,
            types.is_floating,
            types.is_decimal,
            types.is_null,
        )
    )


#: The readers by format.
FORMATS: Mapping[str, Callable[[str, bytes], Rows]] = {
    "csv": _delimited(","),
    "tsv": _delimited("\t"),
    "jsonl": _jsonl,
    "parquet": _parquet,
    "txt": _plain,
}

#: The formats by a file's ending.
ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}
