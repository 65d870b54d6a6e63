"""``normtune submit``: the zip that the GLUE server takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from normtune.cli.options import Data, Device, Json, Threads, console, names, notes, set_threads
from normtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from normtune.records.submission import Answered, Source, SubmissionRecord
    from normtune.submission.answers import Part


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("submit")(submit)


def submit(
    deltas: Annotated[
        str | None, typer.Option(help="Deltas, separated by commas: TASK=DELTA, or DELTA, which knows its task.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Output folder of a training; the best run of each task on dev answers.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method whose runs answer, where --runs holds several.")] = None,
    out: Annotated[Path, typer.Option(help="The zip; its record and a page are written beside it.")] = Path(
        "submission.zip"
    ),
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Write what can be answered, for a trial; the server will not take it."),
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(help="The server's reply to --out, a CSV file of task,score; it goes into the record."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where the base model is, if it has moved.")] = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write the zip that the GLUE server takes, and record its reply.

    AX is answered by MNLI's delta, WNLI by its majority class. An incomplete submission is refused.

    Examples:
    `normtune submit --runs runs/all --method layernorm --out submission.zip`

    `normtune submit --deltas runs/rte,mnli=runs/nli --allow-missing --out trial.zip`

    `normtune submit --out submission.zip --scores reply.csv`
    """
    if scores is not None and (deltas or runs):
        raise ConfigError("--scores records the reply to the submission at --out; leave out --deltas and --runs.")
    if scores is None and (deltas is None) == (runs is None):
        raise ConfigError("Give either --deltas, one for each task, or --runs, the output folder of a training.")
    if method is not None and runs is None:
        raise ConfigError("--method chooses among the runs of --runs.")
    set_threads(threads)
    from normtune.submission.archive import Archive

    archive = Archive(out)
    if scores is not None:
        _show_scores(archive.add_reply(scores), as_json)
        return
    archive.claim()
    parts, problems = _plan(_sources(deltas, runs, method), data, allow_missing)
    record = archive.write(_answers(parts, data, model, device), problems)
    _show(record, out, as_json)


def _sources(deltas: str | None, runs: Path | None, method: str | None) -> dict[str, Source]:
    from normtune.submission.answers import best_runs, named

    return best_runs(runs, method) if runs is not None else named(names(deltas or ""))


def _plan(sources: dict[str, Source], data: Path | None, allow_missing: bool) -> tuple[list[Part], list[str]]:
    """The files to answer, and why the server would refuse them.

    Raises:
        DataError: If the server would refuse them and no trial is wanted, or there is nothing to answer.
    """
    from normtune.submission.answers import plan

    parts, problems = plan(sources, data)
    reason = "; ".join(problems)
    if problems and not allow_missing:
        raise DataError(f"The GLUE server would not take this submission: {reason} (--allow-missing for a trial).")
    if all(part.source is None for part in parts):
        raise DataError(f"There is nothing to answer: {reason}.")
    return parts, problems


def _answers(parts: list[Part], data: Path | None, model: str | None, device: str) -> list[tuple[Answered, str]]:
    from normtune.cli.loading import base_of
    from normtune.submission.answers import answer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = sum(part.rows for part in parts if part.source is not None)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=notes, transient=True) as bar:
        line = bar.add_task("texts answered", total=total)
        return answer(parts, data, lambda delta: base_of(delta, model, device), lambda done: bar.advance(line, done))


def _show(record: SubmissionRecord, out: Path, as_json: bool) -> None:
    from normtune.submission.archive import cells

    if as_json:
        print(record.model_dump_json(indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("file", "rows", "answered by", "dev"):
        table.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
    for answered in record.answers:
        *shown, _ = cells(answered)  # remarks are printed below the table, where there is room
        table.add_row(*map(Text, shown))
    console.print(table)
    lines = [f"{answered.file}: {answered.remark}" for answered in record.answers if answered.remark]
    cut = sum(answered.truncated for answered in record.answers)
    lines += [f"{cut:,} texts were cut to their delta's limit of tokens"] if cut else []
    lines.append(f"Wrote {out}; its record and a page are beside it")
    if not record.complete:
        lines.append(f"A trial: the GLUE server will not take it, since {'; '.join(record.problems)}.")
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _show_scores(record: SubmissionRecord, as_json: bool) -> None:
    if as_json:
        print(record.model_dump_json(indent=1))
        return
    table = Table(title="The server's scores x 100", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("file", "metric", "score", "remark"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for answered in record.answers:
        for metric, value in record.scores.get(answered.title, {}).items():
            table.add_row(answered.title, metric, f"{100 * value:.1f}", answered.remark)
    if record.overall is not None:
        table.add_row("overall", "", f"{100 * record.overall:.1f}")
    console.print(table)
