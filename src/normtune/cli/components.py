"""``normtune components``: what a model is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import Json, Markdown
from normtune.report.table import Entry

if TYPE_CHECKING:
    from normtune.models.layout import Component, Layout
    from normtune.report.table import Table


def components(
    model: Annotated[str, typer.Argument(help="Hub id, folder (config.json is enough) or packaged name (minilm).")],
    labels: Annotated[int, typer.Option(min=1, help="Width of the head.")] = 2,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Show the components of a model, from which you can make a selection of your own.

    No weights are needed.

    Example: `normtune components minilm`
    """
    from normtune.models.base import skeleton

    form = options.form(as_json=as_json, markdown=markdown)
    layout = skeleton(model, labels)
    fields = ("name", "subs", "layers", "entries", "head", "norm")
    plain = {
        "model": model,
        "family": layout.model_type,
        "layers": layout.layers,
        "entries": {"pretrained": layout.size, "head": layout.head_size},
        "components": [{name: getattr(each, name) for name in fields} for each in layout.components],
    }
    render.show([_components(model, layout)], form, plain=plain)


def _components(model: str, layout: Layout) -> Table:
    total = layout.size + layout.head_size
    rows: list[list[str | Entry]] = [
        [
            Entry(each.name + " (head)" * each.head, kind="best" if each.norm else "missing" if each.head else ""),
            *(", ".join(each.subs), span(each), f"{each.entries:,}", f"{each.entries / total:.3%}"),
        ]
        for each in layout.components
    ]
    title = f"{model}: {total:,} entries, {layout.layers} layers"
    return render.table(["component", "sub-components", "layers", "entries", "share"], rows, title=title, texts=3)


def span(component: Component) -> str:
    """A component's layers in words: ``0-5``, ``0, 2``, or nothing outside the layers."""
    layers = component.layers
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
