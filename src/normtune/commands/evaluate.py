"""``normtune evaluate``: how well a delta does a task."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from normtune.commands.options import Data, Device, Json, Threads, console, set_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.tasks.metrics import ClassScore


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("evaluate")(evaluate)


def evaluate(
    delta: Annotated[Path, typer.Argument(help="Folder or file of a delta.")],
    task: Annotated[str | None, typer.Option(help="Task. [default: the delta's own]")] = None,
    split: Annotated[str, typer.Option(help="Split to score: dev, dev_mismatched or train.")] = "dev",
    model: Annotated[str | None, typer.Option(help="Where its base model is, if not where it was.")] = None,
    max_dev: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the examples.")] = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Score a delta on a task: all the task's metrics, and a report per class.

    Example: `normtune evaluate runs/rte-layernorm --task rte`
    """
    set_threads(threads)
    from normtune.commands.loading import base_of
    from normtune.deltas.delta import Delta
    from normtune.errors import DeltaError
    from normtune.evaluation import decide, logits, score_outputs
    from normtune.execution.batching import encode
    from normtune.tasks.glue import load_glue
    from normtune.tasks.metrics import classification_report

    loaded = Delta.load(delta)
    source = load_glue(task or loaded.info.task, data)
    if (source.task.kind, source.task.labels) != (loaded.info.kind, loaded.info.labels):
        raise DeltaError(f"The delta answers {loaded.info.task!r}; its labels are not those of {source.task.name!r}.")
    examples = source.labelled(split).sample(max_dev, 0)
    base = base_of(loaded, model, device)
    encoded = encode(examples, base.need_tokenizer(), loaded.info.max_length)
    with loaded.apply(base):
        outputs = logits(base, encoded)
    assert examples.labels is not None
    task_now = dataclasses.replace(source.task, center=loaded.info.center, scale=loaded.info.scale)
    scores = score_outputs(outputs, examples.labels, task_now)
    report: Sequence[ClassScore] = ()
    if task_now.kind == "classification":
        report = classification_report(decide(outputs, task_now), examples.labels, task_now.labels)
    if as_json:
        facts = {"task": source.task.name, "split": split, "examples": len(examples), "truncated": encoded.truncated}
        print(
            json.dumps({**facts, "scores": scores, "classes": [dataclasses.asdict(line) for line in report]}, indent=1)
        )
        return
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    console.print(f"[bold]{source.task.name}[/] {split}, {len(examples):,} examples: {shown}", highlight=False)
    if encoded.truncated:
        console.print(f"{encoded.truncated:,} texts were cut to {loaded.info.max_length} tokens", highlight=False)
    if report:
        console.print(_classes(report))


def _classes(report: Sequence[ClassScore]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    for name in ("precision", "recall", "f1", "examples"):
        table.add_column(name, justify="right")
    for line in report:
        table.add_row(line.name, f"{line.precision:.3f}", f"{line.recall:.3f}", f"{line.f1:.3f}", f"{line.support:,}")
    return table
