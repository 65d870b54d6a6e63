"""``normtune study``: the paper, or a part of it, planned and run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options
from normtune.config import Pruning, read_protocol
from normtune.errors import ConfigError, TrainingError, known

if TYPE_CHECKING:
    from normtune.cli.render import Form
    from normtune.studies.executors.executor import Executor
    from normtune.studies.study import Study

#: The default study, and its default suite, tasks and protocol: a first look that needs no data.
FIRST, _SUITE, _TASKS, _PROTOCOL = "methods", "toy", ("sst2", "stsb", "rte"), "small,max_train=1000,rates=1"


def study(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="paper, table1, table2, figure1 to figure5, or methods: methods side by side; without --suite or tasks"
            " of your own, a first look that needs no data."
        ),
    ] = FIRST,
    model: options.Model = "minilm",
    suite: Annotated[
        str | None, typer.Option(help="Suite of the tasks: glue, toy and others. [default: glue; for methods toy]")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", "--task", help="Tasks separated by commas, or a manifest of your own. [default: the paper's]"
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--methods", "--method", help="Methods to compare. [default: the head and the paper's]"),
    ] = None,
    entries: Annotated[
        int | None,
        typer.Option(min=1, help="Budget: methods that take a size train as many entries as they can up to this."),
    ] = None,
    seed: Annotated[
        str, typer.Option("--seeds", "--seed", help="Seeds separated by commas; rates are searched on the first.")
    ] = "0",
    fractions: Annotated[
        str | None, typer.Option(help="Fractions of LayerNorm in figures 2 and 5. [default: the paper's eight]")
    ] = None,
    masks: Annotated[
        str,
        typer.Option(
            help="Masks of figure 5: scopes of Fisher masks, or importances: wanda, obs-global, magnitude, random."
        ),
    ] = "individual, global, leave-one-out",
    fisher_tasks: Annotated[
        str | None, typer.Option(help="Tasks whose Fisher is in masks of several tasks. [default: the paper's eight]")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper (own for files of your own), held-out, reduced or small, and fields to change, such as"
            " small,epochs=1."
        ),
    ] = None,
    search_masks: Annotated[
        bool, typer.Option("--search-masks", help="Search a rate for each mask, rather than take LayerNorm's.")
    ] = False,
    prune: options.Prune = None,
    head_seeds: options.HeadSeeds = "0,1,2",
    examples: options.Examples = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of records, Fisher information and masks: what is in it is not done again."
            " [default: runs/study, or runs/methods]"
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be run, and how long it takes.")] = False,
    mode: Annotated[
        str, typer.Option(help="Jobs to run: cached (missing), retry (also failed), force (all) or read-only (none).")
    ] = "cached",
    executor: Annotated[str, typer.Option(help="here (this process), pool (of processes) or ray.")] = "here",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of the pool. [default: 2]")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; auto for this machine's. [default: a new one, here]")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="Processors of a job on Ray. [default: its threads]")] = None,
    gpus: Annotated[float | None, typer.Option(help="Accelerators of a job on Ray. [default: none]")] = None,
    track: options.Track = None,
    data: options.Data = None,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Compare methods, or run the paper's study or one of its parts, on any model; jobs already done are kept.

    Repeat the command to continue a study that was stopped. The number of threads is part of a record's identity: by
    default all cores in this process, or in a pool each worker's share of them.

    Examples:
    `normtune study`

    `normtune study methods --suite glue --tasks stsb,cola --methods layernorm,lora,bitfit --entries 20000`

    `normtune study paper --protocol small --seeds 0,1,2 --threads 1 --plan`

    `normtune study table2 --tasks rte,mrpc --protocol small --results runs/small --executor pool --workers 2`
    """
    own, count, share = _executor(executor, workers, address, cpus, gpus)
    tracked, (dtype, mixed) = options.trackers(track), options.precision_of(precision)
    from normtune.cli.overview import show_plan
    from normtune.cli.trainings import load
    from normtune.data.suites import suite_of
    from normtune.studies.config import FRACTIONS, METHODS, STUDIES, TRAINED, StudyConfig
    from normtune.studies.engine import MODES, Storage
    from normtune.studies.estimate import estimate
    from normtune.studies.manifest import one_kind, read_manifest
    from normtune.studies.study import Study

    parts = STUDIES[known("study", what, STUDIES)]
    files = read_manifest(Path(tasks), {}, {}, model).tasks if tasks and tasks.endswith((".yaml", ".yml")) else ()
    if files:
        options.refuse(context, {"suite", "data"}, "A manifest names the files of its tasks")
    first = what == FIRST and not files and suite in {None, _SUITE}
    suite = suite or (_SUITE if first else "glue")
    chosen = suite_of(suite)
    options.refuse_data(context, suite)
    if files or tasks is not None:
        task_names = tuple(str(own.name) for own in files) or tuple(map(chosen.resolve, options.names(tasks or "")))
    else:
        task_names = _TASKS if first else chosen.reported
    _refuse_unused(context, what, {*parts}, plan=plan, mode=mode)
    config = StudyConfig(
        parts=parts,
        model=model,
        dtype=dtype,
        suite=suite,
        tasks=task_names,
        kind=one_kind(own.asks for own in files),
        files=files,
        entries=entries,
        methods=METHODS if method is None else tuple(options.methods(method)),
        seeds=options.seeds(seed, "--seeds") if {*parts} & {*TRAINED} else (),
        fractions=FRACTIONS
        if fractions is None
        else options.numbers(fractions, "--fractions", "numbers from 0 to 1", float, lambda part: 0 <= part <= 1),
        masks=tuple(options.names(masks)),
        sources=chosen.reported if fisher_tasks is None else tuple(map(chosen.resolve, options.names(fisher_tasks))),
        protocol=read_protocol(protocol or (_PROTOCOL if first else "own" if files else "paper")),
        prune=None if prune is None else Pruning(margin=prune),
        search_masks=search_masks,
        head_seeds=options.seeds(head_seeds, "--head-seeds"),
        examples=examples,
        device=device,
        precision=mixed,
        threads=threads or share,
    )
    storage = Storage(
        results=(results or Path("runs") / (FIRST if what == FIRST else "study")).absolute(),
        data=None if data is None else data.absolute(),
        mode=known("mode", mode, MODES),
        track=tracked,
    )
    form = options.form(as_json=as_json)
    opened = Study.open(config, storage)
    for each in files:  # notes on the user's files come first
        load(opened.engine, str(each.name), each)
    if plan:
        show_plan(opened, estimate(opened), count, form)
    else:
        _run(opened, own, form, methods=what == FIRST)


def _run(study: Study, executor: Executor | None, form: Form, *, methods: bool) -> None:
    """Run a study, by default in this process, and print its results."""
    from normtune.cli.overview import show_summary, unanswered
    from normtune.cli.progress import ProgressDisplay
    from normtune.studies.estimate import sizes
    from normtune.studies.jobs import describe

    results = study.known
    if study.engine.storage.mode != "read-only":
        with ProgressDisplay(study.missing, sizes(study)) as progress:
            if study.known:
                progress.say(f"{len(study.known)} of {len(study.jobs)} jobs are known.")
            results = study.run(executor, progress)
    show_summary(study, results, form, methods=methods)
    gaps = unanswered(study.jobs, results)
    if gaps:
        raise TrainingError(f"{len(gaps)} of {len(study.jobs)} jobs have no result, such as: {describe(gaps[0])}.")


def _refuse_unused(context: typer.Context, what: str, parts: set[str], *, plan: bool, mode: str) -> None:
    """Refuse options that no part of the study uses, or that `plan` or `mode` leaves without effect."""
    from normtune.studies.config import TRAINED

    trained, masked = parts & {*TRAINED}, parts & {"figure2", "figure5"}
    used = {
        **dict.fromkeys(("method", "entries"), "table2" in parts),
        **dict.fromkeys(("fractions", "search_masks"), bool(masked)),
        **dict.fromkeys(("masks", "fisher_tasks"), "figure5" in parts),
        **dict.fromkeys(("seed", "prune", "track"), bool(trained)),
        **dict.fromkeys(("head_seeds", "examples"), bool(masked or parts - trained)),
    }
    options.refuse(
        context, {name for name, has_effect in used.items() if not has_effect}, f"{what} makes no use of this"
    )
    if plan:
        options.refuse(context, {"track"}, "--plan only plans")
    elif mode == "read-only":
        options.refuse(
            context, {"track", "executor", "workers", "address", "cpus", "gpus"}, "The mode read-only runs nothing"
        )


def _executor(
    name: str, workers: int | None, address: str | None, cpus: float | None, gpus: float | None
) -> tuple[Executor | None, int, int]:
    """The executor (None for this process), how many jobs it runs at a time, and the default threads of each."""
    from normtune.studies.executors.executor import fair_threads

    if workers is not None and name != "pool":
        raise ConfigError("--workers goes with --executor pool.")
    if name != "ray" and (address, cpus, gpus) != (None, None, None):
        raise ConfigError("--address, --cpus and --gpus go with --executor ray.")
    if known("executor", name, ("here", "pool", "ray")) == "pool":
        from normtune.studies.executors.pool import Pool

        return Pool(workers or 2), workers or 2, fair_threads(workers or 2)
    if name == "ray":
        from normtune.studies.executors.ray import Cluster

        return Cluster(address, cpus=cpus, gpus=gpus or 0), 1, max(1, int(cpus or 1))
    return None, 1, fair_threads(1)
