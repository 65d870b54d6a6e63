"""``normtune change``: how far each component moves in full fine-tuning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import Csv, Data, Device, Json, Markdown, Suite, Threads, notes
from normtune.config import Sub, read_protocol
from normtune.data.suites import in_order, title_of
from normtune.errors import ConfigError, DataError, UnknownNameError, known
from normtune.importance.movement import MEASURES, Average, Measure, Movement, average, movement, ranks
from normtune.records.aggregate import chosen
from normtune.records.results import check_one_setting, load_runs
from normtune.records.run import Record
from normtune.report.heatmap import HeatMap, check, draw, exponent

if TYPE_CHECKING:
    from normtune.studies.config import Setup

METHOD = "full"
NONE = Average(None)
#: Of each task the runs to show: one a seed.
Runs = Mapping[str, Sequence[Record]]
_READING = {
    *("folder", "task", "measure", "subs", "model", "protocol"),
    *("figure", "markdown", "as_csv", "as_json"),
}


def change(
    context: typer.Context,
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
        str | None,
        typer.Option(help="How to train, such as small,epochs=1. [default: paper; with a folder, its only one]"),
    ] = None,
    suite: Suite = "glue",
    data: Data = None,
    lr: Annotated[
        str | None, typer.Option(help="Rate to run with, or auto to search. [default: the method's own]")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seeds to run, separated by commas.")] = "0",
    records: Annotated[Path, typer.Option(help="Folder of records: what is in it is not run again.")] = Path(
        "runs/records"
    ),
    figure: Annotated[
        Path | None, typer.Option(help="Draw heat maps by component and layer to this SVG, PNG or PDF file.")
    ] = None,
    markdown: Markdown = False,
    as_csv: Csv = False,
    as_json: Json = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Rank the components by how far they move in full fine-tuning, and draw them (the paper's figure 1).

    From records, each task's runs are those that `normtune table` shows: at the rate with most seeds. Values are means
    over seeds, with the standard deviation where there are several.

    Examples:
    `normtune change results/runs --task rte,mrpc --figure change.svg`

    `normtune change --model minilm --task rte --protocol small --seed 0,1,2 --subs`
    """
    form, by = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv), known("measure", measure, MEASURES)
    if figure is not None:
        check(figure)
    if folder is not None:
        options.only(context, _READING, "A folder of records is read, and nothing is run")
        runs = _recorded(folder, None if task is None else options.names(task), model, protocol)
    elif model is None or task is None:
        raise ConfigError("Name a folder of records, or give --model and --task to run the full fine-tuning.")
    else:
        from normtune.studies.config import Setup

        rules, threads = read_protocol(protocol or "paper"), options.set_threads(threads)
        setup = Setup(model=model, suite=suite, protocol=rules, device=device, threads=threads)
        runs = _run(setup, options.names(task), lr, options.seeds(seed), records, data)
    if not runs:  # of several processes another one prints
        return
    panels = _panels(runs, by, subs)
    places = _places(panels)
    parts = [*(f"{task}: {_setting(group)}" for task, group in runs.items()), *_ranking(panels, places, by)]
    plain = [_plain(panel, places[panel.task]) for panel in panels]
    render.show(parts, form, plain=plain, rows=[*_rows(panels)])
    if figure is not None:
        _draw(panels, figure, subs)
        notes.print(f"Saved to {figure}", highlight=False, markup=False, soft_wrap=True)


def _recorded(folder: Path, tasks: Sequence[str] | None, model: str | None, protocol: str | None) -> Runs:
    """The full fine-tunings in a folder of records, at each task's best rate.

    Raises:
        DataError: If there is no such folder, or no full fine-tuning of a task in it.
        UnknownNameError: If no record and no suite has such a task.
    """
    from normtune.data.suites import known_task, spelled

    every = load_runs(folder, model=model, protocol=protocol)
    full = [record for record in every if record.config.method == METHOD and record.status == "done"]
    hint = f"run it with `normtune train --method {METHOD} --records {folder}`"
    if not full:
        raise DataError(f"There is no full fine-tuning in {folder}; {hint}.")
    have = in_order(record.config.task for record in full)
    trained = {record.config.task for record in every}
    wanted = have if tasks is None else [*dict.fromkeys(spelled(name, [*have, *trained]) for name in tasks)]
    for name in wanted:
        if name not in trained and known_task(name) is None:
            raise UnknownNameError("task", name, have)
        if name not in have:
            raise DataError(f"There is no full fine-tuning of {name} in {folder}, only of {', '.join(have)}; {hint}.")
    shown = [record for record in full if record.config.task in wanted]
    check_one_setting(shown)
    best = chosen(shown)
    return {name: [*best[METHOD, name].values()] for name in wanted}


def _run(
    setup: Setup, tasks: Sequence[str], lr: str | None, seeds: Sequence[int], records: Path, data: Path | None
) -> Runs:
    """Fine-tune the whole model on each task, unless `records` has the run.

    In a process that is not the first of several, no runs are returned.
    """
    from normtune.cli.trainings import Wanted, train_records
    from normtune.studies.engine import Engine, Place

    wanted = Wanted(tuple((name, None) for name in tasks), (METHOD,), tuple(seeds), *options.rates(lr))
    engine = Engine(setup, Place(results=records, records=records, data=data, checkpoints=False))
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in train_records(engine, wanted):
        runs[record.config.task].append(record)
    return runs if engine.session.accelerator.is_main_process else {}


@dataclass(frozen=True)
class Panel:
    """How far the components moved on one task, in one sub-component or in both together."""

    task: str
    runs: Sequence[Record]
    sub: Sub | None
    moved: Movement

    def named(self, component: str) -> str:
        """The component's name, with the sub-component where the panel shows one."""
        return component if self.sub is None else f"{component}.{self.sub}"


def _panels(runs: Runs, measure: Measure, subs: bool) -> list[Panel]:
    """A panel a task; two, for weight and bias, with `subs`.

    Raises:
        DataError: If a record holds no changes.
    """
    panels = []
    for task, group in runs.items():
        if bare := [record.id for record in group if not record.changes]:
            raise DataError(f"The record {bare[0]} ({task}) does not say how far its parameters moved.")
        apart: tuple[Sub | None, ...] = ("weight", "bias") if subs else (None,)
        changes = [record.changes for record in group]
        panels += [Panel(task, group, sub, movement(changes, measure, sub)) for sub in apart]
    return panels


def _places(panels: Sequence[Panel]) -> dict[str, dict[str, int]]:
    """By task, the rank of each component among those of the layers."""
    inside: dict[str, dict[str, float | None]] = defaultdict(dict)
    for panel in panels:
        inside[panel.task] |= {panel.named(name): panel.moved.whole[name].mean for name in panel.moved.inside}
    return {task: ranks(values) for task, values in inside.items()}


def _ranking(panels: Sequence[Panel], places: Mapping[str, Mapping[str, int]], measure: Measure) -> list[render.Part]:
    """The unit, and the components: those of the layers first, and of these the one that moved most."""
    whole: dict[str, dict[str, Average]] = defaultdict(dict)
    for panel in panels:
        for name, value in panel.moved.whole.items():
            whole[panel.named(name)][panel.task] = value
    means = {name: average([own.get(task, NONE).mean for task in places]).mean for name, own in whole.items()}
    inside = {name for own in places.values() for name in own}
    largest = max(means[name] or 0.0 for name in inside or means)
    power, several = exponent(largest), len(places) > 1
    rows = []
    for name in sorted(means, key=lambda name: (name not in inside, -(means[name] or 0.0))):
        spread = None if several else next(iter(whole[name].values())).spread
        behind = "" if spread is None else f" ± {number(spread, power, largest)}"
        ranked = (str(own.get(name, "")) for own in places.values())
        rows.append([name, number(means[name], power, largest) + behind, *ranked])
    unit = MEASURES[measure] + (f" x 1e{power}" if power else "")
    over = f" (mean over {len(places)} tasks), and the rank in each" if several else ""
    header = ["component", "change", *(places if several else ["rank"])]
    gaps = [name for name, mean in means.items() if mean is None]
    return [f"Change: {unit}{over}.", render.table(header, rows, notes=[*_remarks(panels, several, gaps)])]


def _setting(runs: Sequence[Record]) -> str:
    """On which model and how, in words."""
    config, count = runs[0].config, len(runs)
    setting = f"{render.model_name(config.model)}, protocol {config.protocol.name}"
    return f"{setting}, {count} seed{'s' * (count > 1)}, rate {config.rate:g}"


def number(value: float | None, power: int, largest: float) -> str:
    """A value in units of ten to the `power`, with three digits for the `largest`; a value too small shows as such."""
    if value is None:
        return "-"
    scaled, top = value / 10.0**power, largest / 10.0**power
    decimals = 2 if top < 9.995 else 1 if top < 99.95 else 0
    text = f"{scaled:.{decimals}f}"
    return f"<{10.0**-decimals:.{decimals}f}" if value and not float(text) else text


def _remarks(panels: Sequence[Panel], several: bool, gaps: Sequence[str]) -> Iterator[str]:
    """What a reader of the table must know."""
    if not several and len(panels[0].runs) > 1:
        yield "± is the standard deviation over seeds."
    if any(panel.moved.outside for panel in panels):
        yield "Ranks are among the components of the layers."
    if gaps:
        yield (
            f"No relative change (-) of {', '.join(gaps)}: the pre-trained values are all zero, or a part did not move"
            " and its record does not tell how large it was."
        )


def _plain(panel: Panel, places: Mapping[str, int]) -> dict[str, object]:
    first, moved = panel.runs[0], panel.moved
    whole = [
        {"component": name, "in_layers": name in moved.inside, **asdict(value), "rank": places.get(panel.named(name))}
        for name, value in moved.whole.items()
    ]
    return {
        "task": panel.task,
        "model": first.config.model,
        "base_identity": first.base_identity,
        "protocol": first.config.protocol.name,
        "rate": first.config.rate,
        "seeds": [record.config.seed for record in panel.runs],
        "records": [record.id for record in panel.runs],
        "measure": moved.measure,
        "sub": panel.sub,
        "cells": [{"component": name, "layer": layer, **asdict(each)} for (name, layer), each in moved.cells.items()],
        "components": whole,
    }


def _rows(panels: Sequence[Panel]) -> Iterator[dict[str, object]]:
    """For CSV: a row for each component as a whole, then one for each of its layers."""
    for panel in panels:
        whole = [((name, None), value) for name, value in panel.moved.whole.items()]
        for (name, layer), value in [*whole, *panel.moved.cells.items()]:
            yield {"task": panel.task, "component": name, "sub": panel.sub, "layer": layer, **asdict(value)}


def _draw(panels: Sequence[Panel], path: Path, subs: bool) -> None:
    """Draw the heat maps: the paper's figure 1.

    Raises:
        ConfigError: If the model has no layers to draw.
    """
    if not all(panel.moved.layers for panel in panels):
        raise ConfigError("This model has no numbered layers, so there is no heat map to draw.")
    config = panels[0].runs[0].config
    setting = f"{render.model_name(config.model)}, protocol {config.protocol.name}"
    title = f"Change of each component in full fine-tuning: {setting}"
    draw([*map(_map, panels)], path, title=title, across=2 if subs else None)


def _map(panel: Panel) -> HeatMap:
    moved, count = panel.moved, len(panel.runs)
    name = title_of(panel.task) + (f", {panel.sub}" if panel.sub else "")
    return HeatMap(
        f"{name} ({count} seed{'s' * (count > 1)}, rate {panel.runs[0].config.rate:g})",
        tuple(map(str, moved.layers)),
        moved.inside,
        tuple(tuple(moved.cells.get((name, layer), NONE).mean for name in moved.inside) for layer in moved.layers),
        MEASURES[moved.measure],
    )
