"""``normtune methods``: what can be trained in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normtune.cli import options, render
from normtune.cli.options import Json, Markdown, Model
from normtune.errors import SelectionError
from normtune.report.table import Entry

if TYPE_CHECKING:
    from normtune.methods.method import Method
    from normtune.models.layout import Layout


def methods(model: Model = "minilm", markdown: Markdown = False, as_json: Json = False) -> None:
    """List every method: what it trains beside the head, how many entries of this model that is, and what it costs.

    No weights are needed. The cost at inference is what remains after merging all that can be merged.

    Example: `normtune methods --model minilm`
    """
    from normtune.methods.method import GROUPS, METHODS
    from normtune.models.base import skeleton

    form = options.form(as_json=as_json, markdown=markdown)
    layout = skeleton(model)
    found = {name: _facts(method, layout) for name, method in METHODS.items()}
    shown: list[render.Block] = []
    for group in GROUPS:
        own = {name: facts for name, facts in found.items() if facts["group"] == group}
        header = ("method", "what trains", "paper", "at inference", "entries")
        notes = [f"{name}: {facts['error']}" for name, facts in own.items() if facts["error"]]
        if own:
            shown.append(render.table(header, map(_row, own, own.values()), title=group, texts=4, notes=notes))
    entries = f"{model} has {layout.size:,} pre-trained entries; a task's head trains beside them."
    sizes = "(@ ...) says what a number after @ sets: lora@4 has rank 4."
    render.show([*shown, f"{entries} {sizes}"], form, plain={"model": model, "entries": layout.size, "methods": found})


def _facts(method: Method, layout: Layout) -> dict[str, Any]:
    """The facts about a method on a model; without entries, the error says why it does not fit."""
    fields = ("group", "about", "option", "paper")
    facts: dict[str, Any] = {name: getattr(method, name) for name in fields}
    try:
        spec = method(layout)
        return {**facts, "cost": spec.cost, "entries": len(spec), "share": spec.share, "error": None}
    except SelectionError as error:
        return {**facts, "cost": None, "entries": None, "share": None, "error": str(error)}


def _row(name: str, facts: dict[str, Any]) -> list[str | Entry]:
    about = f"{facts['about']} (@ {facts['option']})" if facts["option"] else facts["about"]
    entries = f"{facts['entries']:,}" if facts["error"] is None else Entry("not here", kind="missing")
    return [name, about, facts["paper"], facts["cost"] or "", entries]
