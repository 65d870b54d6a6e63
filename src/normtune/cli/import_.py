"""``normtune import``: a delta from another library's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normtune.cli.options import names


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of an LN-tuning adapter, as PEFT saves it.")],
    model: Annotated[str, typer.Option(help="The model that it was trained on: hub id, folder or packaged name.")],
    out: Annotated[Path, typer.Option(help="Folder for the delta.")],
    task: Annotated[str | None, typer.Option(help="Name of its task; a suite's task sets --labels and --pair.")] = None,
    labels: Annotated[str | None, typer.Option(help="Names of its labels in class order, separated by commas.")] = None,
    pair: Annotated[bool | None, typer.Option(help="Whether it reads pairs of texts.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens that it was trained with.")] = None,
) -> None:
    """Turn an LN-tuning adapter that PEFT trained into a delta with the same answers.

    PEFT does not keep the names of the labels, for example; give here what it lacks. An adapter that `normtune export`
    wrote has all of it.

    Examples:
    `normtune import adapters/rte --model bert-base-cased --task rte --out runs/rte-peft`

    `normtune import adapters/mood --model minilm --labels bad,good --out runs/mood`
    """
    from normtune.data.suites import SUITES, known_task, spelled
    from normtune.deltas.peft import exported, import_peft
    from normtune.files import claim_folder
    from normtune.models.base import load_base

    task = None if task is None else spelled(task, [name for suite in SUITES.values() for name in suite.tasks])
    known = known_task(task or "")
    info: dict[str, Any] = {} if known is None else {"labels": known.labels, "pair": known.pair}
    named = None if labels is None else tuple(names(labels))
    told = {"task": task, "labels": named, "pair": pair, "max_length": max_length}
    info |= {name: value for name, value in told.items() if value is not None}
    own = exported(folder)
    delta = import_peft(folder, load_base(model) if own is None else load_base(model, own.head), **info)
    claim_folder(out)
    delta.save(out)
    print(f"Saved to {out}: {delta.entries:,} entries and a head for {delta.info.head.outputs} outputs")
