"""Reads the rows of a file: CSV, TSV, JSONL, Excel, Parquet, CoNLL, or plain text (a text a line); also compressed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

from normtune.data.content import PACKED, decode, filled_lines, inner, library_errors, read_bytes, room
from normtune.data.reading import RECOGNISED, Reading
from normtune.data.table import Number, Rows, left_out
from normtune.errors import ConfigError, DataError

# The least bytes that a cell takes in memory, beside its text.
_CELL = 16

#: The 1-based number of a line or row of a file, and its cells.
NumberedCells = tuple[int, Sequence[object]]


def read_rows(path: Path | None, reading: Reading = RECOGNISED) -> Rows:
    """Reads a table from a file, or plain text from standard input.

    Text is UTF-8, UTF-16 with a byte-order mark or, with a note, Windows-1252. CSV, TSV and Excel have a header, and
    every row is as wide as the header. CSV may be separated by semicolons, tabs or bars; its header shows which, or a
    first line such as ``sep=;``. CSV and TSV are quoted as in RFC 4180, but quotes in TSV are plain text if only then
    every line is a row. A line of JSONL is an object; the columns are all keys that occur, ``outer.inner`` for those of
    a nested object. Plain text is one column, ``text``. Rows of empty cells and blank lines of plain text are left out
    with a note, other empty lines without one. Anything else wrong raises a `DataError` that names the file and line.

    Args:
        path: The file, whose ending is one of `READERS`, followed by one of `PACKED` if it is compressed; None reads
            standard input.
        reading: What is set rather than recognised, and whether bad rows are left out.

    Returns:
        The rows, at least one.

    Raises:
        ConfigError: If `reading` sets what such a file does not have.
        DataError: If there are no rows.
    """
    if path is None:
        source, ending = "standard input", ".txt"
    else:
        source, ending = str(path), inner(path).suffix.lower()
    if ending not in READERS:
        known = f"{', '.join(READERS)}, also with {', '.join(PACKED)} behind it"
        raise DataError(f"{source} ends in none of: {known}.")
    cells, text = ending in {".csv", ".tsv"}, ending not in {".xlsx", ".parquet"}
    for name, fits in (("delimiter", cells), ("decimal", ending != ".txt"), ("encoding", text)):
        if getattr(reading, name) and not fits:
            raise ConfigError(f"{source} has no {name} to choose; leave {name} out of --read.")
    raw = sys.stdin.buffer.read() if path is None else read_bytes(path)
    _check_cells(source, sum(map(raw.count, _ENDS)), len(raw) if path is None else path.stat().st_size)
    rows = READERS[ending](source, raw, reading)
    if not len(rows) and not rows.left_out:  # `left_out` raises if all rows are bad
        raise DataError(f"{source} has no rows.")
    return rows


#: What may end a cell or a row of a text.
_ENDS = (b"\n", b",", b";", b"\t", b"|")


def _check_cells(source: str, cells: int, size: int) -> None:
    """Raise an error for more cells than may fit into memory, before they are made."""
    if cells > room(size) // _CELL:
        raise DataError(f"{source} holds {cells:,} cells, which may not fit into memory; take a part of it.")


def _delimited(source: str, raw: bytes, reading: Reading = RECOGNISED, delimiter: str = "") -> Rows:
    """The rows of delimited text; without a `delimiter`, the most frequent one in the header separates cells."""
    text, notes = decode(source, raw, reading.encoding)
    before, delimiter = 0, reading.delimiter or delimiter
    if mark := re.match(r"sep=([,;|\t])\r?\n", text):
        delimiter, text, before = reading.delimiter or mark[1], text[mark.end() :], 1
    elif not delimiter:
        names = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0])
        delimiter = max(",;\t|", key=names.count)
        if delimiter != ",":
            notes += (f"{source} is separated by {delimiter!r}, as its header is.",)
    records = None
    if delimiter == "\t" and '"' in text:
        lines = _records(source, text, delimiter, before, csv.QUOTE_NONE)
        if len({len(cells) for _, cells in lines}) == 1:
            with suppress(DataError):
                records = _records(source, text, delimiter, before)
            if records is None or len(records) < len(lines):
                records = lines
                notes += (f"{source}: quotes are read as part of the texts, since only then every line is a row.",)
    return _table(source, records or _records(source, text, delimiter, before), "line", notes, reading)


def _records(
    source: str, text: str, delimiter: str, before: int, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> list[NumberedCells]:
    """The records of delimited text, each with the line on which it starts, without empty lines."""
    # The csv module's limit is global. No cell is longer than the text.
    limit = csv.field_size_limit(len(text) + 1)
    found: list[NumberedCells] = []
    start = before + 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        for cells in reader:
            if cells:
                found.append((start, cells))
            start = before + reader.line_num + 1
    except csv.Error as error:
        hint = "a cell that opens with a quote must close with one, and a quote inside it is written twice"
        raise DataError(f"{source}, line {start}: broken quotes ({error}); {hint}.") from error
    finally:
        csv.field_size_limit(limit)
    return found


def _table(source: str, records: Sequence[NumberedCells], unit: str, notes: tuple[str, ...], reading: Reading) -> Rows:
    """The rows under the header, without columns that have neither a name nor data, and without an unnamed index."""
    (first, header), *rows = [record for record in records if any(map(_holds, record[1]))] or [(1, ())]
    blank = sorted({line for line, _ in records if line > first} - {line for line, _ in rows})
    if blank:
        notes += (left_out(source, "blank row", unit, blank),)
    names = ["" if name is None else str(name).strip() for name in header]
    bad = tuple(line for line, cells in rows if len(cells) != len(names))
    if bad and reading.skip:
        rows = [(line, cells) for line, cells in rows if len(cells) == len(names)]
    for line, cells in rows if bad else ():
        if len(cells) != len(names):
            hint = " (is there a separator in a text without quotes?)" if len(cells) > len(names) else "; complete it"
            raise DataError(f"{source}, {unit} {line}: the row has {len(cells)} of {len(names)} cells{hint}.")
    columns: dict[str, Sequence[object]] = {}
    for place, name in enumerate(names):
        column = [cells[place] for _, cells in rows]
        if not name and not any(map(_holds, column)):
            continue
        if not name and place == 0 and all(str(cell).isdecimal() for cell in column):
            notes += (f"{source}: the first column has no name and is left out, as it only counts.",)
            continue
        if name in columns:
            again = f"{names.count(name)} columns have the name {name!r}"
            raise DataError(f"{source}, {unit} {first}: {again}; rename one.")
        columns[name] = column
    return Rows(source, columns, [line for line, _ in rows], unit, notes, bad)


def _holds(cell: object) -> bool:
    """Whether a cell holds more than blanks."""
    return cell is not None and str(cell).strip() != ""


def _plain(source: str, raw: bytes, reading: Reading = RECOGNISED) -> Rows:
    text, notes = decode(source, raw, reading.encoding)
    lines = filled_lines(text)
    numbers = [number for number, _ in lines]
    blank = sorted({*range(1, max(numbers, default=0))} - {*numbers})
    if blank:
        notes += (left_out(source, "blank line", "line", blank),)
    return Rows(source, {"text": [line for _, line in lines]}, numbers, notes=notes)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """An object from its pairs; raises an error for a repeated key, whose last value Python would keep."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} stands twice")
    return found


#: Keeps numbers as they are written.
JSON = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant={"NaN": None}.get, object_pairs_hook=_once)


def _jsonl(source: str, raw: bytes, reading: Reading = RECOGNISED) -> Rows:
    text, notes = decode(source, raw, reading.encoding)
    rows, numbers, bad = list[dict[str, object]](), list[int](), list[int]()
    for number, line in filled_lines(text):
        try:
            rows.append(_object(f"{source}, line {number}", line))
            numbers.append(number)
        except DataError:
            if not reading.skip:
                raise
            bad.append(number)
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    _check_cells(source, len(rows) * len(names), len(raw))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Rows(source, columns, numbers, notes=notes, bad=tuple(bad))


def _object(place: str, line: str) -> dict[str, object]:
    """The JSON object on a line, with the fields of nested objects as ``outer.inner``."""
    try:
        value = JSON.decode(line)
        if "\\u" in line:  # which may be a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
        flat = _once([*_fields(value)]) if isinstance(value, dict) else None
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON ({error.msg}, at character {error.pos + 1}).") from error
    except (ValueError, RecursionError) as error:  # a lone surrogate, a repeated key, thousands of brackets
        raise DataError(f"{place}: not usable JSON ({error}).") from error
    if flat is None:
        raise DataError(f"{place}: not a JSON object, but {type(value).__name__}; write one object a line.")
    return flat


def _fields(outer: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in outer.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _excel(source: str, raw: bytes, reading: Reading = RECOGNISED) -> Rows:
    with library_errors(source, "Excel", "openpyxl"):
        import pandas

        with pandas.ExcelFile(io.BytesIO(raw), engine="openpyxl") as book:
            sheet, height, width = book.book.worksheets[0], 0, 0
            sheet.reset_dimensions()  # the stored ones may be wrong
            for row in sheet.iter_rows(values_only=True):
                height, width = height + 1, max(width, len(row))
                _check_cells(source, height * width, len(raw))
            cells = pandas.read_excel(book, header=None, dtype=object, na_filter=False).to_numpy().tolist()
            name, *others = book.sheet_names
    notes = (f"{source}: of {1 + len(others)} sheets the first, {name!r}, is read.",) if others else ()
    return _table(source, [*enumerate(cells, 1)], "row", notes, reading)


def _parquet(source: str, raw: bytes, _: Reading = RECOGNISED) -> Rows:
    with library_errors(source, "Parquet", "pyarrow"):
        import pyarrow
        from pyarrow import parquet

        file = parquet.ParquetFile(pyarrow.BufferReader(raw))
        count, names = file.metadata.num_rows, file.schema_arrow.names
        if len({*names}) < len(names):
            raise ValueError(f"columns have the same name: {', '.join(names)}")
        _check_cells(source, count * len(names), len(raw))
        columns: dict[str, list[object]] = {name: [] for name in names}
        size, most = 0, room(len(raw))
        for batch in file.iter_batches(batch_size=64):
            for name, cells in batch.to_pydict().items() if size + batch.nbytes <= most else ():
                columns[name] += cells
                size += sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
            if size + batch.nbytes > most:  # a text that many rows share is stored once
                raise DataError(f"{source} unpacks to more than {most:,} bytes; take a part of it.")
    return Rows(source, columns, range(1, count + 1), "row")


def _conll(source: str, raw: bytes, reading: Reading = RECOGNISED) -> Rows:
    """Texts with a word a line and blank lines between: the first column holds the words, the last one the tags."""
    text, notes = decode(source, raw, reading.encoding)
    texts, starts, width, inside, odd = list[list[list[str]]](), list[int](), 0, False, set[int]()
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        parts = line.split()
        if not parts or parts[0] == "-DOCSTART-":
            inside = False
            continue
        width = width or len(parts)
        if not inside:
            texts.append([])
            starts.append(number)
        inside = True
        if len(parts) != width:
            if not reading.skip:
                raise DataError(f"{source}, line {number}: the line has {len(parts)} of {width} columns.")
            odd.add(len(texts) - 1)
        texts[-1].append(parts)
    columns: dict[str, list[list[str]]] = {"text": [[parts[0] for parts in own] for own in texts]}
    if width > 1:
        columns["label"] = [[parts[-1] for parts in own] for own in texts]
    return Rows(source, columns, starts, notes=notes).drop(odd)


#: The reader of each file ending; it takes the source (for messages), the file's bytes, and a `Reading`.
READERS: Mapping[str, Callable[..., Rows]] = {
    ".csv": _delimited,
    ".tsv": partial(_delimited, delimiter="\t"),
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".xlsx": _excel,
    ".parquet": _parquet,
    ".txt": _plain,
    ".conll": _conll,
}
