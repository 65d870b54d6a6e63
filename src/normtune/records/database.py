"""Records as one table: a row a run, read without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.errors import ConfigError, DataError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

COLUMNS = (
    *("id", "status", "task", "method", "rate", "seed", "protocol", "model"),
    *("primary", "score", "best_epoch", "trained", "seconds", "error"),
)


def records(folder: Path) -> list[Row]:
    """The records in `folder`, or in its ``runs``, by file name, as their files have them.

    Raises:
        DataError: If there is no such folder, if there are no records in it, or if a file is no record.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    place = folder / "runs" if (folder / "runs").is_dir() else folder
    found = [_read(file) for file in sorted(place.glob("*.json"))]
    if not found:
        raise DataError(f"There are no records in {folder}.")
    return found


def _read(file: Path) -> Row:
    try:
        record: Row = json.loads(file.read_text(encoding="utf-8"))
        _row(record)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no record of a run.") from error
    return record


def _row(record: Row) -> Row:
    config = record["config"]
    must = {name: record[name] for name in ("id", "status")}
    must |= {name: config[name] for name in ("task", "method", "rate", "seed", "model")}
    rest = {
        **record,
        **must,
        "protocol": config["protocol"]["name"],
        "trained": record.get("counts", {}).get("trained"),
    }
    return {name: rest.get(name) for name in COLUMNS}


def rows(folder: Path) -> list[Row]:
    """A row for each record in `folder`, or in its ``runs``: `COLUMNS`, None where a record has no value.

    Scores are fractions, times seconds; ``trained`` counts entries.

    Raises:
        DataError: If there is no such folder, if there are no records in it, or if a file is no record.
    """
    return [_row(record) for record in records(folder)]


def select(found: Sequence[Row], wanted: Mapping[str, Any]) -> list[Row]:
    """The rows that have each wanted value, in their order.

    Args:
        found: Rows.
        wanted: A value for each column that matters; fractions need to agree to nine digits.

    Returns:
        The rows, at least one.

    Raises:
        UnknownNameError: If no row at all has a wanted name.
        DataError: If no row at all has a wanted number, or none has all that is wanted.
    """
    for name, value in wanted.items():
        if not any(_same(row[name], value) for row in found):
            _refuse(name, value, {row[name] for row in found})
    chosen = [row for row in found if all(_same(row[name], value) for name, value in wanted.items())]
    if not chosen:
        raise DataError(f"No record has all of {', '.join(f'{name} {value}' for name, value in wanted.items())}.")
    return chosen


def _same(value: Any, wanted: Any) -> bool:
    return math.isclose(value, wanted) if isinstance(wanted, float) else bool(value == wanted)


def _refuse(name: str, value: Any, known: set[Any]) -> None:
    if isinstance(value, str):
        raise UnknownNameError(name, value, known)
    raise DataError(f"No record has the {name} {value:g}; there are {', '.join(f'{k:g}' for k in sorted(known))}.")


def ordered(found: Sequence[Row], column: str, *, descending: bool = False) -> list[Row]:
    """The rows by a column; equal ones keep their order, and those without a value come last.

    Raises:
        UnknownNameError: If there is no such column.
    """
    if column not in COLUMNS:
        raise UnknownNameError("column", column, COLUMNS)
    having = [row for row in found if row[column] is not None]
    without = [row for row in found if row[column] is None]
    return [*sorted(having, key=lambda row: row[column], reverse=descending), *without]


def frame(folder: Path | str) -> pd.DataFrame:
    """The records in `folder` as a pandas DataFrame, a row a run, with `COLUMNS`.

    Scores are fractions, times seconds; ``trained`` counts entries.

    Raises:
        ConfigError: If pandas is missing.
        DataError: If there is no such folder, if there are no records in it, or if a file is no record.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError("A DataFrame needs pandas: pip install 'normtune[frame]'.") from error
    return pd.DataFrame(rows(Path(folder)), columns=list(COLUMNS))
