"""Records of runs as a table: a row a run, read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normtune.errors import DataError, UnknownNameError, known
from normtune.records.results import load_runs

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
    found = []
    for record in load_runs(folder):
        own = {"protocol": record.config.protocol.name, "trained": record.counts.trained}
        places = (own, vars(record.config), vars(record))
        found.append({name: next(place[name] for place in places if name in place) for name in COLUMNS})
    return found


def select(found: Sequence[Row], wanted: Mapping[str, Any]) -> list[Row]:
    """The rows that have each wanted value, in their order.

    Args:
        found: Rows.
        wanted: A value for each column that matters; fractions need to agree to nine digits.

    Returns:
        The rows, at least one.

    Raises:
        UnknownNameError: If none of those with the values before it has a wanted name.
        DataError: If none of these has a wanted number.
    """
    for name, value in wanted.items():
        there = {own[name] for own in found}
        found = [own for own in found if _same(own[name], value)]
        if not found and isinstance(value, str):
            raise UnknownNameError(name, value, there)
        if not found:
            numbers = ", ".join(f"{own:g}" for own in sorted(there))
            raise DataError(f"No such record has the {name} {value:g}; there are {numbers}.")
    return [*found]


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
