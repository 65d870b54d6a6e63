"""``normtune export``: a delta in another library's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options
from normtune.cli.options import BaseAt
from normtune.data.kinds import KINDS
from normtune.errors import UnknownNameError

if TYPE_CHECKING:
    from normtune.deltas.delta import Delta
    from normtune.models.base import Base

_FORMATS = ("peft",)


def export(
    delta: Annotated[str, typer.Argument(help="Folder, file or hub id of a delta.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    format_: Annotated[str, typer.Option("--format", help="peft: an LN-tuning adapter of PEFT.")] = "peft",
    model: BaseAt = None,
) -> None:
    """Write a delta of whole norms as an adapter that PEFT loads.

    Most other deltas can be merged (`normtune merge`); adapters, prompts and prefixes cannot.

    Example: `normtune export runs/rte-layernorm --format peft --out rte-peft`
    """
    if format_ not in _FORMATS:
        raise UnknownNameError("format", format_, _FORMATS)
    from normtune.deltas.peft import export_peft

    loaded = options.open_delta(delta)
    base = options.base_of(loaded, model)
    export_peft(loaded, base, out)
    call = _call(loaded, base, str(out))
    print(f"Saved to {out}.{f' Load it with {call}' if call else ''}")


def _call(delta: Delta, base: Base, out: str) -> str | None:
    """The call that loads the adapter in PEFT; None for a masked language model, which PEFT has no task for."""
    from normtune.deltas.peft import task_type

    task, outputs = task_type(delta, base), delta.info.head.outputs
    if task == "CAUSAL_LM":
        return f"peft.AutoPeftModelForCausalLM.from_pretrained({out!r})"
    if task is not None:
        head = KINDS[delta.info.kind].models[0].removeprefix("AutoModel")
        return f"peft.AutoPeftModel{head}.from_pretrained({out!r}, num_labels={outputs})"
    if base.reads != "picture":
        return None
    # The checkpoints of image models mostly have a head of another width.
    sizes = f"num_labels={outputs}, ignore_mismatched_sizes=True"
    plain = f"AutoModelForImageClassification.from_pretrained({str(base.model.config._name_or_path)!r}, {sizes})"
    return f"peft.PeftModel.from_pretrained({plain}, {out!r})"
