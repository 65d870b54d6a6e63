"""``normtune runs``: records, a row a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normtune.cli import options, render
from normtune.cli.options import Csv, Json, Markdown
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.records.database import Row
    from normtune.report.table import Table

SHOWN = ("id", "status", "task", "method", "rate", "seed", "score")


def runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of records.")] = Path("runs/study"),
    task: Annotated[str | None, typer.Option(help="Only this task, in any spelling: sst2, SST-2.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only this protocol.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status: done, failed or pruned.")] = None,
    rate: Annotated[float | None, typer.Option(help="Only this learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by, such as score. [default: by id]")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="With --sort: the largest first.")] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Show what differs between two records; the start of an id is enough."),
    ] = None,
    markdown: Markdown = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """List the records in a folder, a row a run, or say what differs between two.

    The table shows the start of each id, which --compare understands; --csv and --json show whole ids and all columns.

    Examples:
    `normtune runs results --task rte --sort score --descending`

    `normtune runs results --compare 002e8c 01724e`
    """
    form = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv)
    if compare is not None:
        options.only(
            context,
            {"folder", "compare", "markdown", "as_csv", "as_json"},
            "--compare takes two ids and shows nothing else",
        )
        compared(folder, compare, form)
        return
    if descending and sort is None:
        raise ConfigError("--descending needs --sort.")
    from normtune.data.suites import spelled
    from normtune.records.database import ordered, rows, select

    found = rows(folder)
    given = {
        "task": None if task is None else spelled(task, [row["task"] for row in found]),
        **{"method": method, "protocol": protocol, "model": model, "status": status, "rate": rate, "seed": seed},
    }
    found = select(found, {name: value for name, value in given.items() if value is not None})
    if sort is not None:
        found = ordered(found, sort, descending=descending)
    render.show([listed(found)], form, plain=found, rows=found)


def listed(found: Sequence[Row]) -> Table:
    """The rows as a table, with ids cut to the shortest length that tells them apart, at least eight characters."""
    # A protocol or model that all rows share is not shown.
    several = [name for name in ("protocol", "model") if len({row[name] for row in found}) > 1]
    ids = {row["id"] for row in found}
    length = next(count for count in range(8, 65) if len({own[:count] for own in ids}) == len(ids))
    names, formats = [*SHOWN[:4], *several, *SHOWN[4:]], {"id": f".{length}", "rate": "g", "score": ".4f"}
    rows = [["" if row[name] is None else f"{row[name]:{formats.get(name, '')}}" for name in names] for row in found]
    return render.table(names, rows, texts=4 + len(several))


def compared(folder: Path, ids: tuple[str, str], form: render.Form) -> None:
    """Print what differs between two records."""
    from normtune.records.database import by_id, differences
    from normtune.records.results import load_runs

    found = load_runs(folder)
    first, second = (by_id(found, start) for start in ids)
    differing = differences(first, second)
    rows = [[row["kind"], row["field"], _short(row["first"]), _short(row["second"])] for row in differing]
    shown: render.Block = render.table(["kind", "field", first.id, second.id], rows, texts=4)
    same = f"{first.id} and {second.id} differ in no setting and no outcome."
    render.show([shown if differing else same], form, plain=differing, rows=differing)


def _short(value: Any) -> str:
    """A value for people: fractions with six digits, a dash for None."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
