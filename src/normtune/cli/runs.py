"""``normtune runs``: records as one table."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normtune.cli.options import Json, console
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.records.database import Row

SHOWN = ("id", "status", "task", "method", "rate", "seed", "score")
_NUMBERS = {"rate", "seed", "score"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("runs")(runs)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of records.")] = Path("runs/study"),
    task: Annotated[str | None, typer.Option(help="Only this task, in any spelling: sst2, SST-2.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only this protocol.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status: done, failed or pruned.")] = None,
    rate: Annotated[float | None, typer.Option(help="Only this learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by, such as score. [default: by id]")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="With --sort, the largest first.")] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Instead, what differs between these two; the start of an id will do."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with all columns.")] = False,
    as_json: Json = False,
) -> None:
    """List the records in a folder, a row a run, or say what differs between two.

    The table shows the start of each id, which --compare understands; --csv and --json have them whole.

    Examples:
    `normtune runs results --task rte --sort score --descending`

    `normtune runs results --compare 002e8c 01724e`
    """
    given = {
        **{"task": task, "method": method, "protocol": protocol, "model": model},
        **{"status": status, "rate": rate, "seed": seed},
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if as_json and as_csv:
        raise ConfigError("Choose one of --json and --csv.")
    if descending and sort is None:
        raise ConfigError("--descending needs --sort.")
    if compare is None:
        listed(folder, wanted, sort, descending=descending, as_csv=as_csv, as_json=as_json)
    elif wanted or sort or as_csv:
        raise ConfigError("--compare takes two ids, and beside them only --json.")
    else:
        compared(folder, compare, as_json=as_json)


def listed(
    folder: Path, wanted: dict[str, Any], sort: str | None, *, descending: bool, as_csv: bool, as_json: bool
) -> None:
    """Print the rows that are wanted."""
    from normtune.records.database import COLUMNS, ordered, rows, select

    found = rows(folder)
    if "task" in wanted:
        from normtune.data.suites import spelled

        wanted = {**wanted, "task": spelled(wanted["task"], [row["task"] for row in found])}
    found = select(found, wanted)
    if sort is not None:
        found = ordered(found, sort, descending=descending)
    if as_json:
        print(json.dumps(found, indent=1))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    else:
        # What all rows share says nothing of a row.
        several = [name for name in ("protocol", "model") if len({row[name] for row in found}) > 1]
        length = enough([row["id"] for row in found])
        lines = [[cell(name, row)[: length if name == "id" else None] for name in (*SHOWN, *several)] for row in found]
        show((*SHOWN, *several), lines)


def enough(ids: Sequence[str]) -> int:
    """How many characters of the ids tell them apart, eight at least."""
    return next(count for count in range(8, 65) if len({own[:count] for own in ids}) == len({*ids}))


def cell(name: str, row: Row) -> str:
    """A value for people: short rates, scores with four digits, nothing for None."""
    value = row[name]
    if value is None:
        return ""
    return {"rate": "{:g}", "score": "{:.4f}"}.get(name, "{}").format(value)


def compared(folder: Path, ids: tuple[str, str], *, as_json: bool) -> None:
    """Print what differs between two records."""
    from normtune.records.database import records
    from normtune.records.differences import by_id, differences

    found = records(folder)
    first, second = (by_id(found, start) for start in ids)
    differing = differences(first, second)
    if as_json:
        print(json.dumps([asdict(each) for each in differing], indent=1))
    elif not differing:
        console.print(f"{first['id']} and {second['id']} differ in no setting and no outcome.", highlight=False)
    else:
        lines = [[each.kind, each.field, short(each.first), short(each.second)] for each in differing]
        show(("kind", "field", first["id"], second["id"]), lines)


def short(value: object) -> str:
    """A value for people: fractions with six digits, a dash for None."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def show(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table; square brackets in names are no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(Text(head), overflow="fold", justify="right" if head in _NUMBERS else "left")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
