"""``normtune export``: a delta in another library's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli.options import console
from normtune.errors import UnknownNameError

_FORMATS = ("peft",)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export)


def export(
    delta: Annotated[str, typer.Argument(help="Folder, file or hub id of a delta.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written.")],
    format_: Annotated[str, typer.Option("--format", help="peft: an LN-tuning adapter of PEFT.")] = "peft",
    model: Annotated[str | None, typer.Option(help="Where its base model is, if not where it was.")] = None,
) -> None:
    """Write a delta of whole norms as an adapter that PEFT loads.

    Any other delta can be merged (`normtune merge`).

    Example: `normtune export runs/rte-layernorm --format peft --out rte-peft`
    """
    if format_ not in _FORMATS:
        raise UnknownNameError("format", format_, _FORMATS)
    from normtune.cli.loading import base_of
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch
    from normtune.deltas.peft import export_peft

    loaded = Delta.load(fetch(delta))
    export_peft(loaded, base_of(loaded, model, "cpu"), out)
    console.print(f"Saved to {out}; its README.md shows how PEFT loads it.", highlight=False, soft_wrap=True)
