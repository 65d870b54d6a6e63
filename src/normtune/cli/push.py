"""``normtune push``: a delta to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli import options


def push(
    context: typer.Context,
    delta: Annotated[Path, typer.Argument(help="Folder of a delta.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: USER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, and upload nothing.")] = False,
) -> None:
    """Upload a delta to the hub with its record and model card, and nothing else of its folder.

    Log in first: `hf auth login`, or set `HF_TOKEN`.

    Example: `normtune push runs/rte-layernorm me/rte-layernorm --private`
    """
    from normtune.deltas.hub import prepare_push, push as upload

    if dry_run:
        options.refuse(context, {"private"}, "--dry-run makes no repository")
        for file in prepare_push(delta):
            print(f"{file}  {file.stat().st_size:,} bytes")
        return
    print(f"Pushed to {upload(delta, repo, private=private)}")
