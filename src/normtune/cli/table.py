"""``normtune table``: records as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import Csv, Json, Markdown, OfModel, OfProtocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.records.run import Record


def table(
    records: Annotated[Path, typer.Argument(help="Folder of records, as train --records fills it.")],
    model: OfModel = None,
    protocol: OfProtocol = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, in this order, separated by commas.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, in this order, separated by commas.")] = None,
    rates: Annotated[bool, typer.Option("--rates", help="Show scores by rate, for the seed with most rates.")] = False,
    markdown: Markdown = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Tabulate records: a row a method, a column a task, mean and standard deviation over seeds.

    Examples:
    `normtune table results/runs --protocol small --markdown`

    `normtune table results/runs --rates --tasks stsb --methods head,layernorm`
    """
    from normtune.data.suites import spelled
    from normtune.errors import known
    from normtune.records.aggregate import tabulate
    from normtune.records.results import check_one_setting, load_runs

    form = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv)
    runs = load_runs(records, model=model, protocol=protocol)
    every = [*dict.fromkeys(run.config.task for run in runs)]
    task_names = [known("task", spelled(name, every), every) for name in options.names(tasks)] if tasks else every
    check_one_setting([run for run in runs if run.config.task in task_names])
    trained = [*dict.fromkeys(run.config.method for run in runs)]
    method_names = [known("method", name, trained) for name in options.methods(methods)] if methods else trained
    if rates:
        show_rates(runs, task_names, method_names, form)
        return
    cells = {at: cell for at, cell in tabulate(runs).items() if at[0] in method_names and at[1] in task_names}
    rows = [
        {"method": method, "task": task, "mean": each.mean, "spread": each.spread, "seeds": len(each.values)}
        | {"rate": each.rate}
        for (method, task), each in cells.items()
    ]
    render.show([render.scores(cells, method_names, task_names)], form, plain=rows, rows=rows)


def show_rates(runs: Sequence[Record], tasks: Sequence[str], methods: Sequence[str], form: render.Form) -> None:
    """Print the score at every rate tried, of the seed with most rates."""
    from normtune.records.aggregate import by_rate

    scores = by_rate(runs, tasks, methods)
    columns = sorted({rate for row in scores.values() for rate in row})
    cells = [
        [name, *(f"{100 * row[rate]:.1f}" if rate in row else "" for rate in columns)] for name, row in scores.items()
    ]
    flat = [{"runs": name, "rate": rate, "score": value} for name, row in scores.items() for rate, value in row.items()]
    shown = render.table(
        ["", *(f"{rate:g}" for rate in columns)], cells, title="Dev score x 100 of the seed with most rates"
    )
    render.show([shown], form, plain=flat, rows=flat)
