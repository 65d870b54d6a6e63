"""``normtune mask``: which entries to train, by what they are worth."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Samples,
    Suite,
    Threads,
    Tolerated,
    UntilStable,
    Whose,
    console,
    names,
    seeds,
    set_threads,
)
from normtune.data.suites import suite_of
from normtune.errors import ConfigError, OutputError, known

if TYPE_CHECKING:
    from normtune.deltas.delta import Delta
    from normtune.importance.masks import Mask
    from normtune.importance.scores import Importance

#: Texts of each task for an importance that needs some, unless --examples says how many; Wanda's authors take as many.
TEXTS = 128

#: Parts of the model that are listed.
_ROWS = 16


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
    importance: Annotated[
        str, typer.Option(help="fisher, least-fisher, change, wanda, magnitude, random or an added one.")
    ] = "fisher",
    fraction: Annotated[float | None, typer.Option(help="Fraction of the candidates to take, from 0 to 1.")] = None,
    entries: Annotated[int | None, typer.Option(help="How many to take, instead of a fraction.")] = None,
    per: Annotated[str, typer.Option(help="set ranks all candidates together, row those of each output row.")] = "set",
    within: Annotated[
        str,
        typer.Option(
            help="The candidates: a method or an expression, as layernorm@3- (from layer 3 on); full for all."
        ),
    ] = "layernorm",
    runs: Annotated[
        str | None, typer.Option(help="For change: folders of full fine-tunings, separated by commas.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For random, and for a sample of texts.")] = 0,
    model: Annotated[str, typer.Option(help="Hub id, folder or packaged name.")] = "minilm",
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
        Path | None, typer.Option(help="Folder of records and entries: what is in it is not measured again.")
    ] = None,
    as_json: Json = False,
    dtype: Annotated[str, typer.Option(help="Of the model: float32 or bfloat16.")] = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Choose the entries that matter most, and save them as a mask for `normtune train --method`.

    Examples:
    `normtune mask --tasks rte --fraction 0.1 --out rte.safetensors`

    `normtune mask --tasks all --target rte --scope leave-one-out --fraction 0.1 --out others.safetensors`

    `normtune mask --tasks rte --within full --entries 4608 --out sparse.safetensors`
    """
    if out.exists():
        raise OutputError(f"{out} exists already; choose another place or remove it first.")
    set_threads(threads)
    from normtune.cli.measuring import measurer, task_names
    from normtune.importance.recipe import MaskRecipe, Sources, make_mask
    from normtune.importance.scores import IMPORTANCES
    from normtune.models.base import load_base
    from normtune.models.device import accelerator
    from normtune.records.fisher import Estimator, FisherConfig, Tolerance

    of = IMPORTANCES[known("importance", importance, IMPORTANCES)]
    deltas = _deltas(of, tasks, runs)
    # A run's task may be of the user's own, so that GLUE does not know it.
    named = [*deltas] or ([] if tasks is None else task_names(tasks, suite, target))
    recipe = MaskRecipe(
        importance=importance,
        scope=scope,
        tasks=tuple(named),
        target=target if target is None or target in named else suite_of(suite).resolve(target),
        within=within,
        fraction=fraction,
        entries=entries,
        per=per,
        seed=seed,
    )
    base = load_base(model, dtype=dtype)
    base.model.to(accelerator(device).device)
    candidates = recipe.candidates(base)
    stable = None
    if until_stable:
        share = fraction if fraction is not None else (entries or 0) / len(candidates)
        stable = Tolerance(of="least-mask" if of.least else "mask", tolerance=tolerance, fraction=share)
    config = FisherConfig(
        model=base.name,
        revision=base.revision,
        dtype=dtype,
        task="",
        within=recipe.within,
        entries=recipe.within,
        estimator=Estimator(name=estimator, samples=samples),
        head_seeds=tuple(seeds(head_seeds, "--head-seeds")),
        examples=examples,
        stable=stable,
    )
    with measurer(config, base=base, protocol=protocol, suite=suite, data=data, folder=records, device=device) as own:
        sources = Sources(fisher=own.measure, runs=deltas.__getitem__, texts=own.texts(examples or TEXTS, seed))
        made = make_mask(base, recipe, sources)
    made.save(out)
    if as_json:
        print(made.info.model_dump_json(indent=1))
    else:
        show(made, of, out)


def _deltas(importance: Importance, tasks: str | None, runs: str | None) -> dict[str, list[Delta]]:
    """What the folders named in `runs` hold, by task, where the importance is read off runs."""
    from normtune.deltas.delta import Delta

    if importance.needs != "runs":
        if runs is not None:
            raise ConfigError("--runs goes with an importance that is read off runs, such as --importance change.")
        return {}
    if runs is None:
        raise ConfigError("This importance is read off full fine-tunings; name their folders with --runs.")
    if tasks is not None:
        raise ConfigError("The tasks of this importance are those of --runs; leave out --tasks.")
    by_task: dict[str, list[Delta]] = defaultdict(list)
    for delta in map(Delta.load, dict.fromkeys(names(runs))):
        by_task[delta.info.task].append(delta)
    return dict(by_task)


def show(made: Mask, importance: Importance, file: Path) -> None:
    """Say how many entries a mask took, and where they are."""
    info = made.info
    console.print(
        f"[bold]{made.name}[/]: {info.entries:,} of {info.candidates:,} entries of {info.within}", highlight=False
    )
    if info.tasks:
        each = ", ".join(f"{task} ({n:,})" if (n := info.examples.get(task)) else task for task in info.tasks)
        console.print(f"from {each}{' examples' if info.examples else ''}", highlight=False)
    console.print(f"ranked by {importance.about}", highlight=False)
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
    console.print(f"Saved to {file}; train it with --method {file}", highlight=False, soft_wrap=True)
