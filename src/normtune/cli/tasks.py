"""``normtune tasks``: what can be trained on, and where it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from normtune.cli import options, render
from normtune.cli.options import Data, Json, Markdown
from normtune.report.table import Entry

_SPLITS = ("train", "dev", "test")


def tasks(data: Data = None, markdown: Markdown = False, as_json: Json = False) -> None:
    """List every task of GLUE: where its data was found, its sizes and its metric.

    Example: `NORMTUNE_DATA=glue normtune tasks`
    """
    from normtune.data.glue import survey

    form = options.form(as_json=as_json, markdown=markdown)
    listings = survey(data)
    where = f"in {data}" if data else "on the hub (nyu-mll/glue); --data or NORMTUNE_DATA names a folder"
    rows = []
    for item in listings:
        found = Path(item.found).name if item.found else "not found" if data else "hub"
        cells = [item.name, item.title, item.primary, found, *(_size(item.sizes, split) for split in _SPLITS)]
        rows.append([Entry(cell, kind="" if item.found else "missing") for cell in cells])
    shown = render.table(["task", "title", "metric", "found in", *_SPLITS], rows, title=f"GLUE {where}", texts=4)
    render.show([shown], form, plain=[dataclasses.asdict(listing) for listing in listings])


def _size(sizes: Mapping[str, int], split: str) -> str:
    found = [f"{count:,}" for name, count in sizes.items() if name == split or name.startswith(f"{split}_")]
    return " + ".join(found)
