"""``normtune submit``: the zip that the GLUE server takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Data, Device, Json, Markdown, Threads
from normtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from normtune.records.submission import Answered, SubmissionRecord


def submit(
    context: typer.Context,
    deltas: Annotated[
        str | None, typer.Option(help="Deltas, separated by commas, one for each task: folders, files or hub ids.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Output folder of a training; the best run of each task on dev answers.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method whose runs answer, where --runs holds several.")] = None,
    out: Annotated[Path, typer.Option(help="The zip; its record is written beside it.")] = Path("submission.zip"),
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Write what can be answered, for a trial; the server will not take it."),
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(help="The server's reply to --out, a CSV file of task,score; it goes into the record."),
    ] = None,
    model: BaseAt = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Write the zip that the GLUE server takes, and record its reply.

    AX is answered by MNLI's delta, WNLI by its majority class. An incomplete submission is refused.

    Examples:
    `normtune submit --runs runs/all --method layernorm --out submission.zip`

    `normtune submit --deltas runs/rte,runs/mnli --allow-missing --out trial.zip`

    `normtune submit --out submission.zip --scores reply.csv`
    """
    form = options.form(as_json=as_json, markdown=markdown)
    if scores is not None:
        taken = {"out", "scores", "markdown", "as_json"}
        options.only(context, taken, "--scores records the reply to the submission at --out")
    elif (deltas is None) == (runs is None):
        raise ConfigError("Give either --deltas, one for each task, or --runs, the output folder of a training.")
    if method is not None and runs is None:
        raise ConfigError("--method chooses among the runs of --runs.")
    options.set_threads(threads)
    from normtune.cli.progress import bars
    from normtune.submission import archive
    from normtune.submission.answers import answer, best_runs, named, plan

    if scores is not None:
        _show_scores(archive.add_reply(out, scores), form)
        return
    archive.claim(out)
    sources = best_runs(runs, method) if runs is not None else named(options.names(deltas or ""))
    parts, problems = plan(sources, data)
    reason = "; ".join(problems)
    if problems and not allow_missing:
        raise DataError(f"The GLUE server would not take this submission: {reason} (--allow-missing for a trial).")
    if all(part.source is None for part in parts):
        raise DataError(f"There is nothing to answer: {reason}.")
    base_of = partial(options.base_of, model=model, device=device)
    with bars(MofNCompleteColumn()) as bar:
        line = bar.add_task("texts answered", total=sum(part.rows for part in parts if part.source is not None))
        answered = answer(parts, data, base_of, lambda done: bar.advance(line, done))
    _show(archive.write(out, answered, problems), out, form)


def _show(record: SubmissionRecord, out: Path, form: render.Form) -> None:
    # Remarks go below the table, where a narrow terminal cuts none of them.
    shown = render.table(("file", "answered by", "dev", "rows"), map(_cells, record.answers), texts=3)
    lines = [f"{answered.file}: {answered.remark}" for answered in record.answers if answered.remark]
    if cut := sum(answered.truncated for answered in record.answers):
        lines.append(f"{cut:,} texts were cut to their delta's limit of tokens")
    lines.append(f"Wrote {out}; its record is beside it")
    if record.problems:
        lines.append(f"A trial: the GLUE server will not take it, since {'; '.join(record.problems)}.")
    render.show([shown, *lines], form, plain=record.model_dump(mode="json"))


def _cells(answered: Answered) -> tuple[str, str, str, str]:
    """The row of a file: its name, the delta that answered, its score on dev, and how many rows."""
    source = answered.source
    rows = f"{answered.rows:,}" if answered.rows == answered.wanted else f"{answered.rows:,} of {answered.wanted:,}"
    who = "" if source is None else f"{source.path} ({source.method or 'no method named'})"
    dev = "" if source is None or source.dev is None else f"{source.metric} {source.dev:.4f}, seed {source.seed}"
    return answered.file, who, dev, rows


def _show_scores(record: SubmissionRecord, form: render.Form) -> None:
    rows = [
        (answered.title, metric, answered.remark, f"{100 * value:.1f}")
        for answered in record.answers
        for metric, value in record.scores.get(answered.title, {}).items()
    ]
    if record.overall is not None:
        rows.append(("overall", "", "", f"{100 * record.overall:.1f}"))
    shown = render.table(("file", "metric", "remark", "score"), rows, title="The server's scores x 100", texts=3)
    render.show([shown], form, plain=record.model_dump(mode="json"))
