"""``normtune tasks``: what can be trained on, and where it was found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer
from rich import box
from rich.table import Table

from normtune.cli.options import Data, Json, console


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tasks")(tasks)


def tasks(data: Data = None, as_json: Json = False) -> None:
    """List every task: where its data was found, its sizes and its metric.

    Example: `NORMTUNE_DATA=glue normtune tasks`
    """
    from normtune.data.glue import survey

    listings = survey(data)
    if as_json:
        print(json.dumps([dataclasses.asdict(listing) for listing in listings], indent=1, default=str))
        return
    where = f"in {data}" if data else "on the hub (nyu-mll/glue); --data or NORMTUNE_DATA names a folder"
    table = Table(title=f"GLUE {where}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("task", "title", "metric"):
        table.add_column(name)
    for name in ("train", "dev", "test"):
        table.add_column(name, justify="right")
    table.add_column("found in")
    for item in listings:
        sizes = [_sizes(item.sizes, split) for split in ("train", "dev", "test")]
        found = Path(item.found).name if item.found else ("not found" if data else "hub")
        table.add_row(item.name, item.title, item.primary, *sizes, found, style="" if item.found else "dim")
    console.print(table)


def _sizes(sizes: object, split: str) -> str:
    assert isinstance(sizes, dict)
    found = [f"{count:,}" for name, count in sizes.items() if name == split or name.startswith(f"{split}_")]
    return " + ".join(found)
