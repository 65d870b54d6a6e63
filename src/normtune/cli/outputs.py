"""How the results of trainings are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as RichTable

from normtune.cli.options import console
from normtune.records.aggregate import Table, tabulate

if TYPE_CHECKING:
    from normtune.records.run import Record


def plain_record(record: Record) -> dict[str, object]:
    """A record for a program, without how far each parameter moved."""
    return record.model_dump(mode="json", exclude={"changes"})


def show(records: Sequence[Record], *, many: bool, as_json: bool) -> None:
    """Print records as JSON or as a table; one alone in a few lines, unless it is one of many."""
    if as_json:
        print(json.dumps([plain_record(record) for record in records], indent=1))
    elif many:
        console.print(rich_table(tabulate(records)))
    elif records:
        _show_one(records[0])


def _show_one(record: Record) -> None:
    counts, data = record.counts, record.data
    scores = ", ".join(f"{name} {value:.4f}" for name, value in record.scores["dev"].items())
    console.print(
        f"[bold]{record.config.task}[/] dev: {scores} (best of {len(record.curve)} epochs: {record.best_epoch})",
        highlight=False,
    )
    console.print(
        f"trained {counts.trained:,} of {counts.total:,} entries (a head of {counts.head:,} among them)"
        f" on {data.train:,} of {data.train_of:,} examples in {record.seconds:.0f} s;"
        f" {sum(data.truncated.values()):,} texts were cut to {record.config.protocol.max_length} tokens",
        highlight=False,
    )


def rich_table(table: Table) -> RichTable:
    """A table of scores for the terminal."""
    title = f"Dev score x 100: mean ± standard deviation over {table.seeds} seed{'s' if table.seeds != 1 else ''}"
    shown = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, name in enumerate(_header(table)):
        shown.add_column(name, justify="right" if number else "left", no_wrap=number < 2)
    for row in _rows(table):
        shown.add_row(*row)
    return shown


def markdown_table(table: Table) -> str:
    """A table of scores in Markdown."""
    header = _header(table)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *_rows(table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate_table(scores: dict[str, dict[float, float]]) -> str:
    """Scores by rate in Markdown: a row a method and task, a column a rate."""
    columns = sorted({rate for row in scores.values() for rate in row})
    lines = [["", *(f"{rate:g}" for rate in columns)], ["---", *["---:"] * len(columns)]]
    for name, row in scores.items():
        lines.append([name, *(f"{100 * row[rate]:.1f}" if rate in row else "" for rate in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _header(table: Table) -> list[str]:
    return ["method", "entries", *table.tasks]


def _rows(table: Table) -> list[list[str]]:
    return [
        [method, f"{table.trained.get(method, 0):,}", *(_cell(table, method, task) for task in table.tasks)]
        for method in table.methods
    ]


def _cell(table: Table, method: str, task: str) -> str:
    """A score, with the number of its seeds where some are missing: a gap is shown, never averaged over."""
    score = table.scores.get((method, task))
    if score is None:
        return "missing"
    return str(score) if score.seeds == table.seeds else f"{score} ({score.seeds} of {table.seeds} seeds)"
