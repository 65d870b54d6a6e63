"""How the results of trainings are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normtune.cli import render
from normtune.cli.options import console
from normtune.records.aggregate import tabulate

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
        render.show([render.scores(tabulate(records))])
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
