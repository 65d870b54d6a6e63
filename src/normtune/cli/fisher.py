"""``normtune fisher``: how much Fisher information each component and each entry carries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import (
    Csv,
    Data,
    Device,
    Dtype,
    Estimate,
    Examples,
    HeadSeeds,
    Json,
    Markdown,
    Model,
    Samples,
    Suite,
    Threads,
    Tolerated,
    UntilStable,
    Whose,
    notes,
)
from normtune.config import Sub
from normtune.data.suites import in_order, title_of
from normtune.errors import ConfigError, DataError, SelectionError
from normtune.importance.ranking import between_heads, component_means, ranking, shares
from normtune.records.fisher import Estimator, FisherConfig, FisherRecord, Tolerance
from normtune.records.results import load_fisher
from normtune.report.heatmap import HeatMap, check, draw

if TYPE_CHECKING:
    from normtune.cli.measuring import Measurer
    from normtune.importance.scores import Scores

#: Sums over the entries of each layer, weight and bias apart.
Sums = dict[tuple[int, Sub], float]
SUBS: tuple[Sub, ...] = ("weight", "bias")


def fisher(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of records to show. Without it, what is missing is measured.")
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", "--task", help="Tasks separated by commas, or all that tables show.")
    ] = "all",
    model: Model = "minilm",
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
    protocol: Whose = "paper",
    suite: Suite = "glue",
    data: Data = None,
    records: Annotated[
        Path, typer.Option(help="Folder of records and entries: what is in it is not measured again.")
    ] = Path("runs/fisher"),
    figure: Annotated[
        Path | None, typer.Option(help="Draw the kept entries by task and layer to this SVG, PNG or PDF file.")
    ] = None,
    normalised: Annotated[
        bool, typer.Option("--normalised", help="With --figure: each task divided by its own sum, and their mean.")
    ] = False,
    markdown: Markdown = False,
    as_csv: Csv = False,
    as_json: Json = False,
    dtype: Dtype = "float32",
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
    from normtune.cli.measuring import measurer, task_names

    form = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv)
    chosen = task_names(tasks, suite)
    if folder is not None:
        if figure is not None:
            raise ConfigError("A figure needs the single entries; leave out the folder and name it with --records.")
        reading = {"folder", "tasks", "markdown", "as_csv", "as_json"}
        options.only(context, reading, "A folder of records is read, and nothing is measured")
        show(_recorded(folder, None if tasks == "all" else chosen), form)
        return
    if figure is not None:
        check(figure)
    elif normalised:
        raise ConfigError("--normalised is about the figure; name its file with --figure.")
    options.set_threads(threads)
    config = FisherConfig(
        model=model,
        dtype=dtype,
        task="",
        within=within,
        entries=entries,
        estimator=Estimator(name=estimator, samples=samples),
        head_seeds=tuple(options.seeds(head_seeds, "--head-seeds")),
        examples=examples,
        stable=Tolerance(of="ranking", tolerance=tolerance) if until_stable else None,
    )
    measuring = measurer(config, protocol=protocol, suite=suite, data=data, folder=records, device=device)
    found, sums = _measured(measuring, chosen, drawn=figure is not None)
    show(found, form)
    if form == "text":
        notes.print(f"Records are in {records}.", highlight=False, markup=False, soft_wrap=True)
    if figure is not None:
        draw(heatmaps(sums, normalised), figure)
        notes.print(f"Saved to {figure}", highlight=False, markup=False, soft_wrap=True)


def _measured(
    measuring: AbstractContextManager[Measurer], tasks: Sequence[str], *, drawn: bool
) -> tuple[list[FisherRecord], dict[str, Sums]]:
    """Measure each task: its record, and for a figure the sums of its single entries by layer.

    Raises:
        ConfigError: If a figure is to be drawn, and no entry in a layer is kept.
    """
    from normtune.methods.expression import select
    from normtune.methods.selection import nothing

    with measuring as own:
        layout = own.base.layout
        summed = select(layout, own.config.within)
        if own.config.entries is None:
            # Sums only, for a family whose norms are not known, or where they are not among what is summed over.
            with suppress(SelectionError):
                if not len(select(layout, "layernorm") - summed):
                    own = own.keeping("layernorm")
        kept = nothing(layout) if own.config.entries is None else select(layout, own.config.entries)
        if drawn and not any(place.layer is not None for place in kept):
            raise ConfigError(
                "A figure shows kept entries by layer, and none in a layer is kept; name some with --entries."
            )
        found = {task: own.measure(task) for task in tasks}
        sums: dict[str, Sums] = {
            task: {} if each.scores is None else by_layer(each.scores) for task, each in found.items()
        }
    return [each.record for each in found.values()], sums


def _recorded(folder: Path, tasks: Sequence[str] | None) -> list[FisherRecord]:
    """The measurements in a folder, one a task, in the order of their suites.

    Raises:
        DataError: If a task has no record in it.
        ConfigError: If they were not all measured in the same way.
    """
    every = load_fisher(folder)
    found = {record.config.task: record for record in every if tasks is None or record.config.task in tasks}
    for task in tasks or ():
        if task not in found:
            raise DataError(f"There is no Fisher information of {task} in {folder}.")
    if len({(record.base_identity, record.config.model_copy(update={"task": ""})) for record in every}) > 1:
        raise ConfigError(f"The measurements in {folder} were not all made in the same way; keep them apart.")
    return [found[task] for task in in_order(found)]


def show(records: Sequence[FisherRecord], form: render.Form) -> None:
    """Print table 1."""
    by_task = {record.config.task: component_means(record.information) for record in records}
    own = {task: shares(means) for task, means in by_task.items()}
    ranked = ranking(by_task)
    cells = [
        [str(place), name, f"{total:.3f}", *(_percent(each.get(name)) for each in own.values())]
        for place, (name, total) in enumerate(ranked.items(), 1)
    ]
    config = records[0].config
    model = render.model_name(config.model)
    title = f"Mean Fisher information of the components of {model}, {config.estimator.name}"
    shown = render.table(
        ["", "component", "sum", *by_task],
        cells,
        title=f"{title}: share of each task, in %",
        texts=2,
        notes=[*_notes(records)],
    )
    rows = [
        {"task": task, "component": name, "mean": mean, "share": own[task][name]}
        for task, means in by_task.items()
        for name, mean in means.items()
    ]
    plain = {"ranking": ranked, "tasks": {r.config.task: _plain(r, by_task[r.config.task]) for r in records}}
    render.show([shown], form, plain=plain, rows=rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}" if share >= 0.0005 else "<0.1"


def _plain(record: FisherRecord, means: Mapping[str, float]) -> dict[str, object]:
    return {
        "id": record.id,
        "examples": record.examples,
        "available": record.available,
        "mean": means,
        "between_heads": between_heads(record.information),
        "stability": None if record.stability is None else record.stability.model_dump(mode="json"),
        "slow": record.slow,
        "seconds": record.seconds,
    }


def _notes(records: Sequence[FisherRecord]) -> Iterator[str]:
    """What a reader of the table must know."""

    def each(text: Callable[[FisherRecord], str]) -> str:
        return ", ".join(f"{title_of(record.config.task)} {text(record)}" for record in records)

    yield f"Examples: {each(lambda record: f'{record.examples:,} of {record.available:,}')}."
    heads = len(records[0].config.head_seeds)
    if heads > 1:
        agreed = each(lambda record: f"{100 * (between_heads(record.information) or 0):.0f} %")
        yield f"Pairs of components that two of the {heads} heads order alike: {agreed}."
    late = [title_of(record.config.task) for record in records if record.stability and not record.stability.reached]
    if late:
        yield f"Still changing when the examples ran out: {', '.join(late)}."
    slow = max((record.slow for record in records), key=len)
    if slow:
        yield f"{len(slow)} parameters had to be computed example by example, such as {slow[0]}."


def by_layer(scores: Scores) -> Sums:
    """Sums of single entries over each layer, weight and bias apart; those outside the layers are left out."""
    sums: Sums = defaultdict(float)
    for place in scores.within:
        if place.layer is not None:
            sums[place.layer, place.sub] += float(scores.values[place.parameter].sum())
    return dict(sums)


def heatmaps(by_task: Mapping[str, Sums], normalised: bool) -> list[HeatMap]:
    """Figures 3 and 4: for weight and bias a map with layers down, the last on top, and tasks across.

    Args:
        by_task: For each task what `by_layer` gives.
        normalised: Whether to divide each task by its own sum, and add a column with the mean over tasks (figure 4,
            whose sum would leave the tasks no room in the range of colours).

    Returns:
        One map a sub-component.
    """
    layers = sorted({layer for sums in by_task.values() for layer, _ in sums}, reverse=True)
    maps = []
    for sub in SUBS:
        if not any(own == sub for sums in by_task.values() for _, own in sums):
            continue
        columns = []
        for sums in by_task.values():
            whole = sum(sums.values()) if normalised else 1.0
            columns.append([sums[layer, sub] / whole if whole and (layer, sub) in sums else None for layer in layers])
        if normalised:
            columns.append([sum(value or 0.0 for value in row) / len(row) for row in zip(*columns, strict=True)])
        maps.append(
            HeatMap(
                title=sub,
                rows=tuple(map(str, layers)),
                columns=(*map(title_of, by_task), *(["mean"] if normalised else [])),
                values=tuple(zip(*columns, strict=True)),
                unit="share of the task's Fisher information" if normalised else "sum of Fisher information",
                column_name="task",
            )
        )
    return maps
