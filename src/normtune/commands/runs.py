"""``normtune runs``: records as one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from normtune.commands.options import Json, console


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("runs")(runs)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of records.")] = Path("runs/study"),
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only this protocol.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status, such as done or failed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    as_json: Json = False,
) -> None:
    """List the records in a folder, a row a run."""
    from rich.table import Table

    from normtune.errors import DataError
    from normtune.studies.database import rows

    given = {"task": task, "method": method, "protocol": protocol, "status": status, "seed": seed}
    wanted = {name: value for name, value in given.items() if value is not None}
    found = [row for row in rows(folder) if all(row[name] == value for name, value in wanted.items())]
    if not found:
        raise DataError(f"There are no such records in {folder}.")
    if as_json:
        print(json.dumps(found, indent=1))
        return
    shown = ("id", "status", "task", "method", "rate", "seed", "score")
    table = Table(*shown)
    for row in found:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        table.add_row(*(str(row[name]) for name in shown[:-1]), score)
    console.print(table)
