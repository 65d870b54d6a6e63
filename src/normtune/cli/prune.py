"""``normtune prune``: what a model scores once the lowest entries of its matrices are zero."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import BaseAt, Data, DeltaSuite, Device, Json, Markdown, Threads, notes
from normtune.config import fingerprint
from normtune.errors import ConfigError
from normtune.report.table import Table, model_name

if TYPE_CHECKING:
    from normtune.records.sparsity import PrunePoint, PruneRecord


def prune(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Folder or file of a delta; or a base model, with --retrain.")],
    sparsity: Annotated[str, typer.Option(help="Fractions of the entries that become zero, separated by commas.")],
    task: Annotated[str | None, typer.Option(help="Task of a suite. [default: the delta's own]")] = None,
    suite: DeltaSuite = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="magnitude, wanda, obd, obs, fisher, random, or several separated by commas. [default: magnitude] With"
            " --structured: first-order or learnt. [default: first-order]"
        ),
    ] = None,
    structured: Annotated[str | None, typer.Option(help="heads or units: prune whole ones instead of entries.")] = None,
    per: Annotated[
        str, typer.Option(help="row takes the same share of every output row, set ranks all matrices together.")
    ] = "row",
    examples: Annotated[int, typer.Option(min=1, help="Training examples that importances are measured on.")] = 128,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train LayerNorm and a new head afterwards, and score that too.")
    ] = False,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Rate of --retrain. [default: LayerNorm's]")] = None,
    protocol: Annotated[
        str, typer.Option(help="How --retrain trains, and which examples are taken; as with normtune train.")
    ] = "reduced",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample, and of --retrain.")] = 0,
    model: BaseAt = None,
    out: Annotated[Path | None, typer.Option(help="File for the record. [default: runs/prune/TASK-ID.json]")] = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Make the lowest entries of the layers' matrices zero, at several sparsities, and score each model on dev.

    Importances are measured on training examples, where they need any. Only the record is saved.

    Examples:
    `normtune prune runs/rte-full --sparsity 0.3,0.5,0.7 --importance magnitude,wanda,obs`

    `normtune prune runs/rte-full --sparsity 0.25,0.5 --structured heads`

    `normtune prune minilm --task rte --sparsity 0.5 --retrain`
    """
    form = options.form(as_json=as_json, markdown=markdown)
    if structured is not None:
        options.refuse(context, {"per"}, "Whole heads and units are ranked all together")
    if not retrain:
        options.refuse(context, {"lr"}, "Only --retrain trains")
    options.set_threads(threads)
    from normtune.cli.evaluate import task_of
    from normtune.data.suites import load_task
    from normtune.deltas.delta import FILE
    from normtune.files import refuse_existing
    from normtune.models.device import accelerator
    from normtune.models.sources import PACKAGED
    from normtune.records.sparsity import PruneConfig
    from normtune.studies.sparsity import Pruner
    from normtune.training.session import Session

    refuse_existing(out)
    place, delta, revision = Path(source), None, None
    if place.suffix == ".safetensors" or (place / FILE).is_file():
        delta = options.open_delta(source)
        found = task_of(context, delta, task, suite, data, "name a --task of one")
        revision = None if model or delta.info.base in PACKAGED else delta.info.base_revision
        model = model or delta.info.base
    else:
        options.refuse(context, {"model"}, "The base model is named already")
        if task is None:
            raise ConfigError(
                f"There is no delta at {source}; if it is a base model, name the --task to retrain it on."
            )
        options.refuse_data(context, suite or "glue")
        found, model = load_task(task, suite or "glue", data), source
    config = PruneConfig(
        model=model,
        delta=None if delta is None else source,
        suite=found.suite,
        task=found.task.name,
        importances=() if structured and importance is None else tuple(options.names(importance or "magnitude")),
        structure=structured,
        per=per,
        sparsities=options.numbers(
            sparsity, "--sparsity", "numbers from 0 to below 1", float, lambda share: 0 <= share < 1
        ),
        examples=examples,
        retrain=retrain,
        rate=lr,
        seed=seed,
        protocol=options.protocol_of(protocol, delta),
    )
    session = Session(model, revision=revision, accelerator=accelerator(device))
    if delta is not None:
        delta.check(session.base)
    record = Pruner(session, found, config, delta).run(lambda point: notes.print(_said(point, found.task.primary)))
    file = out or Path("runs/prune") / f"{found.task.name}-{fingerprint(config)}.json"
    record.save(file)
    render.show([_table(record), f"Saved to {file}"], form, plain=record.model_dump(mode="json"))


def _said(point: PrunePoint, primary: str) -> str:
    """A pruned model in a line."""
    parts = {"": point.scores, "retrained ": point.retrained}
    said = ", ".join(f"{which}{primary} {scores[primary]:.4f}" for which, scores in parts.items() if scores)
    return f"{point.importance} at {point.sparsity:g}: {said} ({point.seconds:.0f} s)"


def _table(record: PruneRecord) -> Table:
    """The score of each pruned model, x 100, by importance and sparsity."""
    both = record.dense is not None, record.retrained is not None

    def row(name: str, sparsity: str, zeros: int, *found: dict[str, float] | None) -> list[str]:
        scores = [f"{100 * own[record.primary]:.2f}" for own in found if own is not None]
        return [name, sparsity, f"{zeros:,}", *scores]

    header = ["ranked by", "sparsity", "zeros", *compress(("score", "LayerNorm retrained"), both)]
    rows = [row("nothing pruned", "0", 0, record.dense, record.retrained)]
    rows += [row(p.importance, f"{p.sparsity:g}", p.zeros, p.scores, p.retrained) for p in record.points]
    config, of = record.config, f"{record.points[0].of:,} entries of matrices"
    what = f"{of}, whole {config.structure}" if config.structure else f"{of}, per {config.per}"
    scored = f"{config.task} of {config.suite}, dev {record.primary} x 100"
    title = f"{scored}; {model_name(config.model)}, {what}"
    return render.table(header, rows, title=title)
