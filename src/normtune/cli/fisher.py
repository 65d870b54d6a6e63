"""``normtune fisher``: how much Fisher information each component and each entry carries."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli.options import (
    Data,
    Device,
    Estimate,
    Examples,
    HeadSeeds,
    Json,
    Revision,
    Samples,
    Suite,
    Threads,
    Tolerated,
    UntilStable,
    console,
    notes,
    seeds,
    set_threads,
)
from normtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.records.fisher import FisherRecord


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("fisher")(fisher)


def fisher(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of records to show. Without it, what is missing is measured.")
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", "--task", help="Tasks separated by commas, or all that tables show.")
    ] = "all",
    model: Annotated[str, typer.Option(help="Hub id, folder or packaged name.")] = "minilm",
    within: Annotated[
        str, typer.Option(help="Sum over these: a method or an expression (normtune components lists them).")
    ] = "full",
    entries: Annotated[
        str | None,
        typer.Option(help="Keep every single entry of these, for masks and heat maps. [default: layernorm, if summed]"),
    ] = None,
    examples: Examples = None,
    until_stable: UntilStable = False,
    tolerance: Tolerated = 0.1,
    estimator: Estimate = "empirical",
    samples: Samples = 1,
    head_seeds: HeadSeeds = "0",
    protocol: Annotated[str, typer.Option(help="Whose training examples: paper, held-out or small.")] = "paper",
    suite: Suite = "glue",
    data: Data = None,
    records: Annotated[
        Path, typer.Option(help="Folder of records and entries: what is in it is not measured again.")
    ] = Path("runs/fisher"),
    figure: Annotated[
        Path | None, typer.Option(help="Draw the kept entries by task and layer to this SVG, PNG or PDF file.")
    ] = None,
    normalised: Annotated[
        bool, typer.Option("--normalised", help="In the figure each task divided by its own sum, and their sum.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
    revision: Revision = None,
    dtype: Annotated[str, typer.Option(help="Of the model: float32 or bfloat16.")] = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Rank the components of a model by their mean Fisher information (the paper's table 1).

    The Fisher information of an entry is the mean over examples of the squared gradient of the log-likelihood. Each
    task's component means are divided by their own sum, then added over the tasks.

    Examples:
    `normtune fisher --tasks rte,mrpc --examples 500`

    `normtune fisher results/fisher --markdown`

    `normtune fisher --tasks all --until-stable --head-seeds 0,1,2 --records results/fisher --figure figure3.svg`
    """
    from normtune.cli.informed import by_layer, heatmaps
    from normtune.cli.measuring import measurer, task_names
    from normtune.errors import SelectionError
    from normtune.methods.expression import select
    from normtune.methods.selection import nothing
    from normtune.records.fisher import Estimator, FisherConfig, Tolerance
    from normtune.report.heatmap import check, draw

    if as_json and markdown:
        raise ConfigError("Choose one of --json and --markdown.")
    if figure is not None:
        check(figure)
    elif normalised:
        raise ConfigError("--normalised is about the figure; name its file with --figure.")
    chosen = task_names(tasks, suite)
    if folder is not None:
        if figure is not None:
            raise ConfigError("A figure needs the single entries; leave out the folder and name it with --records.")
        _show(recorded(folder, None if tasks == "all" else chosen), markdown, as_json)
        return
    set_threads(threads)
    config = FisherConfig(
        model=model,
        revision=revision,
        dtype=dtype,
        task="",
        within=within,
        entries=entries,
        estimator=Estimator(name=estimator, samples=samples),
        head_seeds=tuple(seeds(head_seeds, "--head-seeds")),
        examples=examples,
        stable=Tolerance(of="ranking", tolerance=tolerance) if until_stable else None,
    )
    with measurer(config, protocol=protocol, suite=suite, data=data, folder=records, device=device) as own:
        layout = own.base.layout
        summed = select(layout, within)
        if entries is None:
            # Sums only, for a family whose norms are not known, or where they are not among what is summed over.
            with suppress(SelectionError):
                if not len(select(layout, "layernorm") - summed):
                    own = own.keeping("layernorm")
        kept = nothing(layout) if own.config.entries is None else select(layout, own.config.entries)
        if figure is not None and not any(place.layer is not None for place in kept):
            raise ConfigError(
                "A figure shows kept entries by layer, and none in a layer is kept; name some with --entries."
            )
        found, sums = [], {}
        for task in chosen:
            measured = own.measure(task)
            found.append(measured.record)
            sums[task] = {} if measured.scores is None else by_layer(measured.scores)
    _show(found, markdown, as_json)
    if not (markdown or as_json):
        notes.print(f"Records are in {records}.", highlight=False, markup=False, soft_wrap=True)
    if figure is not None:
        draw(heatmaps(sums, normalised), figure)
        notes.print(f"Saved to {figure}", highlight=False, markup=False, soft_wrap=True)


def _show(records: Sequence[FisherRecord], markdown: bool, as_json: bool) -> None:
    from normtune.cli.informed import in_markdown, plain, shown

    if as_json:
        print(json.dumps(plain(records), indent=1))
    elif markdown:
        print(in_markdown(records))
    else:
        for part in shown(records):
            console.print(part)


def recorded(folder: Path, tasks: Sequence[str] | None) -> list[FisherRecord]:
    """The measurements in a folder, one a task, in the order of their suites.

    Args:
        folder: The records.
        tasks: Names of tasks, or None for all that there are.

    Returns:
        The records.

    Raises:
        DataError: If there is no such folder, or a task has no record in it.
        ConfigError: If they were not all measured in the same way.
    """
    from normtune.data.suites import in_order
    from normtune.records.fisher import FisherRecord

    if not folder.is_dir():
        raise DataError(f"There is no folder of records at {folder}.")
    every = [FisherRecord.load(path) for path in sorted(folder.glob("*.json"))]
    found = {record.config.task: record for record in every if tasks is None or record.config.task in tasks}
    for task in tasks if tasks is not None else ["any task"] * (not every):
        if task not in found:
            raise DataError(f"There is no Fisher information of {task} in {folder}.")
    ways = {(record.base_identity, record.config.model_copy(update={"task": ""})) for record in every}
    if len(ways) > 1:
        raise ConfigError(f"The measurements in {folder} were not all made in the same way; keep them apart.")
    return [found[task] for task in in_order(found)]
