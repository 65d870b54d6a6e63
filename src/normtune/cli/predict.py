"""``normtune predict``: what a delta answers."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Device, Dtype, Json, Read, Threads, notes
from normtune.data.metrics import in_print
from normtune.data.reading import Reading
from normtune.data.table import Number
from normtune.errors import ConfigError, DataError, UnknownNameError

if TYPE_CHECKING:
    from normtune.data.table import Rows
    from normtune.deltas.answers import Prediction, Text
    from normtune.deltas.delta import Delta, DeltaInfo
    from normtune.models.base import Base

    #: Loads the base model of a delta.
    OpenBase = Callable[[Delta], Base]

#: File types for answers.
KINDS = (".csv", ".tsv", ".jsonl")


def predict(
    context: typer.Context,
    deltas: Annotated[
        list[str],
        typer.Argument(
            help="Folder, file or hub id of a delta, or a language model; with --task-column several, or their folders."
        ),
    ],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Its second text, where the task reads pairs.")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="CSV, TSV, JSONL, Excel, Parquet, CoNLL or TXT file of texts, or - for standard input, a text a line;"
            " or a picture, a folder of them, an IDX file, or a table with a column image of paths."
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of its texts. [default: as in training]")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of their pairs. [default: as in training]")] = None,
    read: Read = "",
    task_column: Annotated[
        str | None, typer.Option(help="Column that names each row's delta, as in NAME=PLACE, or by its folder's name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers: .csv, .tsv or .jsonl. [default: standard output, -]")
    ] = None,
    model: BaseAt = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer with one delta, or each row with its own: labels with their probabilities, a number, or spans of words.

    A language model, as it is or with a delta, gives each text's mean log-likelihood and its perplexity.

    The answers keep the file's other columns; one with the name of an answer's column becomes `NAME (file)`.

    Examples:
    `normtune predict runs/rte-layernorm --text "A cat sat." --text-pair "A cat was there."`

    `normtune predict runs/intent --file new.csv --column body --out answers.csv`

    `cat texts.txt | normtune predict runs/sst2-layernorm --file -`

    `normtune predict runs --file mixed.csv --task-column task`
    """
    if (text is None) == (file is None):
        raise ConfigError("Give either --text or --file.")
    if file is not None:
        options.refuse(context, {"text_pair"}, "A file has columns")
    else:
        options.refuse(context, {"column", "pair_column", "task_column", "read"}, "A text has no column")
    from normtune.files import refuse_existing, write_atomically

    reading = Reading.of(read)
    if reading.decimal:
        raise ConfigError("No numbers are read here: leave decimal out of --read.")
    out = None if out == Path("-") else out
    if out is not None:
        options.refuse(context, {"as_json"}, "The ending of --out says what is written")
        if out.suffix.lower() not in KINDS:
            raise ConfigError(f"--out writes .csv, .tsv or .jsonl; got {out.name!r}.")
        refuse_existing(out)
    if task_column is None and len(deltas) > 1:
        raise ConfigError("With several deltas --task-column must say which one answers each row of --file.")
    from normtune.data.images import holds_pictures
    from normtune.deltas.hub import named_places

    if file is not None and holds_pictures(Path(file)):
        options.refuse(context, {"column", "pair_column"}, "Pictures have no columns")
    options.set_threads(threads)
    kind = out.suffix.lower() if out is not None else ".jsonl" if as_json else ".csv" if file is not None else ""
    open_base = partial(options.base_of, model=model, device=device, dtype=dtype)
    if file is None:
        texts: list[Text] = [str(text) if text_pair is None else (str(text), text_pair)]
        inputs = [_inputs(each) for each in texts]
        answers = _single(options.open_delta(deltas[0]), texts, open_base)
    else:
        rows, named = _read(file, reading), {"": deltas[0]} if task_column is None else named_places(deltas)
        tasks = [""] * len(rows) if task_column is None else _tasks(rows, task_column, named)
        loaded = {name: options.open_delta(named[name]) for name in dict.fromkeys(tasks)}
        infos = [loaded[name].info for name in tasks]
        if not any(info.pair for info in infos):
            options.refuse(context, {"pair_column"}, "No pairs are read")
        found, used = _texts(rows, infos, column, pair_column, skip=reading.skip)
        texts, bad = [each for each in found if each is not None], {i for i, each in enumerate(found) if each is None}
        rows, tasks = rows.drop(bad), [task for i, task in enumerate(tasks) if i not in bad]
        options.tell(rows.left_out)
        inputs = _kept(rows, texts, {*used, task_column})
        if task_column is None:
            answers = _single(loaded[""], texts, open_base, rows.places)
        else:
            inputs = [{**own, "task": task} for own, task in zip(inputs, tasks, strict=True)]
            answers = _banked(loaded, texts, tasks, open_base, rows.places)
    content = _content(kind, inputs, answers, many=task_column is not None)
    if out is None:
        render.write(content)
    else:
        write_atomically(out, content)
        notes.print(f"Wrote {len(texts):,} answers to {out}.")


def _content(kind: str, inputs: Sequence[dict[str, object]], answers: Sequence[Prediction], *, many: bool) -> str:
    """The answers as a file's content: `kind` is ``.csv``, ``.tsv``, ``.jsonl``, or empty for plain text.

    A row has all its probabilities in JSONL, and in a table where one delta answers. In a table where several deltas
    answer (`many`), a row has the label and its probability, or the value.
    """
    if not kind:
        return "".join(map(_in_words, answers))
    both = list(zip(inputs, answers, strict=True))
    if kind == ".jsonl":
        rows = [
            {**{k: _typed(v) for k, v in own.items()}, **answer.model_dump(exclude_none=True)} for own, answer in both
        ]
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    both = [({name: _flat(cell) for name, cell in own.items()}, answer) for own, answer in both]
    if not many:
        rows = [{**own, **_whole(answer)} for own, answer in both]
    else:
        gaps = {name: "" for name in ("text", "text_pair") if any(name in own for own in inputs)}
        rows = [{**gaps, **own, **_brief(answer)} for own, answer in both]
    # Quote every text, so that a lone carriage return in one survives.
    return render.as_csv(rows, "\t" if kind == ".tsv" else ",", csv.QUOTE_NONNUMERIC)


def _typed(cell: object) -> object:
    """A cell of the file, with the numbers of a JSON file as numbers again."""
    if isinstance(cell, list):
        return [*map(_typed, cell)]
    if isinstance(cell, dict):
        return {name: _typed(own) for name, own in cell.items()}
    if isinstance(cell, Number):
        with suppress(ValueError):  # Python reads no integers of more than 4,300 digits
            return number if math.isfinite(number := json.loads(cell)) else cell
    return cell


def _flat(cell: object) -> object:
    """A cell of the file as one of a table: what JSON alone has, as JSON."""
    if not isinstance(cell, list | dict | bool):
        return cell
    return json.dumps(_typed(cell), ensure_ascii=False, default=str)


def _inputs(text: Text) -> dict[str, object]:
    if isinstance(text, str):
        return {"text": text}
    return {"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else {"image": str(text)}


#: The names of an answer's columns, except a picture's and those of probabilities, which are ``p(LABEL)``.
_OURS = {
    *("text", "text_pair", "task", "label", "labels", "spans", "probability", "probabilities", "value"),
    *("log_likelihood", "perplexity"),
}


def _kept(rows: Rows, texts: Sequence[Text], used: Collection[str | None]) -> list[dict[str, object]]:
    """Each text with the cells of its row's other columns."""
    others: dict[str, Sequence[object]] = {}
    for name, cells in rows.columns.items():
        if name not in used:
            shown = f"{name} (file)" if name in _OURS or name.startswith("p(") else name
            while shown != name and shown in rows.columns:
                shown += " (file)"
            others[shown] = cells
    # JSON has no NaN.
    known = {name: [cell if cell == cell else None for cell in column] for name, column in others.items()}
    return [
        {**_inputs(text), **{name: column[number] for name, column in known.items()}}
        for number, text in enumerate(texts)
    ]


def _whole(answer: Prediction) -> Mapping[str, object]:
    if answer.spans is not None:
        return {"spans": _label(answer)}
    if answer.probabilities is None:
        return _numbers(answer)
    shares = {f"p({name})": round(share, 6) for name, share in answer.probabilities.items()}
    return {"label" if answer.labels is None else "labels": _label(answer), **shares}


def _brief(answer: Prediction) -> Mapping[str, object]:
    label, shares = answer.label, answer.probabilities
    probability = "" if label is None or shares is None else round(shares[label], 6)
    return {"label": _label(answer), "probability": probability, "value": "", **_numbers(answer)}


def _label(answer: Prediction) -> str:
    """The label; or, as JSON, several labels (which `train` can read) or spans."""
    several = answer.labels if answer.spans is None else [span.model_dump() for span in answer.spans]
    return (answer.label or "") if several is None else json.dumps(several, ensure_ascii=False)


def _numbers(answer: Prediction) -> dict[str, float]:
    """The numbers of an answer without labels: a value, or how likely the text is."""
    own = {"value": answer.value, "log_likelihood": answer.log_likelihood, "perplexity": answer.perplexity}
    # Six decimals, or six significant digits for a number so small that decimals would hide it.
    return {name: round(n, 6) if abs(n) >= 0.1 else float(f"{n:.6g}") for name, n in own.items() if n is not None}


def _in_words(answer: Prediction) -> str:
    if answer.perplexity is not None:
        return f"perplexity {answer.perplexity:.4f} (log-likelihood {answer.log_likelihood:.4f} a token)\n"
    if answer.spans is not None:
        return "".join(f"{span.type}  {span.text}\n" for span in answer.spans) or "(no span)\n"
    if answer.probabilities is None:
        return f"{in_print(answer.value or 0.0)}\n"
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    said = answer.label if answer.labels is None else ", ".join(answer.labels) or "(no label)"
    return f"{said}\n" + "".join(f"  {value:.4f}  {label}\n" for label, value in ranked[:5])


def _read(file: str, reading: Reading) -> Rows:
    """The rows of a file, or of standard input; notes on what was guessed go to standard error."""
    from normtune.data.images import holds_pictures, read_pictures
    from normtune.data.reading import RECOGNISED
    from normtune.data.rows import read_rows

    path = None if file == "-" else Path(file)
    if path and holds_pictures(path):
        if reading != RECOGNISED:
            raise ConfigError(f"--read says how tables are read, and {path} is none; leave it out.")
        rows = read_pictures(path, labelled=False)
    else:
        rows = read_rows(path, reading)
    options.tell(rows.notes)
    return rows


def _single(delta: Delta, texts: list[Text], open_base: OpenBase, places: Sequence[str] = ()) -> list[Prediction]:
    """The answers of one delta."""
    from normtune.deltas.answers import Predictor

    base = open_base(delta)
    predictor = Predictor(base, delta)
    answers = predictor.predict(texts, places)
    if predictor.truncated:
        notes.print(f"{predictor.truncated:,} texts were cut to {base.limit(delta.info.max_length)} tokens.")
    return answers


def _tasks(rows: Rows, column: str, places: Mapping[str, str]) -> list[str]:
    """The task of each row; a task without a delta is an error."""
    names = rows.column(column)
    for number, name in enumerate(names):
        if name not in places:
            raise DataError(f"{rows.place(number)}: {UnknownNameError('task', name, places)}")
    return names


def _banked(
    deltas: Mapping[str, Delta], texts: list[Text], names: Sequence[str], open_base: OpenBase, places: Sequence[str]
) -> list[Prediction]:
    """The answers of several deltas, which share batches where they can."""
    from normtune.deltas.bank import Bank

    bank = Bank(open_base(next(iter(deltas.values()))))
    for name, delta in deltas.items():
        bank.add(name, delta, apart=True)
    if apart := [name for name, entry in bank.tasks.items() if entry.apart]:
        notes.print(f"These deltas change more than vectors and run in batches of their own: {', '.join(apart)}.")
    prepared = bank.prepare_many(texts, names, places)
    if cut := sum(one.truncated for one in prepared):
        notes.print(f"{cut:,} texts were cut to the limits of their tasks.")
    return bank.answer(prepared)


def _texts(
    rows: Rows, infos: Sequence[DeltaInfo], column: str | None, pair_column: str | None, *, skip: bool
) -> tuple[list[Text | None], Collection[str]]:
    """The text of each row, from the columns that its delta was trained on, unless the user names others.

    For a delta that reads pictures, the pictures.

    Returns:
        The texts (None where empty) or pictures, and the names of the columns that hold nothing else.
    """
    if infos[0].picture:
        from normtune.data.images import COLUMN, pictures_of

        none = {number for number, cell in enumerate(rows.columns.get(COLUMN, ())) if skip and not str(cell).strip()}
        found = iter(pictures_of(rows.drop(none)))
        return [None if number in none else next(found) for number in range(len(rows))], {COLUMN}
    from normtune.data.kinds import KINDS
    from normtune.data.labels import words

    read: dict[str, list[str]] = {}
    by: dict[str, set[int]] = defaultdict(set)

    def cell(name: str, number: int) -> str:
        if name not in read:
            read[name] = words(rows, name) if KINDS[infos[0].kind].words else rows.column(name)
        by[name].add(number)
        return read[name][number]

    texts: list[Text | None] = []
    for number, info in enumerate(infos):
        # A plain list of texts, and a file of a suite's task, have the default names.
        own = info.columns if info.columns and info.columns[0] in rows.columns else ("text", "text_pair")
        text = cell(column or own[0], number)
        pair = cell(pair_column or own[1], number) if info.pair else None
        empty = not text.strip() or (pair is not None and not pair.strip())
        if empty and not skip:
            raise DataError(f"{rows.place(number)}: a text is empty; --read skip-bad-rows leaves such rows out.")
        texts.append(None if empty else text if pair is None else (text, pair))
    # A column that the deltas of some rows read is kept if other rows have something in it.
    return texts, [
        name for name, cells in read.items() if not any(own.strip() for i, own in enumerate(cells) if i not in by[name])
    ]
