"""``normtune predict``: what a delta answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Device, Json, Threads, notes
from normtune.errors import ConfigError, DataError, OutputError, UnknownNameError

if TYPE_CHECKING:
    from normtune.data.rows import Rows
    from normtune.deltas.answers import Prediction, Text
    from normtune.deltas.delta import Delta, DeltaInfo

#: Kinds of file for answers.
KINDS = (".csv", ".tsv", ".jsonl")


def predict(
    context: typer.Context,
    deltas: Annotated[
        list[str],
        typer.Argument(help="Folder or file of a delta, or its hub id; with --task-column many, or folders of them."),
    ],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Its pair, where the task reads pairs.")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="CSV, TSV, JSONL, Excel, Parquet or TXT file of texts, or - for standard input, a text a line."
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of its texts. [default: as in training]")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of their pairs. [default: as in training]")] = None,
    task_column: Annotated[
        str | None, typer.Option(help="Column that names the delta of each row: NAME=PLACE, or else its folder's name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers: .csv, .tsv or .jsonl. [default: standard output]")
    ] = None,
    model: BaseAt = None,
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
    if file is None and task_column is not None:
        raise ConfigError("--task-column names a column of --file.")
    useless = {"text_pair"} if file is not None else {"column", "pair_column"}
    options.only(
        context, {*context.params} - useless, "A file has columns" if file is not None else "A text has no column"
    )
    if out is not None and out.suffix not in KINDS:
        raise ConfigError(f"--out writes .csv, .tsv or .jsonl; got {out.name!r}.")
    if out is not None and out.exists():
        raise OutputError(f"{out} exists already; choose another place or remove it first.")
    if task_column is None and len(deltas) > 1:
        raise ConfigError("Of several deltas --task-column must say which one answers each row of --file.")
    from normtune.deltas.hub import named_places
    from normtune.files import write_atomically

    options.set_threads(threads)
    kind = out.suffix if out is not None else ".jsonl" if as_json else ".csv" if file is not None else ""
    tasks = None
    if text is not None:
        texts: list[Text] = [text if text_pair is None else (text, text_pair)]
        answers = _single(options.open_delta(deltas[0]), texts, model, device)
    elif task_column is None:
        delta, rows = options.open_delta(deltas[0]), _read(file)
        texts = _texts(rows, [delta.info] * len(rows), column, pair_column)
        answers = _single(delta, texts, model, device)
    else:
        places, rows = named_places(deltas), _read(file)
        tasks = _tasks(rows, task_column, places)
        loaded = {name: options.open_delta(places[name]) for name in dict.fromkeys(tasks)}
        texts = _texts(rows, [loaded[name].info for name in tasks], column, pair_column)
        answers = _banked(loaded, texts, tasks, model, device)
    content = _content(kind, texts, answers, tasks)
    if out is None:
        render.write(content)
    else:
        write_atomically(out, content)
        notes.print(f"Wrote {len(texts):,} answers to {out}.")


def _content(kind: str, texts: Sequence[Text], answers: Sequence[Prediction], tasks: Sequence[str] | None) -> str:
    """The answers as a file's content: ``.csv``, ``.tsv``, ``.jsonl``, or nothing for people.

    In JSONL a row has all its probabilities. So it has in a table where one delta answers; with several, where each row
    has a task, it has the label and its probability, or the value.
    """
    if not kind:
        return "".join(map(_in_words, answers))
    inputs: list[dict[str, object]] = [{**_inputs(text)} for text in texts]
    if tasks is not None:
        inputs = [{**own, "task": task} for own, task in zip(inputs, tasks, strict=True)]
    both = list(zip(inputs, answers, strict=True))
    if kind == ".jsonl":
        rows = [{**own, **answer.model_dump(exclude_none=True)} for own, answer in both]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if tasks is None:
        rows = [{**own, **_whole(answer)} for own, answer in both]
    else:
        pairs = {"text_pair": ""} if any("text_pair" in own for own in inputs) else {}
        rows = [{"text": "", **pairs, **own, **_brief(answer)} for own, answer in both]
    # Every text is quoted: only so does a lone carriage return in one survive.
    return render.as_csv(rows, "\t" if kind == ".tsv" else ",", csv.QUOTE_NONNUMERIC)


def _inputs(text: Text) -> dict[str, str]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


def _whole(answer: Prediction) -> Mapping[str, object]:
    if answer.probabilities is None:
        return {"value": round(answer.value or 0.0, 6)}
    shares = {f"p({name})": round(share, 6) for name, share in answer.probabilities.items()}
    return {"label": answer.label, **shares}


def _brief(answer: Prediction) -> Mapping[str, object]:
    if answer.probabilities is None:
        return {"label": "", "probability": "", "value": round(answer.value or 0.0, 6)}
    return {"label": answer.label, "probability": round(answer.probabilities[str(answer.label)], 6), "value": ""}


def _in_words(answer: Prediction) -> str:
    if answer.probabilities is None:
        return f"{answer.value:.4f}\n"
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return f"{answer.label}\n" + "".join(f"  {value:.4f}  {label}\n" for label, value in ranked[:5])


def _read(file: str | None) -> Rows:
    """The rows of a file, or of standard input; what was guessed of it is told on standard error."""
    from normtune.data.rows import read_rows

    rows = read_rows(None if file is None or file == "-" else Path(file))
    for note in rows.notes:
        notes.print(f"Note: {note}")
    return rows


def _single(delta: Delta, texts: list[Text], model: str | None, device: str) -> list[Prediction]:
    """The answers of one delta."""
    from normtune.deltas.answers import Predictor

    predictor = Predictor(options.base_of(delta, model, device), delta)
    answers = predictor.predict(texts)
    if predictor.truncated:
        notes.print(f"{predictor.truncated:,} texts were cut to {delta.info.max_length} tokens.")
    return answers


def _tasks(rows: Rows, column: str, places: Mapping[str, str]) -> list[str]:
    """The task of each row.

    Raises:
        DataError: If a row names a task that there is no delta for.
    """
    names = rows.column(column)
    for number, name in enumerate(names):
        if name not in places:
            raise DataError(f"{rows.place(number)}: {UnknownNameError('task', name, places)}")
    return names


def _banked(
    deltas: Mapping[str, Delta], texts: Sequence[Text], names: Sequence[str], model: str | None, device: str
) -> list[Prediction]:
    """The answers of several deltas, which share batches where they can."""
    from normtune.deltas.bank import Bank

    bank = Bank(options.base_of(next(iter(deltas.values())), model, device))
    for name, delta in deltas.items():
        bank.add(name, delta, apart=True)
    if apart := [name for name, entry in bank.tasks.items() if entry.apart]:
        notes.print(f"These deltas change more than vectors and run in batches of their own: {', '.join(apart)}.")
    prepared = bank.prepare_many(texts, names)
    if cut := sum(one.truncated for one in prepared):
        notes.print(f"{cut:,} texts were cut to the limits of their tasks.")
    return bank.answer(prepared)


def _texts(rows: Rows, infos: Sequence[DeltaInfo], column: str | None, pair_column: str | None) -> list[Text]:
    """The text of each row, from the columns that its delta was trained on, unless the user names others.

    Raises:
        DataError: If a text is empty.
    """
    read: dict[str, list[str]] = {}

    def cell(name: str, number: int) -> str:
        if name not in read:
            read[name] = rows.column(name)
        return read[name][number]

    texts: list[Text] = []
    for number, info in enumerate(infos):
        # A plain list of texts, and a file of a suite's task, have the default names.
        own = info.columns if info.columns and info.columns[0] in rows.columns else ("text", "text_pair")
        text = cell(column or own[0], number)
        pair = cell(pair_column or own[1], number) if info.pair else None
        if not text.strip() or (pair is not None and not pair.strip()):
            raise DataError(f"{rows.place(number)}: a text is empty.")
        texts.append(text if pair is None else (text, pair))
    return texts
