"""Reads labels from the cells of a file's column."""

from __future__ import annotations

import ast
import json
import re
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from normtune.data.reading import Reading
from normtune.data.rows import JSON
from normtune.data.table import Rows, as_text
from normtune.errors import ConfigError, DataError

#: What may separate the labels of a cell.
_SEPARATORS = (",", ";", "|")


@dataclass(frozen=True)
class Labels:
    """The labels of each row.

    Attributes:
        values: The labels of each row, stripped.
        faults: By row, what is wrong with its cell, as a clause for a message.
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
    """Any number of labels a cell: a list, or a text with a separator between labels.

    Raises:
        ConfigError: If more than one sign may be the separator.
    """
    cells = rows.cells(name)
    if any(isinstance(cell, list) for cell in cells):
        return _lists(cells)
    texts = [cell.strip() for cell in rows.column(name)]
    if not reading.labels and any(text.startswith("[") for text in texts):
        return _lists([parsed(text) for text in texts])
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
    """The labels in a text, without empty ones."""
    return [part.strip() for part in ([text] if sign is None else text.split(sign)) if part.strip()]


def parsed(text: str) -> object:
    """The value, such as a list, that a text cell holds as JSON or a Python literal; otherwise the text."""
    for read in (JSON.decode, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            found: object = read(text)
            json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
            return found
    return text


def _lists(cells: Sequence[object]) -> Labels:
    values, faults = list[list[str]](), dict[int, str]()
    for number, cell in enumerate(cells):
        parts = cell if isinstance(cell, list) else [] if cell is None or not str(cell).strip() else [None]
        texts = [as_text(part).strip() for part in parts if isinstance(part, str | int | float)]
        if len(texts) < len(parts) or not all(texts):
            faults[number] = f'the labels are {reprlib.repr(cell)}, not a list of labels such as ["a", "b"]'
        values.append(texts)
    return Labels(values, faults)


def tags(rows: Rows, name: str, _: Reading) -> Labels:
    """A tag for each word: a list, or a text with blanks between tags."""
    values, faults = list[list[str]](), dict[int, str]()
    for number, cell in enumerate(_split_cells(rows, name)):
        odd = [tag for tag in cell if not re.fullmatch(r"O|[BI]-\S+", tag)]
        if odd or not cell:
            faults[number] = (
                f"the tag {odd[0]!r} is none of O, B-TYPE and I-TYPE" if odd else f"the column {name!r} is empty"
            )
        values.append(cell)
    return Labels(values, faults)


def words(rows: Rows, name: str) -> list[str]:
    """The words of each row, joined by blanks.

    Raises:
        DataError: If a word is empty or has a blank in it.
    """
    cells = _split_cells(rows, name)
    for number, cell in enumerate(cells):
        for word in cell:
            if len(word.split()) != 1:
                raise DataError(f"{rows.place(number)}: the word {word!r} is empty or has a blank in it.")
    return [" ".join(cell) for cell in cells]


def _split_cells(rows: Rows, name: str) -> list[list[str]]:
    """The parts of each cell: the items of a list, or a text split at blanks."""
    cells = rows.cells(name)
    if not any(isinstance(cell, list) for cell in cells):
        texts = rows.column(name)
        cells = [parsed(text) if text.lstrip().startswith("[") else text for text in texts]
        cells = [cell if isinstance(cell, list) else text.split() for cell, text in zip(cells, texts, strict=True)]
    for number, cell in enumerate(cells):
        if not isinstance(cell, list) or not all(isinstance(part, str | int | float) for part in cell):
            held = reprlib.repr(cell)
            raise DataError(f"{rows.place(number)}: the column {name!r} holds {held}, not a list of words or tags.")
    return [[str(part) for part in cell] for cell in cells if isinstance(cell, list)]
