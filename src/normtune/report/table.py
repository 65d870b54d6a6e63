"""A table as a plain value, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normtune.records.aggregate import Cell

Kind = Literal["", "missing", "partial", "note", "good", "bad", "best"]


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: What stands in it.
        spread: What stands behind it, smaller.
        badge: How much of it is missing.
        kind: How it looks.
        tip: What a pointer over it shows.
    """

    text: str
    spread: str = ""
    badge: str = ""
    kind: Kind = ""
    tip: str = ""

    def __str__(self) -> str:
        parts = [self.text, f"± {self.spread}" if self.spread else "", f"({self.badge})" if self.badge else ""]
        return " ".join(filter(None, parts))


#: What stands where there is nothing.
GAP = Entry("—", kind="missing")


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a line that says what they are.

    Attributes:
        name: That line, or nothing.
        rows: The rows.
        other: Whether they are of another model, so that their level is not to be compared.
    """

    name: str
    rows: tuple[tuple[Entry, ...], ...]
    other: bool = False


def group(rows: Iterable[Sequence[str | Entry]], name: str = "", *, other: bool = False) -> Group:
    """The group of these rows; a text alone is an entry with nothing behind it."""
    made = (tuple(Entry(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Group(name, tuple(made), other)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: Its name in files and links.
        title: Its number and what it shows.
        header: Names of the columns.
        groups: The rows.
        caption: What must be known to read it.
        notes: Remarks below it, such as what is missing.
        texts: How many columns, from the left, hold words rather than numbers.
    """

    key: str
    title: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    texts: int = 1

    @property
    def filled(self) -> bool:
        """Whether it has any rows; one without is not shown."""
        return bool(self.groups)

    @property
    def rows(self) -> tuple[tuple[Entry, ...], ...]:
        """All rows."""
        return tuple(row for group in self.groups for row in group.rows)


def as_markdown(table: Table) -> str:
    """The table in Markdown, with its caption and notes."""
    blocks = [f"**{table.title}** {table.caption}".strip(), rows_as_markdown(table)]
    return "\n\n".join([*blocks, *table.notes]) + "\n"


def rows_as_markdown(table: Table) -> str:
    """The header and the rows alone, in Markdown."""
    width = len(table.header)
    marks = ["---" if place < table.texts else "---:" for place in range(width)]
    lines = [_bar(table.header), _bar(marks)]
    for group in table.groups:
        if group.name:
            lines.append(_bar([f"**{group.name}**", *[""] * (width - 1)]))
        lines += [_bar([str(entry) for entry in row]) for row in group.rows]
    return "\n".join(lines)


def score(cell: Cell) -> Entry:
    """A score with its spread, and the count of its seeds where some are missing: a gap is never averaged over."""
    if cell.mean is None:
        return Entry("—", kind="missing", badge=cell.count if cell.wanted else "", tip=says(cell))
    return Entry(
        f"{100 * cell.mean:.1f}",
        spread="" if cell.spread is None else f"{100 * cell.spread:.1f}",
        badge="" if cell.complete else cell.count,
        kind="" if cell.complete else "partial",
        tip=says(cell),
    )


def says(cell: Cell) -> str:
    """Everything about a score in a line or two."""
    if not cell.values:
        return f"{cell.method} on {cell.title}: no run"
    each = ", ".join(f"seed {seed}: {100 * value:.2f}" for seed, value in cell.values.items())
    return f"{cell.method} on {cell.title}, rate {cell.rate:g}, {cell.count} seeds\n{each}"


def remark(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """A note that lists names, if there are any."""
    return (f"{what}: {', '.join(names)}.",) if names else ()


def signed(value: float) -> str:
    """A number with its sign, by the sign that print has for minus."""
    return f"{value:+.1f}".replace("-", "−")


def model_name(model: str) -> str:
    """A model's name in print: the last part of a path or a hub id."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
