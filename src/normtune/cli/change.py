"""``normtune change``: how far each component moves in full fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options
from normtune.cli.options import Data, Device, Json, Suite, Threads, console, notes
from normtune.errors import ConfigError, DataError, TrainingError, UnknownNameError

if TYPE_CHECKING:
    from normtune.cli.moved import Case
    from normtune.config import Protocol
    from normtune.data.task import TaskData
    from normtune.records.run import Record

METHOD = "full"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("change")(change)


def change(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of records with full fine-tunings. Without it, they are run.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Tasks separated by commas. [default: all that the folder has]")
    ] = None,
    measure: Annotated[
        str, typer.Option(help="mean |change| (equation 1), relative to mean |pre-trained|, or the sums l0, l1.")
    ] = "mean",
    subs: Annotated[bool, typer.Option("--subs", help="Weight and bias apart.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or packaged name to fine-tune; with a folder, only its runs.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="paper (default), held-out or small; with a folder, only its runs.")
    ] = None,
    suite: Suite = "glue",
    data: Data = None,
    lr: Annotated[
        str | None, typer.Option(help="Rate to run with, or auto to search. [default: the method's own]")
    ] = None,
    seed: Annotated[str | None, typer.Option(help="Seeds to run, separated by commas. [default: 0]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a run, instead of the protocol's.")] = None,
    max_train: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the training examples.")] = None,
    max_dev: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the dev examples.")] = None,
    records: Annotated[
        Path | None, typer.Option(help="Store of records: what is in it is not run again. [default: runs/records]")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the heat maps to this SVG, PNG or PDF file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Show how far each component moves in full fine-tuning: a heat map a task, and a ranking (the paper's figure 1).

    From records, each task's runs are those that `normtune table` shows: at the rate with most seeds. Values are means
    over seeds, with the standard deviation where there are several.

    Examples:
    `normtune change results/runs --task rte,mrpc --figure change.svg`

    `normtune change --model minilm --task rte --protocol small --seed 0,1,2 --subs`
    """
    from normtune.cli.moved import figure_of, in_markdown, plain, show
    from normtune.importance.movement import as_measure
    from normtune.report.heatmap import check

    chosen = as_measure(measure)
    if as_json and markdown:
        raise ConfigError("Choose one of --json and --markdown.")
    if figure is not None:
        check(figure)
    if folder is not None:
        given = {"--lr": lr, "--seed": seed, "--epochs": epochs, "--max-train": max_train, "--max-dev": max_dev}
        extra = [name for name, value in {**given, "--records": records}.items() if value is not None]
        if extra:
            raise ConfigError(f"A folder of records is read, not added to: leave out {', '.join(extra)}.")
        cases = recorded(folder, None if task is None else options.names(task), model, protocol)
    elif model is None or task is None:
        raise ConfigError("Name a folder of records, or give --model and --task to run the full fine-tuning.")
    else:
        from normtune.config import protocol as make_protocol
        from normtune.data.suites import load_task

        options.set_threads(threads)
        trained = make_protocol(protocol or "paper", epochs=epochs, max_train=max_train, max_dev=max_dev)
        found = [load_task(name, suite, data) for name in options.names(task)]
        cases = run(model, found, lr, options.seeds(seed or "0"), trained, records or Path("runs/records"), device)
    if not cases:  # another process of several speaks
        return
    if as_json:
        print(json.dumps(plain(cases, chosen, subs), indent=1))
    elif markdown:
        print(in_markdown(cases, chosen, subs))
    else:
        show(cases, chosen, subs, console)
    if figure is not None:
        figure_of(cases, chosen, subs, figure)
        notes.print(f"Saved to {figure}", highlight=False, markup=False, soft_wrap=True)


def recorded(folder: Path, tasks: Sequence[str] | None, model: str | None, protocol: str | None) -> list[Case]:
    """The full fine-tunings in a folder of records, at each task's best rate as `normtune table` picks it.

    Args:
        folder: The records.
        tasks: Names of tasks, or None for all.
        model: Only runs of this model, or None for the only one there is.
        protocol: Only runs of this protocol, likewise.

    Returns:
        One case a task.

    Raises:
        DataError: If there is no such folder, or no full fine-tuning of a task in it.
        ConfigError: If the runs are of several models or protocols, or a task's are on different data.
        UnknownNameError: If no record and no suite has such a task.
    """
    from normtune.data.glue import GLUE
    from normtune.records.store import Store

    if not folder.is_dir():
        raise DataError(f"There is no folder of records at {folder}.")
    every = [
        record
        for record in Store(folder)
        if protocol in {None, record.config.protocol.name} and model in {None, record.config.model}
    ]
    full = [record for record in every if record.config.method == METHOD and record.status == "done"]
    if not full:
        given = {"of model": model, "under protocol": protocol}
        which = "".join(f" {kind} {name}" for kind, name in given.items() if name)
        hint = f"run one with `normtune train --method {METHOD} --records {folder}`"
        raise DataError(f"There is no full fine-tuning{which} in {folder}; {hint}.")
    order = [*GLUE]
    have = sorted({r.config.task for r in full}, key=lambda t: (order.index(t) if t in order else len(order), t))
    wanted = have if tasks is None else [*dict.fromkeys(map(_task_name, tasks))]
    for name in wanted:
        if name not in {*have, *order, *(record.config.task for record in every)}:
            raise UnknownNameError("task", name, have)
        if name not in have:
            hint = f"run it with `normtune train --task {name} --method {METHOD} --records {folder}`"
            raise DataError(f"There is no full fine-tuning of {name} in {folder}, only of {', '.join(have)}; {hint}.")
    runs = {name: [record for record in full if record.config.task == name] for name in wanted}
    _one_setting([record for group in runs.values() for record in group])
    return [_case(name, group) for name, group in runs.items()]


def _case(task: str, runs: Sequence[Record]) -> Case:
    """The runs of a task at the rate that `normtune table` shows, one a seed."""
    from normtune.cli.moved import Case
    from normtune.records.aggregate import tabulate

    if len({tuple(sorted(run.data.identity.items())) for run in runs}) > 1:
        raise ConfigError(
            f"The full fine-tunings of {task} are on different data; keep their records in folders apart."
        )
    rate = tabulate(runs).scores[METHOD, task].rate
    # Of runs that differ in threads or device only, one stands for its seed.
    seeds = {run.config.seed: run for run in reversed(runs) if run.config.rate == rate}
    return Case(task, tuple(seeds[number] for number in sorted(seeds)))


def _one_setting(records: Sequence[Record]) -> None:
    """Refuse to show runs side by side, or average them, that differ in more than task, rate and seed."""
    bases = {(r.base_identity, r.config.dtype): f"{r.config.model} ({r.config.dtype})" for r in records}
    if len(bases) > 1:
        names = ", ".join(sorted(bases.values()))
        raise ConfigError(f"These records are of several models, {names}; choose one with --model.")
    protocols = {r.config.protocol: r.config.protocol.name for r in records}
    if len(protocols) > 1:
        names = ", ".join(sorted(protocols.values()))
        raise ConfigError(f"These records are of several protocols, {names}; choose one with --protocol.")


def _task_name(name: str) -> str:
    """A task's own name; GLUE's tasks may be written as GLUE does (``STS-B``)."""
    from normtune.data.glue import canonical_name

    try:
        return canonical_name(name)
    except UnknownNameError:
        return name


def run(
    model: str,
    tasks: Sequence[TaskData],
    lr: str | None,
    seeds: Sequence[int],
    protocol: Protocol,
    records: Path,
    device: str,
) -> list[Case]:
    """Fine-tune the whole model on each task, unless `records` has the run.

    Args:
        model: Hub id, folder or packaged name.
        tasks: The tasks and their data.
        lr: The rate, ``auto`` to search, or None for the method's own.
        seeds: Seeds.
        protocol: How to train.
        records: Where records are found and kept.
        device: Where to train.

    Returns:
        One case a task; in a process that is not the first of several, none.

    Raises:
        TrainingError: If a run's loss stopped being finite.
    """
    from normtune.cli.moved import Case
    from normtune.cli.progress import run_jobs
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine, Place
    from normtune.studies.jobs import TrainJob
    from normtune.studies.plan import method_rows, trainings
    from normtune.training.splits import parts_of

    rates, search = options.rates(lr)
    for data in tasks:
        parts_of(data, protocol)  # what is missing is said before anything is loaded
    setup = Setup(model=model, protocol=protocol, device=device, threads=options.set_threads(None))
    place = Place(results=records, records=records, checkpoints=False)
    engine = Engine(setup, place, {data.task.name: data for data in tasks})
    likes = [TrainJob(task=data.task.name, method=METHOD, seed=0) for data in tasks]
    rows = method_rows(engine.session, likes, [METHOD])
    jobs, cells = trainings(setup, rows, seeds, rates=rates, search=search)
    results = run_jobs(jobs, engine)
    cases = []
    for cell in cells:
        done = [job for job in cell.runs if results[job.key].state == "done"]
        if len(done) < len(seeds):
            raise TrainingError(f"{len(done)} of {len(seeds)} seeds of {cell.task} came to an end; see above.")
        cases.append(Case(cell.task, tuple(engine.record(job, results[job.key]) for job in done)))
    return cases if engine.session.accelerator.is_main_process else []
