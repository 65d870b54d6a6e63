"""``normtune predict``: what a delta answers."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli.mixed import Columns, answer_rows, own_columns, write_mixed
from normtune.cli.options import Device, Json, Threads, notes, set_threads
from normtune.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from normtune.data.rows import Rows
    from normtune.deltas.answers import Prediction, Text
    from normtune.deltas.delta import DeltaInfo


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("predict")(predict)


def predict(
    deltas: Annotated[
        list[str],
        typer.Argument(help="Folder or file of a delta, or its hub id; with --task-column many, or folders of them."),
    ],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Its pair, where the task reads pairs.")] = None,
    file: Annotated[
        str | None,
        typer.Option(help="CSV, TSV, JSONL, Parquet or TXT file of texts, or - for standard input, a text a line."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of its texts. [default: as in training]")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of their pairs. [default: as in training]")] = None,
    task_column: Annotated[
        str | None, typer.Option(help="Column that names the delta of each row: NAME=PLACE, or else its folder's name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers: .csv, .tsv or .jsonl. [default: standard output]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where its base model is, if not where it was.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer with a delta, or each row with its own: label and probabilities for each text, or a number.

    Examples:
    `normtune predict runs/rte-layernorm --text "A cat sat." --text-pair "A cat was there."`

    `normtune predict runs/intent --file new.csv --column body --out answers.csv`

    `cat texts.txt | normtune predict runs/sst2-layernorm --file -`

    `normtune predict runs --file mixed.csv --task-column task`
    """
    if (text is None) == (file is None):
        raise ConfigError("Give either --text or --file.")
    if out is not None and out.suffix not in _WRITERS:
        raise ConfigError(f"--out writes .csv, .tsv or .jsonl; got {out.name!r}.")
    if out is not None and out.exists():
        raise OutputError(f"{out} exists already; choose another place or remove it first.")
    if task_column is None and len(deltas) > 1:
        raise ConfigError("Of several deltas --task-column must say which one answers each row of --file.")
    if task_column is not None and file is None:
        raise ConfigError("--task-column names a column of --file.")
    set_threads(threads)
    kind = out.suffix if out is not None else ".jsonl" if as_json else ".csv" if file is not None else ""
    if task_column is not None:
        columns = Columns(task_column, column, pair_column)
        content, number = _mixed(kind, deltas, str(file), columns, model, device)
    else:
        content, number = _single(kind, deltas[0], _Input(text, text_pair, file, column, pair_column), model, device)
    if out is None:
        sys.stdout.write(content)
        return
    from normtune.files import write_atomically

    write_atomically(out, content)
    notes.print(f"Wrote {number:,} answers to {out}.", highlight=False)


@dataclass(frozen=True)
class _Input:
    """One text, or a file of texts and its columns."""

    text: str | None
    pair: str | None
    file: str | None
    column: str | None
    pair_column: str | None

    def read(self, info: DeltaInfo) -> list[Text]:
        if self.text is not None:
            return [self.text if self.pair is None else (self.text, self.pair)]
        rows = _rows(str(self.file))
        text_column, pair_column = own_columns(info, rows)
        texts = rows.column(self.column or text_column)
        if not info.pair:
            return list(texts)
        return list(zip(texts, rows.column(self.pair_column or pair_column), strict=True))


def _single(kind: str, delta: str, given: _Input, model: str | None, device: str) -> tuple[str, int]:
    from normtune.cli.loading import base_of
    from normtune.deltas.answers import Predictor
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch

    loaded = Delta.load(fetch(delta))
    texts = given.read(loaded.info)
    predictor = Predictor(base_of(loaded, model, device), loaded)
    answers = predictor.predict(texts)
    if predictor.truncated:
        notes.print(f"{predictor.truncated:,} texts were cut to {loaded.info.max_length} tokens.", highlight=False)
    return _WRITERS[kind](texts, answers), len(answers)


def _mixed(
    kind: str, deltas: list[str], file: str, columns: Columns, model: str | None, device: str
) -> tuple[str, int]:
    texts, names, answers = answer_rows(deltas, _rows(file), columns, model=model, device=device)
    return write_mixed(kind, texts, names, answers), len(answers)


def _rows(file: str) -> Rows:
    from normtune.data.rows import read_rows

    return read_rows(sys.stdin if file == "-" else Path(file))


def _plain(texts: list[Text], answers: list[Prediction]) -> str:
    lines = []
    for answer in answers:
        if answer.probabilities is None:
            lines.append(f"{answer.value:.4f}\n")
        else:
            ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
            lines.append(f"{answer.label}\n" + "".join(f"  {value:.4f}  {label}\n" for label, value in ranked[:5]))
    return "".join(lines)


def _jsonl(texts: list[Text], answers: list[Prediction]) -> str:
    rows = [{**_inputs(t), **a.model_dump(exclude_none=True)} for t, a in zip(texts, answers, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(delimiter: str) -> Callable[[list[Text], list[Prediction]], str]:
    def write(texts: list[Text], answers: list[Prediction]) -> str:
        text = io.StringIO()
        # Every text is quoted: only so does a lone carriage return in one survive.
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        labels = list(answers[0].probabilities or {})
        writer.writerow([*_inputs(texts[0]), *(["label", *(f"p({name})" for name in labels)] if labels else ["value"])])
        for one, answer in zip(texts, answers, strict=True):
            numbers = answer.probabilities or {}
            given = (
                [answer.label, *(round(numbers[name], 6) for name in labels)]
                if labels
                else [round(answer.value or 0.0, 6)]
            )
            writer.writerow([*_inputs(one).values(), *given])
        return text.getvalue()

    return write


def _inputs(text: Text) -> dict[str, str]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


_WRITERS = {"": _plain, ".jsonl": _jsonl, ".csv": _table(","), ".tsv": _table("\t")}
