"""``normtune mask``: which entries to train, by an importance."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.config import read_protocol
from normtune.data.suites import suite_of
from normtune.errors import ConfigError, known

if TYPE_CHECKING:
    from normtune.data.encode import Encoded
    from normtune.deltas.delta import Delta
    from normtune.importance.masks import Mask
    from normtune.importance.scores import Importance

#: How many parts of the model are listed.
_ROWS = 16


def mask(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="File for the mask, such as mask.safetensors.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", "--task", help="Tasks whose Fisher goes in, all (those that tables show), or a manifest (YAML)."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Task that the mask is for. [default: the only one of --tasks]")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="individual, global or leave-one-out (all of --tasks but the target).")
    ] = "individual",
    importance: Annotated[
        str, typer.Option(help="fisher, least-fisher, change, wanda, magnitude, obd, obs, random or an added one.")
    ] = "fisher",
    fraction: Annotated[float | None, typer.Option(help="Fraction of the candidates to take, from 0 to 1.")] = None,
    entries: Annotated[int | None, typer.Option(help="How many candidates to take, instead of a fraction.")] = None,
    per: Annotated[str, typer.Option(help="set ranks all candidates together, row each output row apart.")] = "set",
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
    model: options.Model = "minilm",
    examples: options.Examples = None,
    until_stable: options.UntilStable = False,
    tolerance: options.Tolerated = 0.1,
    estimator: Annotated[
        str | None, typer.Option(help="empirical, exact or monte-carlo. [default: exact for obd, else empirical]")
    ] = None,
    samples: options.Samples = 1,
    head_seeds: options.HeadSeeds = "0",
    protocol: options.Whose = "paper",
    suite: options.Suite = "glue",
    data: options.Data = None,
    records: options.Measurements = Path("runs/fisher"),
    as_json: options.Json = False,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Choose the entries that matter most, and save them as a mask for `normtune train --method`.

    Examples:
    `normtune mask --tasks rte --fraction 0.1 --out rte.safetensors`

    `normtune mask --tasks all --target rte --scope leave-one-out --fraction 0.1 --out others.safetensors`

    `normtune mask --tasks rte --within full --entries 4608 --out sparse.safetensors`
    """
    from normtune.files import refuse_existing

    if out.suffix != ".safetensors":
        raise ConfigError(f"A mask's file ends in .safetensors, by which train knows it; got {out}.")
    refuse_existing(out)
    from normtune.cli.measuring import measure, own_tasks, refuse_unused, task_names
    from normtune.importance.recipe import TEXTS, MaskRecipe, Sources, make_mask
    from normtune.importance.scores import IMPORTANCES
    from normtune.records.fisher import Estimator, FisherConfig, Tolerance
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine, Storage
    from normtune.studies.manifest import one_kind
    from normtune.training.splits import parts_of

    rules, threads = read_protocol(protocol), options.set_threads(threads)

    of = IMPORTANCES[known("importance", importance, IMPORTANCES)]
    own, estimator = own_tasks(tasks or "", model), estimator or of.estimator
    refuse_unused(context, suite=suite, estimator=estimator, until_stable=until_stable, own=own)
    if of.needs != "fisher":
        unused = {"until_stable", "estimator", "head_seeds", "records"}
        unused |= set() if of.needs == "texts" else {"examples", "protocol", "data"}
        options.refuse(context, unused, f"The importance {importance!r} is not measured on examples in this way")
    if not of.seeded:
        options.refuse(context, {"seed"}, f"The importance {importance!r} draws nothing")
    if scope == "global":
        options.refuse(context, {"target"}, "A mask of the scope 'global' is for no single task")
    deltas = _deltas(of, tasks, runs)
    # A run's task may be the user's own, which GLUE does not know.
    beside = None if scope == "individual" else target
    named = [*deltas] or [*own] or ([] if tasks is None else task_names(tasks, suite, beside))
    recipe = MaskRecipe(
        importance=importance,
        scope=scope,
        tasks=tuple(named),
        target=target if own or target is None or target in named else suite_of(suite).resolve(target),
        within=within,
        fraction=fraction,
        entries=entries,
        per=per,
        seed=seed,
    )
    kind = one_kind([own[task].task.kind for task in own] + [run.info.kind for runs in deltas.values() for run in runs])
    setup = Setup(model=model, dtype=dtype, suite=suite, kind=kind, protocol=rules, device=device, threads=threads)
    engine = Engine(setup, Storage(results=records, measured=records, data=data), own)
    base = engine.session.base
    candidates = recipe.candidates(base)
    stable = None
    if until_stable:
        share = fraction if fraction is not None else (entries or 0) / len(candidates)
        stable = Tolerance(of="least-mask" if of.least else "mask", tolerance=tolerance, fraction=share)
    config = FisherConfig(
        model=model,
        task="",
        within=within,
        entries=within,
        estimator=Estimator(name=estimator, samples=samples),
        head_seeds=options.seeds(head_seeds, "--head-seeds"),
        examples=examples,
        stable=stable,
    )

    def sample(task: str) -> Encoded:
        texts = parts_of(engine.task(task), rules).train.sample(examples or TEXTS, seed)
        return base.encode(texts, rules.max_length)

    sources = Sources(runs=deltas.__getitem__, texts=sample)
    if of.needs == "fisher":
        sources["fisher"] = measure(engine, config, recipe.target_and_sources[1])
    made = make_mask(base, recipe, sources)
    made.save(out)
    parts = _parts(made, of, out)
    render.show(parts, options.form(as_json=as_json), plain=made.info.model_dump(mode="json"))


def _deltas(importance: Importance, tasks: str | None, runs: str | None) -> dict[str, list[Delta]]:
    """The deltas in the folders that `runs` names, by task, if the importance is computed from runs."""
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
    for delta in map(Delta.load, dict.fromkeys(options.names(runs))):
        by_task[delta.info.task].append(delta)
    return dict(by_task)


def _parts(made: Mask, importance: Importance, file: Path) -> list[render.Block]:
    """How many entries a mask took, and where they are."""
    info = made.info
    lines = [f"{made.name}: {info.entries:,} of {info.candidates:,} entries of {info.within}"]
    if info.tasks:
        each = ", ".join(f"{task} ({n:,})" if (n := info.examples.get(task)) else task for task in info.tasks)
        lines.append(f"from {each}{' examples' if info.examples else ''}")
    lines.append(f"ranked by {importance.about}")
    taken: dict[tuple[str, int | None], Counter[str]] = defaultdict(Counter)
    for place in made.selection:
        taken[place.component, place.layer][place.sub] += made.selection.count(place.parameter)
    most = sorted(taken.items(), key=lambda item: -item[1].total())[:_ROWS]
    rows = [
        (component, "" if layer is None else str(layer), *(f"{subs[sub]:,}" for sub in ("weight", "bias")))
        for (component, layer), subs in most
    ]
    table = render.table(("component", "layer", "weight", "bias"), rows)
    more = [f"and {len(taken) - _ROWS} more parts of the model"] if len(taken) > _ROWS else []
    return [*lines, table, *more, f"Saved to {file}; train it with --method {file}"]
