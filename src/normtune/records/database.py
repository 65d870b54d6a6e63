"""Records of runs as a table: a row a run, read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.errors import DataError, UnknownNameError, known
from normtune.records.results import load_runs
from normtune.records.run import Record

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

COLUMNS = (
    *("id", "status", "task", "method", "rate", "seed", "protocol", "model"),
    *("primary", "score", "best_epoch", "trained", "seconds", "error"),
)


def rows(folder: Path) -> list[Row]:
    """A row for each record in `folder`, or in its ``runs``: `COLUMNS`, None where a record has no value.

    Scores are fractions, times are seconds; ``trained`` counts entries.

    Raises:
        DataError: If there is no such folder, it holds no record, or one is damaged.
    """
    return [row(record) for record in load_runs(folder)]


def row(record: Record) -> Row:
    """The record's `COLUMNS`."""
    config = record.config
    own = {"protocol": config.protocol.name, "trained": record.counts.trained}
    places = (own, vars(config), vars(record))
    return {name: next(place[name] for place in places if name in place) for name in COLUMNS}


def select(found: Sequence[Row], wanted: Mapping[str, Any]) -> list[Row]:
    """The rows that have each wanted value, in their order.

    Args:
        found: Rows.
        wanted: A value for each column that matters; fractions need to agree to nine digits.

    Returns:
        The rows, at least one.

    Raises:
        UnknownNameError: If no row at all has a wanted name.
        DataError: If no row at all has a wanted number, or no row has all wanted values.
    """
    for name, value in wanted.items():
        there = {own[name] for own in found}
        if any(_same(own, value) for own in there):
            continue
        if isinstance(value, str):
            raise UnknownNameError(name, value, there)
        raise DataError(f"No record has the {name} {value:g}; there are {', '.join(f'{k:g}' for k in sorted(there))}.")
    chosen = [own for own in found if all(_same(own[name], value) for name, value in wanted.items())]
    if not chosen:
        raise DataError(f"No record has all of {', '.join(f'{name} {value}' for name, value in wanted.items())}.")
    return chosen


def _same(value: Any, wanted: Any) -> bool:
    return math.isclose(value, wanted) if isinstance(wanted, float) else bool(value == wanted)


def ordered(found: Sequence[Row], column: str, *, descending: bool = False) -> list[Row]:
    """The rows by a column; equal ones keep their order, and those without a value come last.

    Raises:
        UnknownNameError: If there is no such column.
    """
    known("column", column, COLUMNS)
    having = [own for own in found if own[column] is not None]
    without = [own for own in found if own[column] is None]
    return [*sorted(having, key=lambda own: own[column], reverse=descending), *without]


def frame(folder: Path | str) -> pd.DataFrame:
    """What `rows` gives, as a pandas DataFrame."""
    import pandas as pd

    return pd.DataFrame(rows(Path(folder)), columns=list(COLUMNS))
