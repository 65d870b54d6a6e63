"""Two records beside each other: what differs in how they ran and in what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from normtune.errors import DataError
from normtune.records.run import Record

Kind = Literal["configuration", "machine", "outcome"]

#: Which part of a record is what; the rest is outcome.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("config", "base_identity", "trains", "counts", "outputs", "data"), "configuration"),
    **dict.fromkeys(("machine", "versions"), "machine"),
}
#: A name, and lists with an entry an epoch or a parameter: too long to set side by side.
LEFT_OUT = ("id", "curve", "changes")
ORDER: tuple[Kind, ...] = ("configuration", "machine", "outcome")


@dataclass(frozen=True)
class Difference:
    """A field that two records do not share; None where a record lacks it."""

    kind: Kind
    field: str
    first: Any
    second: Any


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


def differences(first: Record, second: Record) -> list[Difference]:
    """Every field in which two records differ, configuration first and outcome last; `LEFT_OUT` is not compared."""
    one, other = (dict(leaves(record.model_dump(mode="json"))) for record in (first, second))
    found = [
        Difference(KINDS.get(field.split(".")[0], "outcome"), field, one.get(field), other.get(field))
        for field in {**one, **other}
        if field.split(".")[0] not in LEFT_OUT and one.get(field) != other.get(field)
    ]
    return sorted(found, key=lambda difference: ORDER.index(difference.kind))


def leaves(values: Mapping[str, Any], joint: str = ".", before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values, each under its names, joined by dots unless said otherwise."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, joint, f"{before}{name}{joint}")
        else:
            yield f"{before}{name}", value
