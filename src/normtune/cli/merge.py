"""``normtune merge``: a plain transformers model with a delta in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli.options import console


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("merge")(merge)


def merge(
    delta: Annotated[str, typer.Argument(help="Folder, file or hub id of a delta.")],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    model: Annotated[str | None, typer.Option(help="Where its base model is, if not where it was.")] = None,
) -> None:
    """Write a plain transformers model with a delta in it, which needs no normtune to run.

    A delta of a regression answers on the targets' own scale afterwards.

    Examples:
    `normtune merge runs/rte-layernorm --out rte-model`

    `normtune merge me/rte-delta --model ./bert-large-cased --out rte-model`
    """
    from normtune.cli.loading import base_of
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch
    from normtune.deltas.merge import merge as write

    loaded = Delta.load(fetch(delta))
    write(loaded, base_of(loaded, model, "cpu"), out)
    console.print(
        f'Saved to {out}: AutoModelForSequenceClassification.from_pretrained("{out}")', highlight=False, soft_wrap=True
    )
