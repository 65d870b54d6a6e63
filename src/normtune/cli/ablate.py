"""``normtune ablate``: what a trained model's score loses when parts of it are switched off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Data, DeltaSuite, Device, Json, Markdown, Threads, notes
from normtune.config import fingerprint
from normtune.errors import known


def ablate(
    context: typer.Context,
    delta: Annotated[str, typer.Argument(help="Folder or file of a delta, or its hub id; or a language model.")],
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Parts to switch off whole, such as output.LayerNorm.bias, or full@3 for a layer."),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(help="Numbers of dimensions of the norms, separated by commas. [default: 1,2,4,8 without parts]"),
    ] = None,
    norm: Annotated[str, typer.Option(help="Norms for --dimensions, such as layernorm@3.")] = "layernorm",
    per: Annotated[
        str,
        typer.Option(help="model takes the same dimensions in every layer, layer each layer's own; model,layer both."),
    ] = "model",
    draws: Annotated[int, typer.Option(min=0, help="Random draws to compare each with.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    task: Annotated[str | None, typer.Option(help="Task of a suite. [default: the delta's own]")] = None,
    suite: DeltaSuite = None,
    file: Annotated[
        Path | None, typer.Option(help="File of your own to score on, instead of a task; TXT for a language model.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Which examples are scored, as with normtune train.")] = "reduced",
    model: BaseAt = None,
    out: Annotated[Path | None, typer.Option(help="File for the record. [default: runs/ablate/TASK-ID.json]")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the loss against what is switched off to this SVG, PNG or PDF file.")
    ] = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Switch off parts of a trained model, and score it on dev without them and without as much drawn at random.

    A dimension of a norm is switched off by setting its weight and bias to zero, the largest weights first (Kovaleva
    et al. 2021); a whole part by setting every entry to zero, but a norm's weight to one. Only the record is saved.

    Examples:
    `normtune ablate runs/sst2-full --dimensions 1,2,4,8 --per model,layer --figure ablation.svg`

    `normtune ablate runs/sst2-full output.LayerNorm output.LayerNorm@3 attention.self.value full@3`

    `normtune ablate models/smollm2 --file book.txt --dimensions 1,2,4,8`
    """
    form = options.form(as_json=as_json, markdown=markdown)
    if dimensions is None and parts:
        options.refuse(context, {"norm", "per"}, "Only --dimensions uses norms and a ranking")
    if file is not None:
        options.refuse(context, {"task", "suite", "data"}, "--file is scored instead of a task")
    options.set_threads(threads)
    from normtune.cli.evaluate import own_examples, task_of
    from normtune.data.reading import RECOGNISED
    from normtune.data.task import TaskData
    from normtune.files import refuse_existing
    from normtune.records.ablation import PERS, AblationConfig
    from normtune.report.ablation import Ablation, figure as drawn, table
    from normtune.report.drawing import check, save
    from normtune.studies.ablation import Ablater

    refuse_existing(out)
    if figure is not None:
        check(figure)
    dimensions = dimensions or (None if parts else "1,2,4,8")
    counts: tuple[int, ...] = ()
    if dimensions is not None:
        counts = options.numbers(dimensions, "--dimensions", "whole numbers from 1", int, lambda count: count > 0)
    ranked = tuple(known("ranking", each, PERS) for each in dict.fromkeys(options.names(per)))
    loaded = options.open_delta(delta)
    if file is None:
        found = task_of(context, loaded, task, suite, data, "name a file to score with --file, or a --task")
    else:
        asked, examples = own_examples(loaded, file, None, None, RECOGNISED)
        found = TaskData(replace(asked, name=file.stem), {"train": examples, "dev": examples}, file.name)
    config = AblationConfig(
        model=model or loaded.info.base,
        delta=delta if loaded.info.method else "",
        suite=found.suite,
        task=found.task.name,
        parts=tuple(dict.fromkeys(parts or ())),
        norm=norm,
        dimensions=counts,
        per=ranked,
        draws=draws,
        seed=seed,
        protocol=options.protocol_of(protocol, loaded),
    )
    ablater = Ablater(options.base_of(loaded, model, device), found, config, loaded)
    primary = found.task.primary
    record = ablater.run(
        lambda point: notes.print(f"{point.name}: {primary} {point.scores[primary]:.4f} ({point.seconds:.0f} s)")
    )
    # A file's name is in the configuration; its content tells files of one name apart.
    facts = {"config": config.model_dump(mode="json"), "data": found.split("dev").identity()}
    saved_to = out or Path("runs/ablate") / f"{config.task}-{fingerprint(facts if file is not None else config)}.json"
    record.save(saved_to)
    saved = [f"Saved to {saved_to}"]
    if figure is not None:
        save(drawn([Ablation(record)]), figure)
        saved.append(f"Saved to {figure}")
    shown = table([record])
    titled = replace(shown, title=shown.groups[0].name)  # a terminal shows no groups
    render.show([titled, *saved], form, plain=record.model_dump(mode="json"))
