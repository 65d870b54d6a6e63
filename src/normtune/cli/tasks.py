"""``normtune tasks``: what can be trained on, and where it was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table

from normtune.cli.options import Data, Json, console

if TYPE_CHECKING:
    from normtune.data.suites import Suite


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tasks")(tasks)


def tasks(data: Data = None, as_json: Json = False) -> None:
    """List every task: where its data was found, its sizes and its metric.

    Example: `NORMTUNE_DATA=glue normtune tasks`
    """
    from normtune.data.suites import SUITES

    if as_json:
        listings = [(name, listing) for name, suite in SUITES.items() for listing in suite.listings(data)]
        plain = [{"suite": name, **dataclasses.asdict(listing)} for name, listing in listings]
        print(json.dumps(plain, indent=1, default=str))
        return
    for name, suite in SUITES.items():
        console.print(_table(name, suite, data))
    if data is None:
        console.print("What lies on the hub is fetched when it is used; --data or NORMTUNE_DATA names a folder.")


def _table(name: str, suite: Suite, data: Path | None) -> Table:
    table = Table(title=f"--suite {name}", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("task", "title", "metric"):
        table.add_column(column)
    for column in ("train", "dev", "test"):
        table.add_column(column, justify="right")
    table.add_column("found in")
    missing = "the package" if suite.survey is None else "not found" if data else "hub"
    for item in suite.listings(data):
        sizes = [_sizes(item.sizes, split) for split in ("train", "dev", "test")]
        found = Path(item.found).name if item.found else missing
        table.add_row(item.name, item.title, item.primary, *sizes, found, style="" if item.sizes else "dim")
    return table


def _sizes(sizes: Mapping[str, int], split: str) -> str:
    found = [f"{count:,}" for name, count in sizes.items() if name == split or name.startswith(f"{split}_")]
    return " + ".join(found)
