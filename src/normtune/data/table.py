"""A table that was read from a file."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from normtune.errors import DataError


class Number(str):
    """A number as written in JSON; texts, labels and targets are read from that spelling."""

    __slots__ = ()


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        source: The file's path, or ``standard input``.
        columns: The cells of each column, one a row, by the column's name.
        lines: Where each row starts: its 1-based line or, in Parquet and Excel, its 1-based number.
        unit: What `lines` counts: ``line`` or ``row``.
        notes: Sentences that say what was guessed in reading.
        bad: The lines (or rows, as `unit` says) that could not be used and were left out on request.
    """

    source: str
    columns: Mapping[str, Sequence[object]]
    lines: Sequence[int]
    unit: str = "line"
    notes: tuple[str, ...] = ()
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, index: int) -> str:
        """Where row `index` (from 0) is, to start a sentence about it."""
        return f"{self.source}, {self.unit} {self.lines[index]}"

    @property
    def places(self) -> list[str]:
        """Where each row is."""
        return [self.place(index) for index in range(len(self))]

    def cells(self, name: str) -> Sequence[object]:
        """The cells of a column.

        Raises:
            DataError: If there is no such column.
        """
        if name not in self.columns:
            known = {other.casefold(): other for other in self.columns}
            close = difflib.get_close_matches(name.casefold(), known, n=1)
            guess = f" Did you mean {known[close[0]]!r}?" if close else ""
            raise DataError(
                f"{self.source} has no column {name!r}.{guess} It has: {', '.join(self.columns) or 'none'}."
            )
        return self.columns[name]

    def column(self, name: str) -> list[str]:
        """The cells of a column as texts, one a row: empty where there is none, other values as Python writes them.

        True and false are written as in JSON.

        Raises:
            DataError: If there is no such column, or if a cell is neither a text nor a number.
        """
        cells = self.cells(name)
        for index, cell in enumerate(cells):
            if not isinstance(cell, str | int | float | Decimal | None):
                holds = f"the column {name!r} holds a value of type {type(cell).__name__}"
                hint = "; lists are for train --labels several or tags" if isinstance(cell, list) else ""
                raise DataError(f"{self.place(index)}: {holds}, not a text or a number{hint}.")
        return ["" if cell is None or cell != cell else as_text(cell) for cell in cells]

    def drop(self, bad: Collection[int]) -> Rows:
        """The table without the rows at `bad`, whose lines are added to `Rows.bad`."""
        if not bad:
            return self
        kept = [index for index in range(len(self)) if index not in bad]
        columns = {name: [cells[index] for index in kept] for name, cells in self.columns.items()}
        lines = [self.lines[index] for index in kept]
        left_out = sorted({*self.bad, *(self.lines[index] for index in bad)})
        return replace(self, columns=columns, lines=lines, bad=tuple(left_out))

    @property
    def left_out(self) -> tuple[str, ...]:
        """A note on the rows that are left out, if there are any.

        Raises:
            DataError: If no rows remain.
        """
        if not self.bad:
            return ()
        if not len(self):
            raise DataError(f"{self.source} has no rows that can be used; all {len(self.bad)} are bad.")
        return (left_out(self.source, "bad row", self.unit, self.bad),)


def as_text(cell: object) -> str:
    """A value as Python writes it, but true and false as JSON does."""
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def left_out(source: str, what: str, unit: str, lines: Sequence[int]) -> str:
    """A note on what is left out of a file, and where it was."""
    many, ending = ("are", "s") if len(lines) > 1 else ("is", "")
    return f"{source}: {len(lines)} {what}{ending} {many} left out: {unit}{ending} {places(lines)}."


def places(lines: Sequence[int]) -> str:
    """The first few of some lines, for a message."""
    return ", ".join(map(str, lines[:5])) + (", ..." if lines[5:] else "")
