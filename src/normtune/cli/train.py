"""``normtune train``: one run, or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from normtune.cli.options import (
    Data,
    Device,
    Json,
    Prune,
    PruneMargin,
    Revision,
    Suite,
    Threads,
    Track,
    notes,
    pruning,
    rates,
    seeds,
    set_threads,
    trackers,
)
from normtune.cli.rows import Rows
from normtune.cli.sources import OwnFiles, sources
from normtune.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from normtune.config import Memory


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("train")(train)


def train(
    task: Annotated[
        str | None, typer.Option(help="Task of a suite, or several separated by commas (normtune tasks lists them).")
    ] = None,
    suite: Suite = "glue",
    train: Annotated[Path | None, typer.Option(help="File of your own: CSV, TSV, JSONL or Parquet.")] = None,
    dev: Annotated[
        Path | None, typer.Option(help="File to score on. [default: a seeded, stratified slice of --train]")
    ] = None,
    text: Annotated[str, typer.Option(help="Column of the texts in your file.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="Column of their pairs.")] = None,
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    regression: Annotated[bool, typer.Option("--regression", help="The labels are numbers to be predicted.")] = False,
    class_weights: Annotated[bool, typer.Option("--class-weights", help="Let rare classes weigh more.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of your task. [default: that of the file]")] = None,
    manifest: Annotated[Path | None, typer.Option(help="YAML file that names many tasks of your own.")] = None,
    model: Annotated[str, typer.Option(help="Hub id, folder or packaged name.")] = "minilm",
    method: Annotated[
        str | None,
        typer.Option(
            help="Method or expression, or several separated by commas (normtune components lists them)."
            " [default: layernorm]"
        ),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="File of a mask instead of a method, or several separated by commas.")
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Rate, or auto to search the method's grid. [default: the method's own]")
    ] = None,
    prune: Prune = False,
    prune_margin: PruneMargin = None,
    seed: Annotated[str, typer.Option(help="Seed, or several separated by commas.")] = "0",
    protocol: Annotated[str, typer.Option(help="paper, held-out, reduced or small.")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens, instead of the protocol's.")] = None,
    max_train: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the training examples.")] = None,
    max_dev: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the dev examples.")] = None,
    dropout: Annotated[bool | None, typer.Option(help="Instead of the protocol's.")] = None,
    products: Annotated[
        str | None,
        typer.Option(help="float32, or bfloat16: products of frozen layers in half the bits, faster on many CPUs."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain torch, without the faster ways to compute the same numbers.")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="plain, or low: less memory, with layers computed a second time; the same numbers.")
    ] = "plain",
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for delta, record, curve and model card. [default: runs/TASK-METHOD]"),
    ] = None,
    records: Annotated[Path | None, typer.Option(help="Store of records: what is in it is not run again.")] = None,
    track: Track = None,
    track_dir: Annotated[Path, typer.Option(help="Folder for trackers that write to one.")] = Path("runs/tracking"),
    revision: Revision = None,
    dtype: Annotated[str, typer.Option(help="Of the frozen part: float32, bfloat16 or float16.")] = "float32",
    precision: Annotated[str, typer.Option(help="Mixed precision: no, bf16 or fp16.")] = "no",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a chosen sliver of a model on a task, and save it as a delta of kilobytes.

    A training that was stopped is continued by the same command.

    Examples:
    `normtune train --task rte`

    `normtune train --task cola,mrpc --method head,bitfit,layernorm --protocol small --lr auto --seed 0,1,2`

    `normtune train --train intents.csv --text body --label intent --out runs/intents`

    `normtune train --task rte --method "layernorm@3- + pooler.dense" --out runs/mine`

    `normtune train --task rte --mask masks/rte.safetensors`
    """
    if products not in {None, "float32", "bfloat16"}:
        raise ConfigError(f"--products takes float32 or bfloat16; got {products!r}.")
    if memory not in {"plain", "low"}:
        raise ConfigError(f"--memory takes plain or low; got {memory!r}.")
    rate_list, search = rates(lr)
    rows, seed_list = Rows.read(method, mask), seeds(seed)
    tracked, rule = trackers(track), pruning(prune, prune_margin)
    if rule is not None and not search and len(rate_list or ()) < 2:
        raise ConfigError("--prune drops rates of a search; add --lr auto, or several rates.")
    set_threads(threads)
    if manifest is not None:
        from normtune.cli.manifest import train_manifest

        if task is not None or train is not None:
            raise ConfigError("--manifest names the tasks itself; leave out --task and --train.")
        if mask is not None:
            raise ConfigError("--manifest names the method itself; leave out --mask.")
        if tracked or rule:
            raise ConfigError("--track and --prune do not go with --manifest.")
        train_manifest(manifest, out, device, precision, as_json)
        return
    own = OwnFiles(train, dev, text, text_pair, label, regression, class_weights, name, seed_list[0])
    from normtune.cli.outputs import Outputs
    from normtune.cli.watcher import Watcher
    from normtune.config import protocol as make_protocol
    from normtune.fast.bfloat16 import pays_off
    from normtune.models.device import accelerator
    from normtune.records.store import Store
    from normtune.studies.runs import Runner
    from normtune.training.session import Session
    from normtune.training.splits import parts_of

    chosen = make_protocol(
        protocol,
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        max_train=max_train,
        max_dev=max_dev,
        dropout=dropout,
        products=products,
    )
    found = sources(task, suite, data, own)
    for source in found:
        parts_of(source, chosen)  # what is missing is said before anything is loaded or written
    rows.check()
    session = Session(
        model,
        revision=revision,
        dtype=dtype,
        accelerator=accelerator(device, precision, trackers=tracked, folder=track_dir),
        memory=cast("Memory", memory),
        plain=plain,
    )
    plan = rows.cells(session, found, seed_list, protocol=chosen, rates=rate_list, search=search)
    names, named = [source.task.name for source in found], [*dict.fromkeys(cell.method for cell in plan)]
    outputs = Outputs.plan(out, names, named, seed_list, keep=out is not None or records is None)
    main = session.accelerator.is_main_process  # of several processes, one writes and speaks
    if main:
        outputs.claim()
        if chosen.products == "bfloat16" and session.accelerator.device.type == "cpu" and not pays_off():
            notes.print("This processor has no products of bfloat16: float32 ones would be faster.", highlight=False)
    session.accelerator.wait_for_everyone()
    store = Store(records) if records is not None else None
    results = []
    with Watcher(sum(cell.runs for cell in plan), silent=not main) as watcher:
        runner = Runner(
            session,
            chosen,
            store=store,
            aside=outputs.aside,
            begin=watcher.begin,
            end=watcher.end,
            fail=watcher.fail,
            prune=rule,
            drop=watcher.drop,
        )
        for cell in plan:
            try:
                results.append(runner.cell(cell))
            except TrainingError:
                if len(plan) == 1:
                    raise
    if main and rule is not None:
        watcher.savings(sum(len(cell.rates) for cell in plan), chosen.epochs)
    if main:
        for runs in results:
            outputs.write(runs)
        outputs.finish()
        outputs.show(results, as_json)
    if len(results) < len(plan):
        gaps = len(plan) - len(results)
        raise TrainingError(f"{gaps} of {len(plan)} cells of the table have no result; the notes above say why.")
