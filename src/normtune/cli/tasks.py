"""``normtune tasks``: what can be trained on, and where it was found."""

from __future__ import annotations

from normtune.cli import options, render
from normtune.cli.options import Data, Json, Markdown
from normtune.report.table import Entry

_SPLITS = ("train", "dev", "test")


def tasks(data: Data = None, markdown: Markdown = False, as_json: Json = False) -> None:
    """List every task of every suite: where its data was found, its sizes and its metric.

    Example: `NORMTUNE_DATA=glue normtune tasks`
    """
    from normtune.data.suites import SUITES

    form = options.form(as_json=as_json, markdown=markdown)
    shown, plain = [], []
    for name, suite in SUITES.items():
        missing = "the package" if suite.survey is None else "not found" if data else "hub"
        rows = []
        for task, (place, sizes) in suite.found(data).items():
            about = {"name": task, "title": suite.tasks[task].title, "primary": suite.tasks[task].primary}
            counts = [
                " + ".join(f"{n:,}" for each, n in sizes.items() if each == split or each.startswith(f"{split}_"))
                for split in _SPLITS
            ]
            cells = [*about.values(), place.name if place else missing, *counts]
            rows.append([Entry(cell, kind="" if sizes else "missing") for cell in cells])
            plain.append({"suite": name, **about, "found": place, "sizes": sizes})
        head = ["task", "title", "metric", "found in", *_SPLITS]
        shown.append(render.table(head, rows, title=f"--suite {name}", texts=4))
    lines = [] if data else ["Data on the hub is fetched when it is used; --data or NORMTUNE_DATA names a folder."]
    render.show([*shown, *lines], form, plain=plain)
