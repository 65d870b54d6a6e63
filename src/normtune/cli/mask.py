"""``normtune mask``: which entries to train, by what they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.table import Table

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
    names,
    seeds,
    set_threads,
)
from normtune.errors import ConfigError, OutputError, SelectionError, UnknownNameError

if TYPE_CHECKING:
    from normtune.cli.measuring import Measurer
    from normtune.importance.masks import Mask
    from normtune.importance.scores import Scores
    from normtune.methods.selection import Selection
    from normtune.models.base import Base
    from normtune.records.fisher import FisherConfig, FisherRecord

    Lazy = Callable[[], Scores]

IMPORTANCES = ("fisher", "least-fisher", "change", "magnitude", "random")
SCOPES = ("individual", "global", "leave-one-out")

#: Parts of the model that are listed.
_ROWS = 16


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("mask")(mask)


def mask(
    out: Annotated[Path, typer.Option(help="File for the mask, such as mask.safetensors.")],
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", "--task", help="Tasks whose Fisher goes in, or all that tables show."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Task that the mask is for. [default: the only one of --tasks]")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="individual, global or leave-one-out (all of --tasks but the target).")
    ] = "individual",
    importance: Annotated[str, typer.Option(help="fisher, least-fisher, change, magnitude or random.")] = "fisher",
    fraction: Annotated[float | None, typer.Option(help="Fraction of the candidates to take, from 0 to 1.")] = None,
    entries: Annotated[int | None, typer.Option(help="How many to take, instead of a fraction.")] = None,
    within: Annotated[str, typer.Option(help="The candidates: a method or an expression; full for all.")] = "layernorm",
    from_layer: Annotated[int | None, typer.Option(min=0, help="Take candidates from this layer on only.")] = None,
    max_time: Annotated[
        float | None,
        typer.Option(help="Most time of a step with the prefix kept, as a part of the whole LayerNorm's (modelled)."),
    ] = None,
    runs: Annotated[
        str | None, typer.Option(help="For change: folders of full fine-tunings, separated by commas.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For random.")] = 0,
    model: Annotated[str, typer.Option(help="Hub id, folder or packaged name.")] = "minilm",
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
        Path | None, typer.Option(help="Folder of records and entries: what is in it is not measured again.")
    ] = None,
    as_json: Json = False,
    revision: Revision = None,
    dtype: Annotated[str, typer.Option(help="Of the model: float32 or bfloat16.")] = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Choose the entries that matter most, and save them as a mask for `normtune train --mask`.

    Examples:
    `normtune mask --tasks rte --fraction 0.1 --out rte.safetensors`

    `normtune mask --tasks all --target rte --scope leave-one-out --fraction 0.1 --out others.safetensors`

    `normtune mask --tasks rte --within full --entries 4608 --out sparse.safetensors`
    """
    _check(importance, scope, fraction, entries)
    _check_sources(importance, tasks, target, runs)
    _check_layers(within, from_layer, max_time)
    if out.exists():
        raise OutputError(f"{out} exists already; choose another place or remove it first.")
    set_threads(threads)
    from normtune.cli.measuring import measurer, task_names
    from normtune.importance.combined import magnitude, random_scores
    from normtune.importance.masks import Mask, first_layer
    from normtune.methods.expression import select
    from normtune.models.base import load_base
    from normtune.models.device import accelerator
    from normtune.records.fisher import Estimator, FisherConfig, Tolerance

    base = load_base(model, revision=revision, dtype=dtype)
    base.model.to(accelerator(device).device)
    if max_time is not None:
        from_layer = first_layer(base.layout, max_time)
    if from_layer is not None:
        within = f"{within}@{from_layer}-"
    candidates = select(base.layout, within)
    if not len(candidates):
        raise SelectionError(f"There are no candidates: {within!r} selects nothing but the head.")
    if entries is not None and not 0 <= entries <= len(candidates):
        raise ConfigError(f"--entries takes from 0 to all {len(candidates):,} candidates; got {entries}.")
    facts: dict[str, object] = {"importance": importance, "within": within}
    if importance == "magnitude":
        scores = magnitude(base, candidates)
    elif importance == "random":
        scores, facts["seed"] = random_scores(candidates, seed), seed
    elif importance == "change":
        scores, more = scoped(_changes(base, candidates, names(runs or "")), scope, target)
        facts |= more
    else:
        share = fraction if fraction is not None else (entries or 0) / max(1, len(candidates))
        watched: Literal["mask", "least-mask"] = "mask" if importance == "fisher" else "least-mask"
        config = FisherConfig(
            model=model,
            revision=revision,
            dtype=dtype,
            task="",
            within=within,
            entries=within,
            estimator=Estimator(name=estimator, samples=samples),
            head_seeds=tuple(seeds(head_seeds, "--head-seeds")),
            examples=examples,
            stable=Tolerance(of=watched, tolerance=tolerance, fraction=share) if until_stable else None,
        )
        with measurer(
            config, base=base, protocol=protocol, suite=suite, data=data, folder=records, device=device
        ) as own:
            measured: dict[str, FisherRecord] = {}
            found, more = scoped(_fishers(own, task_names(tasks or "", suite, target), measured), scope, target)
        facts |= more | _provenance(config, measured)
        scores = -found if importance == "least-fisher" else found
    made = Mask.make(base, scores, fraction=fraction, entries=entries, **facts)
    made.save(out)
    if as_json:
        print(made.info.model_dump_json(indent=1))
    else:
        show(made, out)


def _check(importance: str, scope: str, fraction: float | None, entries: int | None) -> None:
    """Check what needs no model, before one is loaded."""
    if importance not in IMPORTANCES:
        raise UnknownNameError("importance", importance, IMPORTANCES)
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    if (fraction is None) == (entries is None):
        raise ConfigError("Give either --fraction or --entries, for how many of the candidates to take.")
    if fraction is not None and not 0 <= fraction <= 1:
        raise ConfigError(f"--fraction takes a number from 0 to 1; got {fraction:g}.")


def _check_layers(within: str, from_layer: int | None, max_time: float | None) -> None:
    """Check that the layers are said once, and a time only of what it is modelled for."""
    if from_layer is not None and max_time is not None:
        raise ConfigError("Give either --from-layer or --max-time.")
    if (from_layer is not None or max_time is not None) and not within.replace(".", "").isalnum():
        raise ConfigError(f"--from-layer and --max-time take one method as --within; write the layers into {within!r}.")
    if max_time is not None and within != "layernorm":
        raise ConfigError("--max-time is modelled for --within layernorm; give --from-layer instead.")


def _check_sources(importance: str, tasks: str | None, target: str | None, runs: str | None) -> None:
    """Check that what the importance is taken from is named, and nothing else."""
    if importance in {"fisher", "least-fisher"} and tasks is None:
        raise ConfigError(f"The importance {importance!r} is measured on tasks; name them with --tasks.")
    if importance == "change" and runs is None:
        raise ConfigError("The importance 'change' is read off full fine-tunings; name their folders with --runs.")
    if importance == "change" and tasks is not None:
        raise ConfigError("The tasks of the importance 'change' are those of --runs; leave out --tasks.")
    if importance != "change" and runs is not None:
        raise ConfigError("--runs goes with --importance change.")
    if importance in {"magnitude", "random"} and (tasks is not None or target is not None):
        raise ConfigError(f"The importance {importance!r} is the same for every task; leave out --tasks and --target.")


def scoped(sources: Mapping[str, Lazy], scope: str, target: str | None) -> tuple[Scores, dict[str, object]]:
    """The scores of a scope, and what a mask says of them.

    Args:
        sources: For each task what gives its scores; only those that the scope needs are asked.
        scope: ``individual``, ``global`` or ``leave-one-out``.
        target: The task that the mask is for; the only one there is, by default.

    Returns:
        The scores and the mask's fields: scope, tasks, target.
    """
    from normtune.data.suites import spelled
    from normtune.importance.combined import combined

    asked: dict[str, None] = {}

    def noting(task: str, source: Lazy) -> Lazy:
        def give() -> Scores:
            asked[task] = None
            return source()

        return give

    named = None if target is None else spelled(target, sources)
    if named is None and scope == "individual" and len(sources) == 1:
        (named,) = sources
    scores = combined({task: noting(task, source) for task, source in sources.items()}, scope, named)
    return scores, {"scope": scope, "tasks": tuple(sorted(asked)), "target": None if scope == "global" else named}


def _fishers(own: Measurer, tasks: Sequence[str], measured: dict[str, FisherRecord]) -> dict[str, Lazy]:
    """Fisher information by task, measured when it is asked for; its records are put into `measured`."""

    def lazily(task: str) -> Lazy:
        def give() -> Scores:
            found = own.measure(task)
            measured[task] = found.record
            assert found.scores is not None
            return found.scores

        return give

    return {task: lazily(task) for task in tasks}


def _changes(base: Base, candidates: Selection, folders: Sequence[str]) -> dict[str, Lazy]:
    """Change by task, from the deltas of full fine-tunings."""
    from normtune.deltas.delta import Delta
    from normtune.importance.combined import change_scores

    deltas = {folder: Delta.load(folder) for folder in folders}
    by_task: dict[str, list[Delta]] = defaultdict(list)
    for delta in deltas.values():
        by_task[delta.info.task].append(delta)

    def lazily(own: list[Delta]) -> Lazy:
        return lambda: reduce(add, (change_scores(base, candidates, delta) for delta in own))

    return {task: lazily(own) for task, own in by_task.items()}


def _provenance(config: FisherConfig, measured: Mapping[str, FisherRecord]) -> dict[str, object]:
    return {
        "examples": {task: record.examples for task, record in sorted(measured.items())},
        "estimator": config.estimator.name,
        "head_seeds": config.head_seeds,
    }


def show(made: Mask, file: Path) -> None:
    """Say how many entries a mask took, and where they are."""
    info = made.info
    console.print(
        f"[bold]{made.name}[/]: {info.entries:,} of {info.candidates:,} entries of {info.within}", highlight=False
    )
    if info.tasks:
        each = ", ".join(f"{task} ({n:,})" if (n := info.examples.get(task)) else task for task in info.tasks)
        console.print(f"from {each}{' examples' if info.examples else ''}", highlight=False)
    taken: dict[tuple[str, int | None], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for place in made.selection:
        taken[place.component, place.layer][place.sub] += made.selection.count(place.parameter)
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(("component", "layer", "weight", "bias")):
        table.add_column(name, justify="right" if number else "left")
    most = sorted(taken.items(), key=lambda item: -sum(item[1].values()))[:_ROWS]
    for (component, layer), subs in most:
        cells = (f"{subs[sub]:,}" if sub in subs else "" for sub in ("weight", "bias"))
        table.add_row(component, "" if layer is None else str(layer), *cells)
    console.print(table)
    if len(taken) > _ROWS:
        console.print(f"and {len(taken) - _ROWS} more parts of the model", highlight=False)
    console.print(f"Saved to {file}; train it with --mask {file}", highlight=False, soft_wrap=True)
