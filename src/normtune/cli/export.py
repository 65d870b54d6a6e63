"""``normtune export``: a delta in another library's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli import options
from normtune.cli.options import BaseAt
from normtune.errors import UnknownNameError

_FORMATS = ("peft",)


def export(
    delta: Annotated[str, typer.Argument(help="Folder, file or hub id of a delta.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    format_: Annotated[str, typer.Option("--format", help="peft: an LN-tuning adapter of PEFT.")] = "peft",
    model: BaseAt = None,
) -> None:
    """Write a delta of whole norms as an adapter that PEFT loads.

    Any other delta can be merged (`normtune merge`).

    Example: `normtune export runs/rte-layernorm --format peft --out rte-peft`
    """
    if format_ not in _FORMATS:
        raise UnknownNameError("format", format_, _FORMATS)
    from normtune.data.kinds import KINDS
    from normtune.deltas.peft import export_peft

    loaded = options.open_delta(delta)
    export_peft(loaded, options.base_of(loaded, model), out)
    call = f"from_pretrained({str(out)!r}, num_labels={loaded.info.head.outputs})"
    head = KINDS[loaded.info.kind].models[0].removeprefix("AutoModel")
    print(f"Saved to {out}. Load it with peft.AutoPeftModel{head}.{call}")
