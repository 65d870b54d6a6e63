"""Labels as they stand in the cells of a file's column."""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normtune.data.reading import Reading
from normtune.data.table import Rows
from normtune.errors import ConfigError

#: What may separate the labels of a cell.
_SEPARATORS = (",", ";", "|")


@dataclass(frozen=True)
class Labels:
    """The labels of each row.

    Attributes:
        values: Those of each row, stripped.
        faults: By row what is wrong with its cell, as a sentence without its end.
        notes: Sentences on how they were read.
    """

    values: list[list[str]]
    faults: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def one(rows: Rows, name: str, _: Reading) -> Labels:
    """One label a cell."""
    cells = rows.column(name)
    faults = {number: f"the column {name!r} is empty" for number, cell in enumerate(cells) if not cell.strip()}
    blanks = sum(cell != cell.strip() for cell in cells)
    notes = (f"{Path(rows.source).name}: blanks around {blanks} of the labels are left off.",) if blanks else ()
    return Labels([[cell.strip()] for cell in cells], faults, notes)


def several(rows: Rows, name: str, reading: Reading) -> Labels:
    """Any number of labels a cell: a list, or a text of them with a separator in between.

    Raises:
        ConfigError: If more than one sign may be the separator.
    """
    cells = rows.cells(name)
    if any(isinstance(cell, list) for cell in cells):
        return _lists(cells)
    texts = [cell.strip() for cell in rows.column(name)]
    if any(text.startswith("[") for text in texts):
        return _lists([_parsed(text) for text in texts])
    found = [sign for sign in _SEPARATORS if any(sign in text for text in texts)]
    if reading.labels:
        found = [reading.labels]
    elif len(found) > 1:
        raise ConfigError(
            f"{rows.source}: the labels in {name!r} have {' and '.join(found)} in them; say which separates them, as in"
            " --read labels=semicolon."
        )
    notes = (f"{Path(rows.source).name}: the labels in {name!r} are separated by {found[0]!r}.",) if found else ()
    return Labels([_parts(text, found[0] if found else None) for text in texts], {}, notes)


def _parts(text: str, sign: str | None) -> list[str]:
    """The labels in a text; nothing beside a separator is no label."""
    return [part.strip() for part in ([text] if sign is None else text.split(sign)) if part.strip()]


def _parsed(text: str) -> object:
    """The list that a cell of a table of texts holds, as JSON or Python writes it; otherwise the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _lists(cells: Sequence[object]) -> Labels:
    values, faults = list[list[str]](), dict[int, str]()
    for number, cell in enumerate(cells):
        parts = cell if isinstance(cell, list) else [None]
        texts = [str(part).strip() for part in parts if isinstance(part, str | int | float)]
        if len(texts) < len(parts) or not all(texts):
            faults[number] = f'the labels are {reprlib.repr(cell)}, not a list of labels such as ["a", "b"]'
        values.append(texts)
    return Labels(values, faults)
