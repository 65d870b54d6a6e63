"""``normtune predict``: what a delta answers."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.commands.options import Device, Json, Threads, notes, set_threads
from normtune.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from normtune.deltas.delta import DeltaInfo
    from normtune.prediction import Prediction, Text
    from normtune.tasks.rows import Rows


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("predict")(predict)


def predict(
    delta: Annotated[str, typer.Argument(help="Folder or file of a delta, or its hub id.")],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Its pair, where the task reads pairs.")] = None,
    file: Annotated[
        str | None,
        typer.Option(help="CSV, TSV, JSONL, Parquet or TXT file of texts, or - for standard input, a text a line."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of its texts. [default: as in training]")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of their pairs. [default: as in training]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers: .csv, .tsv or .jsonl. [default: standard output]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where its base model is, if not where it was.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer with a delta: label and probabilities for each text, or a number.

    Examples:
    `normtune predict runs/rte-layernorm --text "A cat sat." --text-pair "A cat was there."`

    `normtune predict runs/intent --file new.csv --column body --out answers.csv`

    `cat texts.txt | normtune predict runs/sst2-layernorm --file -`
    """
    if (text is None) == (file is None):
        raise ConfigError("Give either --text or --file.")
    if out is not None and out.suffix not in _WRITERS:
        raise ConfigError(f"--out writes .csv, .tsv or .jsonl; got {out.name!r}.")
    if out is not None and out.exists():
        raise OutputError(f"{out} exists already; choose another place or remove it first.")
    set_threads(threads)
    from normtune.commands.loading import base_of
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch
    from normtune.files import write_atomically
    from normtune.prediction import Predictor

    loaded = Delta.load(fetch(delta))
    texts = _texts(text, text_pair) if text is not None else _read(str(file), loaded.info, column, pair_column)
    predictor = Predictor(base_of(loaded, model, device), loaded)
    answers = predictor.predict(texts)
    if predictor.truncated:
        notes.print(f"{predictor.truncated:,} texts were cut to {loaded.info.max_length} tokens.", highlight=False)
    kind = out.suffix if out is not None else ".jsonl" if as_json else ".csv" if file is not None else ""
    content = _WRITERS[kind](texts, answers)
    if out is None:
        sys.stdout.write(content)
    else:
        write_atomically(out, content)
        notes.print(f"Wrote {len(answers):,} answers to {out}.", highlight=False)


def _texts(text: str, pair: str | None) -> list[Text]:
    return [text if pair is None else (text, pair)]


def _read(file: str, info: DeltaInfo, column: str | None, pair_column: str | None) -> list[Text]:
    from normtune.tasks.rows import read_rows

    rows: Rows = read_rows(sys.stdin if file == "-" else Path(file))
    # A plain list of texts, and a file of a suite's task, have the default names.
    known = info.columns if info.columns and info.columns[0] in rows.columns else ("text", "text_pair", "")
    texts = rows.column(column or known[0])
    return list(zip(texts, rows.column(pair_column or known[1]), strict=True)) if info.pair else list(texts)


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
