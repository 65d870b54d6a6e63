"""Tab-separated files as GLUE publishes them: no quoting, UTF-8, columns found by the header's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normtune.data.rows import decode, read_bytes, split_lines
from normtune.errors import DataError


def read_table(
    path: Path, columns: Sequence[str], *, header: Sequence[str] | None = None, ragged: bool = False
) -> tuple[list[tuple[int, tuple[str, ...]]], int]:
    """Reads some columns of a tab-separated file.

    Args:
        path: The file.
        columns: Names of the wanted columns.
        header: Names of all columns, for a file that has no header line.
        ragged: Leave out and count rows with too few columns, and ignore values beyond the last column; otherwise
            both are errors.

    Returns:
        The rows, each with its 1-based line and the stripped values of the wanted columns, in the order asked for, and
        how many rows were left out. Blank lines at the end of the file are no rows.

    Raises:
        DataError: If the file cannot be read, lacks a wanted column, or has a row that is not as wide as the header.
    """
    lines = split_lines(decode(str(path), read_bytes(path)).rstrip("\r\n"))
    start = 1 if header is None else 0
    names = [name.strip() for name in (lines[0].split("\t") if header is None else header)]
    for column in columns:
        if column not in names:
            raise DataError(f"{path}, line 1: the header has no column {column!r}; it has: {', '.join(names)}.")
    wanted = [names.index(column) for column in columns]
    rows, short = [], 0
    for number, line in enumerate(lines[start:], start=start + 1):
        values = line.split("\t")
        if len(values) < len(names) and ragged:
            short += 1
            continue
        # Tabs at the end of a row do no harm.
        if len(values) < len(names) or (any(value.strip() for value in values[len(names) :]) and not ragged):
            hint = " (is there a tab in a text?)" if len(values) > len(names) else ""
            raise DataError(f"{path}, line {number}: the row has {len(values)} of {len(names)} columns{hint}.")
        rows.append((number, tuple([values[position].strip() for position in wanted])))
    return rows, short


def count_rows(path: Path, *, header: bool) -> int:
    """The number of rows of a file that are not blank, without decoding it; a header does not count."""
    with path.open("rb") as file:
        filled = sum(1 for line in file if line.strip())
    return max(filled - header, 0)
