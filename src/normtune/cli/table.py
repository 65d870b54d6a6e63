"""``normtune table``: records as one table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from normtune.cli.options import Json, console
from normtune.errors import ConfigError, DataError


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("table")(table)


def table(
    records: Annotated[Path, typer.Argument(help="Folder of records, as train --records fills it.")],
    protocol: Annotated[str | None, typer.Option(help="Only runs of this protocol.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, in this order, separated by commas.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, in this order, separated by commas.")] = None,
    rates: Annotated[
        bool, typer.Option("--rates", help="Instead, the first seed's score at every rate tried.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Tabulate records: a row a method, a column a task, mean and standard deviation over seeds.

    Examples:
    `normtune table results/runs --protocol small --markdown`

    `normtune table results/runs --rates --tasks stsb --methods head,layernorm`
    """
    from normtune.cli import options
    from normtune.cli.outputs import markdown_table, rate_table, rich_table
    from normtune.data.suites import spelled
    from normtune.records.aggregate import by_rate, tabulate
    from normtune.records.store import Store

    if not records.is_dir():
        raise DataError(f"There is no folder of records at {records}.")
    found = [record for record in Store(records) if protocol is None or record.config.protocol.name == protocol]
    bases = {(record.base_identity, record.config.protocol.name) for record in found}
    if not found:
        raise DataError(f"There are no such records in {records}.")
    if len(bases) > 1:
        raise ConfigError("These records are of several base models or protocols; choose with --protocol.")
    if rates:
        known = {record.config.task for record in found}
        wanted = [spelled(name, known) for name in options.names(tasks or "")]
        print(rate_table(by_rate(found, wanted, options.methods(methods or ""))))
        return
    shown = tabulate(found)
    if tasks or methods:
        shown = dataclasses.replace(
            shown,
            tasks=tuple(spelled(name, shown.tasks) for name in options.names(tasks)) if tasks else shown.tasks,
            methods=tuple(options.methods(methods)) if methods else shown.methods,
        )
    if as_json:
        plain = [{"method": m, "task": t, **dataclasses.asdict(score)} for (m, t), score in shown.scores.items()]
        print(json.dumps(plain, indent=1))
    elif markdown:
        print(markdown_table(shown))
    else:
        console.print(rich_table(shown))
