"""``normtune report``: a results folder as one page, with its figures and tables as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import notes
from normtune.errors import UnknownNameError


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Results folder, with records in runs/, fisher/ and ablate/.")],
    out: Annotated[Path, typer.Option(help="Folder for the report: absent or empty.")] = Path("report"),
    model: Annotated[str | None, typer.Option(help="Only records of this model.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only runs of this protocol.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier report in the folder.")] = False,
    table: Annotated[
        str | None, typer.Option(help="Only print one table in Markdown: claims, table1, statistics, ...")
    ] = None,
) -> None:
    """Write a report from records: every table and figure of the paper, ours beside the paper's, on one page.

    The page needs no network. Beside it lie the figures (SVG, PDF, PNG, CSV) and the tables (Markdown).
    Records are not changed. Missing runs are shown as missing; a table or figure without any record is left out.

    Examples:
    `normtune report results --out report`

    `normtune report runs/study --protocol paper --model bert-large-cased --force`

    `normtune report results --table claims`
    """
    from normtune.records.results import read
    from normtune.report.drawing import need_matplotlib
    from normtune.report.page import Report, write
    from normtune.report.table import rows_as_markdown

    if table is None:
        need_matplotlib()
    else:
        options.only(context, {"folder", "model", "protocol", "table"}, "--table prints a table and writes nothing")
    results = read(folder, model=model, protocol=protocol)
    made = Report(results)
    if table is not None:
        if table not in made.tables:
            raise UnknownNameError("table", table, made.tables)
        render.write(rows_as_markdown(made.tables[table]) + "\n")
        return
    page = write(made, out, force=force)
    switched = f"; ablations: {len(results.ablations)}" if results.ablations else ""
    notes.print(f"Runs: {len(results.runs)}; measurements of Fisher information: {len(results.fisher)}{switched}")
    print(page)
