"""``normtune fisher``: how much Fisher information each component and each entry carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import notes
from normtune.config import read_protocol
from normtune.data.suites import in_order, spelled, title_of
from normtune.errors import ConfigError, DataError, SelectionError
from normtune.importance.ranking import between_heads, component_means, ranking, shares
from normtune.records.fisher import Estimator, FisherConfig, FisherRecord, Tolerance
from normtune.records.results import Results, load_fisher
from normtune.report.drawing import check, save
from normtune.report.table import model_name

if TYPE_CHECKING:
    from normtune.models.layout import Layout


def fisher(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of records to show. Without it, what is missing is measured.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", "--task", help="Tasks separated by commas, all (those that tables show), or a manifest (YAML)."
        ),
    ] = "all",
    model: options.Model = "minilm",
    within: Annotated[
        str, typer.Option(help="Entries to sum over: a method or an expression (normtune methods lists them).")
    ] = "full",
    entries: Annotated[
        str | None,
        typer.Option(help="Keep every single entry of these, for masks. [default: layernorm, if summed]"),
    ] = None,
    examples: options.Examples = None,
    until_stable: options.UntilStable = False,
    tolerance: options.Tolerated = 0.1,
    estimator: options.Estimate = "empirical",
    samples: options.Samples = 1,
    head_seeds: options.HeadSeeds = "0",
    protocol: options.Whose = "paper",
    suite: options.Suite = "glue",
    data: options.Data = None,
    records: options.Measurements = Path("runs/fisher"),
    figure: Annotated[
        Path | None, typer.Option(help="Draw the closing norm's sums by task and layer to this SVG, PNG or PDF file.")
    ] = None,
    normalised: Annotated[
        bool, typer.Option("--normalised", help="With --figure: each task divided by its own sum, and their mean.")
    ] = False,
    markdown: options.Markdown = False,
    as_csv: options.Csv = False,
    as_json: options.Json = False,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Rank the components of a model by their mean Fisher information (the paper's table 1).

    The Fisher information of an entry is the mean over examples of the squared gradient of the log-likelihood. Each
    task's component means are divided by their own sum, then added over the tasks.

    Examples:
    `normtune fisher --tasks rte,mrpc --examples 500`

    `normtune fisher results/fisher --markdown`

    `normtune fisher --tasks all --until-stable --head-seeds 0,1,2 --records results/fisher --figure figure3.svg`
    """
    from normtune.cli.measuring import measure, own_tasks, refuse_unused, task_names

    form = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv)
    own = own_tasks(tasks, model)
    if figure is not None:
        check(figure)
    elif normalised:
        raise ConfigError("--normalised is about the figure; name its file with --figure.")
    if folder is not None:
        reading = {"folder", "tasks", "figure", "normalised", "markdown", "as_csv", "as_json"}
        options.only(context, reading, "A folder of records is read, and nothing is measured")
        wanted = None if tasks == "all" else [*own] or options.names(tasks)
        _show(_recorded(folder, wanted), form, figure, normalised)
        return
    chosen = [*own] or task_names(tasks, suite)
    refuse_unused(context, suite=suite, estimator=estimator, until_stable=until_stable, own=own)
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine, Storage
    from normtune.studies.manifest import one_kind

    config = FisherConfig(
        model=model,
        task="",
        within=within,
        entries=entries,
        estimator=Estimator(name=estimator, samples=samples),
        head_seeds=options.seeds(head_seeds, "--head-seeds"),
        examples=examples,
        stable=Tolerance(of="ranking", tolerance=tolerance) if until_stable else None,
    )
    rules, threads = read_protocol(protocol), options.set_threads(threads)
    kind = one_kind(found.task.kind for found in own.values())
    setup = Setup(model=model, dtype=dtype, suite=suite, kind=kind, protocol=rules, device=device, threads=threads)
    engine = Engine(setup, Storage(results=records, measured=records, data=data), own)
    if entries is None:
        config = _with_norms(config, engine.session.base.layout)
    of = measure(engine, config, chosen)
    _show([of(task).record for task in chosen], form, figure, normalised)
    if form == "text":
        notes.print(f"Records are in {records}.", soft_wrap=True)


def _with_norms(config: FisherConfig, layout: Layout) -> FisherConfig:
    """The config, keeping every entry of the closing norms if these are known and within what is summed over."""
    from normtune.methods.expression import select

    summed = select(layout, config.within)
    with suppress(SelectionError):
        if not len(select(layout, "layernorm") - summed):
            return config.model_copy(update={"entries": "layernorm"})
    return config


def _show(records: Sequence[FisherRecord], form: render.Form, file: Path | None, normalised: bool) -> None:
    """Print table 1 and, if a file is named, draw figure 3, or figure 4 (each task divided by its own sum)."""
    show(records, form)
    if file is None:
        return
    from normtune.report.cells import Cells
    from normtune.report.figures import figure3, figure4

    cells = Cells(Results((), tuple(records)))
    drawing = (figure4 if normalised else figure3)(cells)
    if not drawing.panels:
        raise ConfigError("There is no figure to draw: no layer's closing norm was measured.")
    save(drawing.figure, file)
    notes.print(f"Saved to {file}", soft_wrap=True)


def _recorded(folder: Path, tasks: Sequence[str] | None) -> list[FisherRecord]:
    """The measurements in a folder, one a task, in the order of their suites, all made in the same way."""
    every = load_fisher(folder)
    if tasks is not None:
        tasks = [spelled(name, [record.config.task for record in every]) for name in tasks]
        every = [record for record in every if record.config.task in tasks]
    found = {record.config.task: record for record in every}
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
    model = model_name(config.model)
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
    shown = record.model_dump(mode="json", include={"id", "examples", "available", "stability", "slow", "seconds"})
    return {**shown, "mean": means, "between_heads": between_heads(record.information)}


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
        yield f"{len(slow)} parameter{'s' * (len(slow) > 1)} had to be computed example by example, such as {slow[0]}."
