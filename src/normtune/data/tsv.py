"""Tab-separated files as GLUE publishes them: no quoting, UTF-8, columns found by the header's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normtune.errors import DataError


@dataclass(frozen=True)
class Table:
    """The wanted columns of a file.

    Attributes:
        path: The file.
        lines: For each row its 1-based line number in the file.
        rows: For each row the stripped values of the wanted columns, in the order asked for.
        short: How many rows were left out because they had too few columns.
    """

    path: Path
    lines: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]
    short: int = 0


def read_table(
    path: Path, columns: Sequence[str], *, header: Sequence[str] | None = None, ragged: bool = False
) -> Table:
    """Reads some columns of a tab-separated file.

    Args:
        path: The file.
        columns: Names of the wanted columns.
        header: Names of all columns, for a file that has no header line.
        ragged: Leave out and count rows with too few columns, and ignore values beyond the last column; otherwise
            both are errors.

    Returns:
        The rows; blank lines at the end of the file are none.

    Raises:
        DataError: If the file cannot be read, is not UTF-8, is empty, lacks a wanted column, or has a row whose number
            of columns differs from the header's.
    """
    content = [line.split("\t") for line in _lines(path)]
    if not content:
        raise DataError(f"{path} is empty.")
    first = 1 if header is None else 0
    names = [name.strip() for name in (content[0] if header is None else header)]
    wanted = _positions(path, names, columns)
    lines, rows, short = [], [], 0
    for number, values in enumerate(content[first:], start=first + 1):
        if len(values) != len(names) and (problem := _width_problem(values, len(names), ragged=ragged)):
            if not ragged:
                raise DataError(f"{path}, line {number}: {problem}.")
            short += 1
            continue
        lines.append(number)
        rows.append(tuple([values[position].strip() for position in wanted]))
    return Table(path, tuple(lines), tuple(rows), short)


def count_rows(path: Path, *, header: bool = True) -> int:
    """The number of rows of a file that are not blank, without decoding it.

    Args:
        path: The file.
        header: Whether the first line is a header, which does not count.
    """
    with path.open("rb") as file:
        filled = sum(1 for line in file if line.strip())
    return max(filled - header, 0)


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without a byte-order mark and without blank lines at the end.

    Raises:
        DataError: If the file cannot be read or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {error.start} of the file).") from error
    # str.splitlines would also cut at separators such as U+2028 and U+0085, which occur inside texts.
    lines = text.removeprefix("\ufeff").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _positions(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the wanted columns are.

    Raises:
        DataError: If one is not there.
    """
    for column in columns:
        if column not in names:
            raise DataError(f"{path}, line 1: the header has no column {column!r}; it has: {', '.join(names)}.")
    return [names.index(column) for column in columns]


def _width_problem(values: Sequence[str], width: int, *, ragged: bool) -> str | None:
    """What is wrong with a row that is not as wide as the header, or None where that does no harm."""
    if len(values) < width:
        return f"the row has {len(values)} of {width} columns"
    if ragged or not any(value.strip() for value in values[width:]):
        return None
    return f"the row has {len(values)} columns where there should be {width} (a tab inside a text?)"
