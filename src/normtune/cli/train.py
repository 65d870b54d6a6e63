"""``normtune train``: one run, or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from normtune.cli.options import (
    Data,
    Device,
    Json,
    Precision,
    Prune,
    Revision,
    Suite,
    Threads,
    Track,
    methods,
    names,
    precision_of,
    pruning,
    rates,
    seeds,
    set_threads,
    trackers,
)
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from normtune.config import Memory

METHOD = "layernorm"


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
    manifest: Annotated[
        Path | None, typer.Option(help="YAML file of many tasks of your own; it goes before the options.")
    ] = None,
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
    prune: Prune = None,
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
    revision: Revision = None,
    precision: Precision = "float32",
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
    columns = {
        "text": text,
        "pair": text_pair,
        "label": label,
        "regression": regression,
        "class_weights": class_weights,
    }
    _check_source(task, train, manifest, {**columns, "dev": dev, "name": name}, suite)
    _check_ways(products, memory)
    if mask is not None and (method is not None or manifest is not None):
        other = "--method" if manifest is None else "--manifest"
        raise ConfigError(f"Give either {other} or --mask: a mask says itself which entries train.")
    rule, tracked, seed_list = pruning(prune), trackers(track), seeds(seed)
    dtype, mixed = precision_of(precision)
    rows, masks = [] if mask else methods(METHOD if method is None else method), names(mask) if mask else []
    rates(lr)  # what is no rate is refused before anything is imported
    from normtune.cli.trainings import Kept, Wanted, train_manifest, train_table
    from normtune.config import protocol as make_protocol
    from normtune.studies.config import Setup
    from normtune.studies.manifest import read_manifest
    from normtune.studies.source import OwnFiles

    if manifest is not None:
        if len(rows) > 1 or len(seed_list) > 1:
            raise ConfigError("A manifest's tasks are trained by one method and at one seed.")
        given = {"model": model, "method": rows[0], "protocol": protocol, "epochs": epochs, "lr": lr}
        found = read_manifest(manifest, {**given, "seed": seed_list[0]}, columns)
        model, protocol, epochs = found.model, found.protocol, found.epochs
        rows, seed_list = [found.method], [found.seed]
        lr = None if found.lr is None else str(found.lr)
        tasks: list[tuple[str, OwnFiles | None]] = [(str(own.name), own) for own in found.tasks]
    elif train is not None:
        own = OwnFiles.model_validate({**columns, "train": train, "dev": dev, "name": name, "seed": seed_list[0]})
        tasks = [(own.name or train.stem, own)]
    else:
        tasks = [(one, None) for one in names(task or "")]
    rate_list, search = rates(lr)
    if rule is not None and not search and len(rate_list or ()) < 2:
        raise ConfigError("--prune drops rates of a search; add --lr auto, or several rates.")
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
    setup = Setup(
        model=model,
        revision=revision,
        dtype=dtype,
        suite=suite,
        protocol=chosen,
        prune=rule,
        device=device,
        precision=mixed,
        threads=set_threads(threads),
        memory=cast("Memory", memory),
        plain=plain,
    )
    wanted = Wanted(
        tasks=tuple(tasks),
        methods=tuple(rows),
        masks=tuple(map(Path, masks)),
        seeds=tuple(seed_list),
        rates=None if rate_list is None else tuple(rate_list),
        search=search,
    )
    if manifest is not None:
        kept = Kept(out or Path("runs") / manifest.stem, records, data, tracked)
        train_manifest(setup, wanted, kept, as_json=as_json)
    else:
        root = wanted.folder() if out is None and records is None else out
        train_table(setup, wanted, Kept(root, records, data, tracked), as_json=as_json)


def _check_source(task: str | None, train: Path | None, manifest: Path | None, own: dict[str, Any], suite: str) -> None:
    """Refuse options that do not go with where the examples come from."""
    given = [name for name, value in own.items() if value not in {None, False, name}]
    words = {"pair": "text-pair", "class_weights": "class-weights"}
    if manifest is not None:
        if task is not None or train is not None:
            raise ConfigError("--manifest names the tasks itself; leave out --task and --train.")
        beyond = [name for name in given if name in {"dev", "name"}]
    elif (task is None) == (train is None):
        raise ConfigError("Give either --task, for a task of a suite, or --train, for a file of your own.")
    else:
        beyond = given if task is not None else []
    if beyond:
        raise ConfigError(f"--{words.get(beyond[0], beyond[0])} goes with --train, a file of your own.")
    if task is None and suite != "glue":
        raise ConfigError("--suite goes with --task, a task of a suite.")


def _check_ways(products: str | None, memory: str) -> None:
    """Refuse ways to compute that there are not."""
    if products not in {None, "float32", "bfloat16"}:
        raise ConfigError(f"--products takes float32 or bfloat16; got {products!r}.")
    if memory not in {"plain", "low"}:
        raise ConfigError(f"--memory takes plain or low; got {memory!r}.")
