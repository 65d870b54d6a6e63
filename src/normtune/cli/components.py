"""``normtune components``: what a model is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from normtune.cli.options import Json, Revision, console

if TYPE_CHECKING:
    from normtune.models.layout import Component, Layout


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("components")(components)


def components(
    model: Annotated[str, typer.Argument(help="Hub id, folder (config.json is enough) or packaged name (minilm).")],
    labels: Annotated[int, typer.Option(min=1, help="Width of the head.")] = 2,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Show the components of a model, and how many entries each method would train.

    No weights are needed.

    Example: `normtune components minilm`
    """
    from normtune.errors import SelectionError
    from normtune.methods.method import METHODS
    from normtune.models.base import skeleton

    layout = skeleton(model, labels, revision=revision)
    counts: dict[str, int | str] = {}
    for name, method in METHODS.items():
        try:
            counts[name] = len(method(layout))
        except SelectionError as error:
            counts[name] = str(error)
    if as_json:
        print(json.dumps(_plain(model, layout, counts), indent=1))
        return
    console.print(_components(model, layout))
    console.print(_methods(layout, counts))


def _plain(model: str, layout: Layout, counts: dict[str, int | str]) -> dict[str, object]:
    return {
        "model": model,
        "family": layout.model_type,
        "layers": layout.layers,
        "entries": {"pretrained": layout.size, "head": layout.head_size},
        "components": [
            {
                "name": c.name,
                "subs": c.subs,
                "layers": c.layers,
                "entries": c.entries,
                "head": c.head,
                "norm": c.norm,
            }
            for c in layout.components
        ],
        "methods": {
            name: {"selected": n, "trained": n + layout.head_size} if isinstance(n, int) else {"error": n}
            for name, n in counts.items()
        },
    }


def _components(model: str, layout: Layout) -> Table:
    total = layout.size + layout.head_size
    table = Table(
        title=f"{model}: {total:,} entries, {layout.layers} layers", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for name in ("component", "sub-components", "layers"):
        table.add_column(name)
    for name in ("entries", "share"):
        table.add_column(name, justify="right")
    for component in layout.components:
        style = "bold" if component.norm else "dim" if component.head else ""
        name = f"{component.name} (head)" if component.head else component.name
        share = f"{component.entries / total:.3%}"
        table.add_row(name, ", ".join(component.subs), span(component), f"{component.entries:,}", share, style=style)
    return table


def span(component: Component) -> str:
    """A component's layers in words: ``0-5``, ``0, 2``, or nothing outside the layers."""
    layers = component.layers
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _methods(layout: Layout, counts: dict[str, int | str]) -> Table:
    table = Table(title="What each method trains", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("method")
    for name in ("pre-trained entries", "share", "with the head"):
        table.add_column(name, justify="right")
    for name, count in counts.items():
        if isinstance(count, int):
            table.add_row(name, f"{count:,}", f"{count / layout.size:.4%}", f"{count + layout.head_size:,}")
        else:
            table.add_row(name, "not for this model", "", "", style="dim")
    return table
