"""Records of runs as rows, and what differs between two of them, read without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from normtune.errors import DataError, UnknownNameError, known
from normtune.records.results import load_runs
from normtune.records.run import Record

Row = dict[str, Any]

COLUMNS = (
    *("id", "status", "task", "method", "rate", "seed", "protocol", "model"),
    *("primary", "score", "best_epoch", "trained", "seconds", "error"),
)

#: The kind of each part of a record; the rest is outcome.
KINDS = {
    **dict.fromkeys(("config", "base_identity", "trains", "counts", "outputs", "data"), "configuration"),
    **dict.fromkeys(("machine", "versions"), "machine"),
}
#: Not compared: a name, and lists with an entry for each epoch or parameter, which are too long to show.
LEFT_OUT = ("id", "curve", "changes")
ORDER = ("configuration", "machine", "outcome")


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
        wanted: A value for each column to filter by; fractions must agree to nine digits.

    Returns:
        The rows, at least one.

    Raises:
        UnknownNameError: If none of the rows left by the values before it has a wanted name.
        DataError: If none of them has a wanted number.
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


def by_id(records: Sequence[Record], start: str) -> Record:
    """The only record whose id is, or starts with, `start`.

    Raises:
        DataError: If there is none, or more than one.
    """
    found = [record for record in records if record.id == start]
    found = found or [record for record in records if start and record.id.startswith(start)]
    if not found:
        raise DataError(f"No record has an id that starts with {start!r}; `normtune runs` lists them.")
    if len(found) > 1:
        raise DataError(f"The ids of {len(found)} records start with {start!r}; give more of the one that you mean.")
    return found[0]


def differences(first: Record, second: Record) -> list[Row]:
    """A row for each field in which two records differ, configuration first and outcome last.

    A row has the field's ``kind``, its name (``field``), and its value in the ``first`` and the ``second`` record; None
    where one lacks it. `LEFT_OUT` is not compared.
    """
    one, other = (dict(leaves(record.model_dump(mode="json"))) for record in (first, second))
    found = [
        {"kind": _kind(field), "field": field, "first": one.get(field), "second": other.get(field)}
        for field in {**one, **other}
        if field.split(".")[0] not in LEFT_OUT and one.get(field) != other.get(field)
    ]
    return sorted(found, key=lambda row: ORDER.index(row["kind"]))


def _kind(field: str) -> str:
    return KINDS.get(field.split(".")[0], "outcome")


def leaves(values: Mapping[str, Any], joint: str = ".", before: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested values, each under its names joined by `joint`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, joint, f"{before}{name}{joint}")
        else:
            yield f"{before}{name}", value
