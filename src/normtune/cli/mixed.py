"""Answers for a file whose rows name their task: all tasks share batches, through a bank."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normtune.cli.options import notes
from normtune.errors import ConfigError, DataError, UnknownNameError

if TYPE_CHECKING:
    from normtune.data.rows import Rows
    from normtune.deltas.answers import Prediction, Text
    from normtune.deltas.bank import Bank
    from normtune.deltas.delta import Delta, DeltaInfo


@dataclass(frozen=True)
class Columns:
    """Which columns of the file hold what.

    Attributes:
        task: The column of the tasks' names.
        text: That of the texts, or None for the task's own, as in training.
        pair: That of their pairs, likewise.
    """

    task: str
    text: str | None
    pair: str | None


def answer_rows(
    listed: Sequence[str], rows: Rows, columns: Columns, *, model: str | None, device: str
) -> tuple[list[Text], list[str], list[Prediction]]:
    """Answer each row with the delta of the task that it names.

    Args:
        listed: Deltas and folders of deltas (see `normtune.deltas.hub.named_places`); those that no row names are
            not read.
        rows: The file.
        columns: Its columns.
        model: Where the base model is, if not where it was.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        Texts, tasks and answers, one each a row.

    Raises:
        ConfigError: If there is no row to answer.
        DataError: If a row names a task that there is no delta for, or its text cannot be answered.
    """
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch, named_places

    places = named_places(listed)
    names = rows.column(columns.task)
    if not names:
        raise ConfigError(f"{rows.source} has no rows.")
    for number, name in enumerate(names):
        if name not in places:
            raise DataError(f"{rows.place(number)}: {UnknownNameError('task', name, places)}")
    deltas = {name: Delta.load(fetch(places[name])) for name in dict.fromkeys(names)}
    texts = _texts(rows, names, {name: delta.info for name, delta in deltas.items()}, columns)
    bank = _bank(deltas, model, device)
    prepared = bank.prepare_many(texts, names)
    if cut := sum(one.truncated for one in prepared):
        notes.print(f"{cut:,} texts were cut to the limits of their tasks.", highlight=False)
    return texts, names, bank.answer(prepared)


def own_columns(info: DeltaInfo, rows: Rows) -> tuple[str, str]:
    """The columns of a file that a delta's texts and their pairs are in, unless its user says so."""
    if info.columns and info.columns[0] in rows.columns:
        return info.columns[0], info.columns[1]
    # A plain list of texts, and a file of a suite's task, have the default names.
    return "text", "text_pair"


def _bank(deltas: dict[str, Delta], model: str | None, device: str) -> Bank:
    from normtune.cli.loading import base_of
    from normtune.deltas.bank import Bank

    bank = Bank(base_of(next(iter(deltas.values())), model, device))
    for name, delta in deltas.items():
        bank.add(name, delta, apart=True)
    if apart := [name for name, entry in bank.tasks.items() if entry.apart]:
        notes.print(
            f"These deltas change more than vectors and run in batches of their own: {', '.join(apart)}.",
            highlight=False,
        )
    return bank


def _texts(rows: Rows, names: Sequence[str], infos: dict[str, DeltaInfo], columns: Columns) -> list[Text]:
    read: dict[str, list[str]] = {}

    def cell(column: str, number: int) -> str:
        if column not in read:
            read[column] = rows.column(column)
        return read[column][number]

    texts: list[Text] = []
    for number, name in enumerate(names):
        info = infos[name]
        text_column, pair_column = own_columns(info, rows)
        text = cell(columns.text or text_column, number)
        pair = cell(columns.pair or pair_column, number) if info.pair else None
        if not text.strip() or (pair is not None and not pair.strip()):
            raise DataError(f"{rows.place(number)}: a text is empty.")
        texts.append(text if pair is None else (text, pair))
    return texts


def write_mixed(kind: str, texts: list[Text], names: list[str], answers: list[Prediction]) -> str:
    """The answers as a file's content.

    Args:
        kind: ``.csv``, ``.tsv`` or ``.jsonl``.
        texts: The texts.
        names: Their tasks.
        answers: Their answers.

    Returns:
        In a table a row has its label and that label's probability, or its value; in JSONL all its probabilities.
    """
    return _WRITERS[kind]([
        {**_inputs(text), "task": name, **answer.model_dump(exclude_none=True)}
        for text, name, answer in zip(texts, names, answers, strict=True)
    ])


def _inputs(text: Text) -> dict[str, object]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


def _jsonl(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(delimiter: str) -> Callable[[list[dict[str, object]]], str]:
    def write(rows: list[dict[str, object]]) -> str:
        pairs = ["text_pair"] if any("text_pair" in row for row in rows) else []
        columns = ["text", *pairs, "task", "label", "probability", "value"]
        text = io.StringIO()
        # Every text is quoted: only so does a lone carriage return in one survive.
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row, column) for column in columns])
        return text.getvalue()

    return write


def _cell(row: dict[str, object], column: str) -> object:
    value = row.get(column, "")
    if column == "probability":
        shares = row.get("probabilities")
        value = shares[row["label"]] if isinstance(shares, dict) else ""
    return round(value, 6) if isinstance(value, float) else value


_WRITERS: dict[str, Callable[[list[dict[str, object]]], str]] = {
    ".jsonl": _jsonl,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}
