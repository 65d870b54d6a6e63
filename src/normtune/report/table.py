"""A table as a plain value, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normtune.records.aggregate import Cell

EntryKind = Literal["", "missing", "note", "good", "bad", "best"]


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: Its text.
        spread: Its spread, shown smaller behind the text.
        kind: How it looks.
        tip: Its tooltip.
    """

    text: str
    spread: str = ""
    kind: EntryKind = ""
    tip: str = ""

    def __str__(self) -> str:
        return f"{self.text} ± {self.spread}" if self.spread else self.text


#: The entry where there is no value.
GAP = Entry("—", kind="missing")


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a heading.

    Attributes:
        name: The heading, or empty.
        rows: The rows.
        other: Whether they are another model's, so that their levels must not be compared.
    """

    name: str
    rows: tuple[tuple[Entry, ...], ...]
    other: bool = False


def group(rows: Iterable[Sequence[str | Entry]], name: str = "", *, other: bool = False) -> Group:
    """A group of these rows; a plain string becomes an entry with that text."""
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
    """The mean score with its spread; where seeds are missing, how many there are, and no mean of these."""
    if cell.mean is None or not cell.complete:
        return Entry(cell.count if cell.values else "—", kind="missing", tip=says(cell))
    return Entry(
        f"{100 * cell.mean:.1f}", spread="" if cell.spread is None else f"{100 * cell.spread:.1f}", tip=says(cell)
    )


def says(cell: Cell) -> str:
    """A score's method, task, rate, seeds and values, in a line or two."""
    if not cell.values:
        return f"{cell.method} on {cell.title}: no run"
    each = ", ".join(f"seed {seed}: {100 * value:.2f}" for seed, value in cell.values.items())
    return f"{cell.method} on {cell.title}, rate {cell.rate:g}, {cell.count} seeds\n{each}"


def remark(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """A note that lists names, if there are any."""
    return (f"{what}: {', '.join(names)}.",) if names else ()


def signed(value: float) -> str:
    """A number with its sign and one decimal, with a typographic minus."""
    return f"{value:+.1f}".replace("-", "−")


def model_name(model: str) -> str:
    """A model's printed name: the last part of a path or a hub id."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.splitlines()).replace('|', chr(92) + '|') for cell in cells)} |"
