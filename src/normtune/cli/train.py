"""``normtune train``: one run, or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from normtune.cli import options
from normtune.cli.options import Data, Device, Json, Model, Precision, ProtocolText, Prune, Read, Suite, Threads, Track
from normtune.config import Memory, Pruning, read_protocol
from normtune.errors import ConfigError, known

if TYPE_CHECKING:
    from normtune.data.kind import KindName


def train(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Option(help="Task of a suite, or several separated by commas (normtune tasks lists them).")
    ] = None,
    suite: Suite = "glue",
    train: Annotated[
        Path | None,
        typer.Option(
            help="File of your own: CSV, TSV, JSONL, Excel, Parquet, CoNLL; TXT for a language model; YAML, a manifest"
            " of many tasks."
        ),
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="File to score on. [default: a seeded, stratified slice of --train]")
    ] = None,
    text: Annotated[
        str, typer.Option(help="Column of the texts in your file, or two, separated by a comma, for pairs.")
    ] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    labels: Annotated[
        str,
        typer.Option(
            help="What the labels are: classes, weighted (rare classes weigh more), several (classes in each cell),"
            " tags (one for each word) or numbers to predict."
        ),
    ] = "classes",
    read: Read = "",
    model: Model = "minilm",
    method: Annotated[
        str,
        typer.Option(
            help="Method, expression or file of a mask (*.safetensors), or several separated by commas"
            " (normtune methods lists them)."
        ),
    ] = "layernorm",
    lr: Annotated[
        str | None, typer.Option(help="Rate, or auto to search the method's grid. [default: the method's own]")
    ] = None,
    prune: Prune = None,
    seed: Annotated[str, typer.Option(help="Seed, or several separated by commas.")] = "0",
    protocol: ProtocolText = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain torch, without the faster ways to compute the same numbers.")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="plain, or low: less memory, the same numbers, but layers are computed a second time.")
    ] = "plain",
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for delta, record and model card. [default: runs/TASK-METHOD]"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another training that --out holds, once this one is finished.")
    ] = False,
    records: Annotated[Path | None, typer.Option(help="Store of records: what is in it is not run again.")] = None,
    track: Track = None,
    precision: Precision = "float32",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a chosen sliver of a model on a task, and save it as a delta of kilobytes.

    Repeat the command to continue a training that was stopped. Options give what a manifest leaves out.

    Examples:
    `normtune train --task rte`

    `normtune train --task cola,mrpc --method head,bitfit,layernorm --protocol small,epochs=5 --lr auto --seed 0,1,2`

    `normtune train --train intents.csv --text body --label intent --out runs/intents`

    `normtune train --train pairs.csv --text premise,hypothesis --labels weighted`

    `normtune train --train book.txt --model models/smollm2 --method all-layernorm`

    `normtune train --task rte --method "layernorm@3- + pooler.dense" --out runs/mine`

    `normtune train --task rte --method masks/rte.safetensors`
    """
    form, manifest = options.form(as_json=as_json), train if train and train.suffix in {".yaml", ".yml"} else None
    _check_source(context, task, suite, train, manifest)
    if out is None and records is not None:
        options.refuse(context, {"overwrite"}, "Only records are kept, and none is overwritten")
    methods, seeds = options.methods(method), options.seeds(seed)
    rule = None if prune is None else Pruning(margin=prune)
    tracked, (dtype, mixed) = options.trackers(track), options.precision_of(precision)
    protocol = protocol or ("own" if train else "paper")
    rules, rates = read_protocol(protocol), options.rates(lr)
    from normtune.cli.trainings import Trainings, holding, storage_of, train_manifest, train_table
    from normtune.data.content import task_name
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine
    from normtune.studies.manifest import OwnFiles, one_kind, read_manifest

    first, pair = options.columns(text)
    columns: dict[str, Any] = {"text": first, "pair": pair, "label": label, "read": read}
    columns["kind"] = _LABELS[known("value of --labels", labels, _LABELS)]
    columns["class_weights"] = labels == "weighted"
    if manifest is not None:
        if len(methods) > 1 or len(seeds) > 1:
            raise ConfigError("A manifest's tasks are trained by one method and at one seed.")
        given = {"model": model, "protocol": protocol, "lr": lr, "method": methods[0], "seed": seeds[0]}
        found = read_manifest(manifest, given, columns)
        theirs = options.rates(None if found.lr is None else str(found.lr))
        overruled = {name for name, value in given.items() if name != "lr" and getattr(found, name) != value}
        overruled |= {"lr"} if theirs != rates else set()
        options.refuse(context, overruled, f"{manifest.name} says otherwise")
        tasks: list[tuple[str, OwnFiles | None]] = [(str(own.name), own) for own in found.tasks]
        model, methods, seeds = found.model, [found.method], (found.seed,)
        rules = read_protocol(found.protocol, epochs=found.epochs)
        rates = theirs
    elif train is not None:
        own = OwnFiles.model_validate({**columns, "train": train, "dev": dev, "seed": seeds[0]})
        tasks = [(task_name(train), own)]
    else:
        tasks = [(name, None) for name in options.names(task or "")]
    if rule is not None and not rates[1] and len(rates[0] or ()) < 2:
        raise ConfigError("--prune drops rates of a search; add --lr auto, or several rates.")
    setup = Setup(
        kind=one_kind("classification" if own is None else own.asks for _, own in tasks),
        model=model,
        dtype=dtype,
        suite=suite,
        protocol=rules,
        prune=rule,
        device=device,
        precision=mixed,
        threads=options.set_threads(threads),
        memory=known("value of --memory", memory, get_args(Memory)),
        plain=plain,
    )
    wanted = Trainings(tuple(tasks), tuple(methods), seeds, *rates)
    if manifest is not None:
        root = out or Path("runs") / manifest.stem
        storage = storage_of(root, records, data, tracked).model_copy(update={"records": records or root / ".records"})
        engine = Engine(setup, storage)
        with holding(engine, root):
            train_manifest(engine, wanted, root, form)
    else:
        folder = wanted.folder() if out is None and records is None else out
        engine = Engine(setup, storage_of(folder, records, data, tracked))
        with holding(engine, folder):
            train_table(engine, wanted, folder, form, overwrite=overwrite)


def _check_source(
    context: typer.Context, task: str | None, suite: str, train: Path | None, manifest: Path | None
) -> None:
    """Refuse options that do not fit the source of the examples."""
    from normtune.data.lines import is_running_text

    if (task is None) == (train is None):
        raise ConfigError("Give either --task, for a task of a suite, or --train, for a file of your own.")
    if task is not None:
        options.refuse(context, {"dev", "text", "label", "labels", "read"}, "The columns of a suite's task are known")
        options.refuse_data(context, suite)
    elif manifest is not None:
        options.refuse(context, {"suite", "data", "dev"}, "A manifest names the files of its tasks")
        options.refuse(context, {"overwrite"}, "A manifest's tasks are trained again where they changed")
    else:
        options.refuse(context, {"suite", "data"}, "A file of your own is in no suite")
        if train is not None and is_running_text(train):
            options.refuse(context, {"text", "label", "labels"}, "Plain text has no columns")


#: The kind of task that each value of --labels means.
_LABELS: dict[str, KindName] = {
    "classes": "classification",
    "weighted": "classification",
    "several": "multilabel",
    "tags": "tokens",
    "numbers": "regression",
}
