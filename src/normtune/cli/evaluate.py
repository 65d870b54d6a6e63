"""``normtune evaluate``: how well a delta does a task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Data, DeltaSuite, Device, Dtype, Json, Markdown, Read, Threads
from normtune.data.reading import Reading
from normtune.errors import ConfigError, DataError, DeltaError

if TYPE_CHECKING:
    from normtune.data.task import Split, Task, TaskData
    from normtune.deltas.delta import Delta


def evaluate(
    context: typer.Context,
    delta: Annotated[str, typer.Argument(help="Folder or file of a delta, or its hub id; or a language model.")],
    task: Annotated[str | None, typer.Option(help="Task of a suite. [default: the delta's own]")] = None,
    suite: DeltaSuite = None,
    split: Annotated[str, typer.Option(help="Split to score: dev, dev_mismatched or train.")] = "dev",
    file: Annotated[
        Path | None, typer.Option(help="File of your own to score on, instead of a task; TXT for a language model.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Column of its texts, or two, separated by a comma. [default: as in training]")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of its labels. [default: as in training]")] = None,
    read: Read = "",
    model: BaseAt = None,
    dtype: Dtype = "float32",
    max_dev: Annotated[int | None, typer.Option(min=1, help="Score a seeded sample of at most this many.")] = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Score a delta on a task: all the task's metrics, and a report per class.

    Examples:
    `normtune evaluate runs/rte-layernorm --task rte`

    `normtune evaluate runs/intents --file later.csv`

    `normtune evaluate models/smollm2 --file book.txt`
    """
    form = options.form(as_json=as_json, markdown=markdown)
    if file is not None:
        options.refuse(context, {"task", "suite", "split", "data"}, "--file is scored instead of a task")
    else:
        options.refuse(context, {"text", "label", "read"}, "Only --file has columns to name and to read")
    options.set_threads(threads)
    from normtune.evaluation import decide, logits, score_outputs

    loaded = options.open_delta(delta)
    if file is not None:
        if loaded.info.kind == "language":
            options.refuse(context, {"text", "label"}, "Plain text has no columns")
        asked, examples = own_examples(loaded, file, text, label, Reading.of(read))
        where = file.name
    else:
        source = task_of(context, loaded, task, suite, data, "name a file to score with --file, or a --task")
        asked, examples, where = source.task, source.labelled(split), split
    examples = examples.sample(max_dev, 0)
    base = options.base_of(loaded, model, device, dtype)
    encoded = base.encode(examples, loaded.info.max_length)
    with loaded.apply(base):
        outputs = logits(base, encoded)
    assert encoded.labels is not None
    labels = encoded.labels.numpy()  # those of words that were cut off are masked
    scores = score_outputs(outputs, labels, asked)
    classes = asked.asks.classes(decide(outputs, asked), labels, asked.labels)
    facts = {"task": asked.name, "split": where, "examples": len(examples), "truncated": encoded.truncated}
    said = render.metrics(scores, asked.labels)
    parts: list[render.Block] = [f"{asked.name} {where}, {len(examples):,} examples: {said}"]
    if encoded.truncated:
        parts.append(f"{encoded.truncated:,} texts were cut to {base.limit(loaded.info.max_length)} tokens")
    if classes:
        rows = [(c.name, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.support:,}") for c in classes]
        parts.append(render.table(("class", "precision", "recall", "f1", "examples"), rows))
    render.show(parts, form, plain={**facts, "scores": scores, "classes": [*map(dataclasses.asdict, classes)]})


def task_of(
    context: typer.Context, delta: Delta, name: str | None, suite: str | None, data: Path | None, instead: str
) -> TaskData:
    """The task of a suite, by default the delta's own, with the delta's center and scale.

    The suite defaults to the delta's own, or GLUE. `instead` tells the user what to do if no suite has the task.
    """
    from normtune.data.suites import load_task, suite_of

    own, suite = delta.info.task, suite or delta.info.suite or "glue"
    options.refuse_data(context, suite)
    if name is None and (delta.info.columns or not suite_of(suite).knows(own)):
        raise ConfigError(f"The delta answers {own!r}, which is no task of a suite; {instead}.")
    source = load_task(name or own, suite, data)
    if (source.task.kind, source.task.labels) != (delta.info.kind, delta.info.labels):
        raise DeltaError(f"The delta answers {delta.info.task!r}; its labels are not those of {source.task.name!r}.")
    task = dataclasses.replace(source.task, center=delta.info.center, scale=delta.info.scale)
    return dataclasses.replace(source, task=task)


def own_examples(delta: Delta, file: Path, text: str | None, label: str | None, reading: Reading) -> tuple[Task, Split]:
    """The delta's own task, and the examples of a file."""
    from normtune.data.files import read_split
    from normtune.data.lines import is_running_text, read_lines
    from normtune.data.suites import known_task

    if delta.info.kind == "language":
        if not is_running_text(file):
            raise DataError(f"A language model is scored on plain text, and {file.name} is no .txt file.")
        examples, told = read_lines(file, reading)
        options.tell(told)
        return delta.info.as_task, examples
    known = delta.info.columns or (("text", "text_pair", "label") if delta.info.pair else ("text", "label"))
    first, pair = options.columns(text) if text else (known[0], None)
    if pair and not delta.info.pair:
        raise ConfigError(f"The delta reads single texts; --text takes one column, got {text!r}.")
    examples, told = read_split(
        file,
        text=first,
        pair=(pair or known[1]) if delta.info.pair else None,
        label=label or known[-1],
        names=delta.info.labels,
        kind=delta.info.kind,
        reading=reading,
    )
    options.tell(told)
    own, suited = delta.info.as_task, None if delta.info.columns else known_task(delta.info.task)
    fits = suited is not None and (suited.kind, suited.labels) == (own.kind, own.labels)
    return dataclasses.replace(own, metrics=suited.metrics) if suited and fits else own, examples
