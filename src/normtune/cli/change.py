"""``normtune change``: how far each component moves in full fine-tuning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer

from normtune.cli import options, render
from normtune.cli.options import Csv, Json, Markdown, OfModel, OfProtocol, notes
from normtune.config import Sub
from normtune.data.suites import in_order, known_task, spelled, title_of
from normtune.errors import ConfigError, DataError, UnknownNameError, known
from normtune.importance.movement import MEASURES, Average, Measure, Movement, average, movement, ranks
from normtune.records.aggregate import chosen
from normtune.records.results import check_one_setting, load_runs
from normtune.records.run import Record
from normtune.report.drawing import check, save
from normtune.report.heatmap import figure as heat_maps
from normtune.report.table import model_name

METHOD = "full"
NONE = Average(None)


def change(
    folder: Annotated[
        Path, typer.Argument(help="Folder of records with full fine-tunings, as train --records fills it.")
    ],
    task: Annotated[
        str | None, typer.Option(help="Tasks separated by commas. [default: all that the folder has]")
    ] = None,
    measure: Annotated[
        str, typer.Option(help="mean |change| (equation 1), relative (to mean |pre-trained|), or the sums l0 or l1.")
    ] = "mean",
    subs: Annotated[bool, typer.Option("--subs", help="Show weight and bias apart.")] = False,
    model: OfModel = None,
    protocol: OfProtocol = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw heat maps by component and layer to this SVG, PNG or PDF file.")
    ] = None,
    markdown: Markdown = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Rank the components by how far they move in full fine-tuning, and draw them (the paper's figure 1).

    Each task's runs are those that `normtune table` shows: at the rate with most seeds. Values are means over seeds,
    with the standard deviation where there are several.

    Examples:
    `normtune train --task rte,mrpc --method full --records runs/records`

    `normtune change runs/records --task rte,mrpc --figure change.svg`
    """
    form, by = options.form(as_json=as_json, markdown=markdown, as_csv=as_csv), known("measure", measure, MEASURES)
    if figure is not None:
        check(figure)
    runs = _recorded(folder, None if task is None else options.names(task), model, protocol)
    moved = {change.sub for group in runs.values() for record in group for change in record.changes}
    apart: list[Sub | None] = [sub for sub in get_args(Sub) if sub in moved] if subs else [None]
    panels = [
        Panel(name, group, sub, movement([record.changes for record in group], by, sub))
        for name, group in runs.items()
        for sub in apart
    ]
    inside: dict[str, dict[str, float | None]] = defaultdict(dict)
    for panel in panels:
        inside[panel.task] |= {panel.named(name): panel.moved.whole[name].mean for name in panel.moved.inside}
    places = {name: ranks(values) for name, values in inside.items()}
    parts = [*(f"{name}: {', '.join(_setting(group))}" for name, group in runs.items()), *_ranking(panels, places, by)]
    plain = [_plain(panel, places[panel.task]) for panel in panels]
    render.show(parts, form, plain=plain, rows=[*_rows(panels)])
    if figure is not None:
        _draw(panels, figure, subs)
        notes.print(f"Saved to {figure}", soft_wrap=True)


def _recorded(
    folder: Path, tasks: Sequence[str] | None, model: str | None, protocol: str | None
) -> dict[str, list[Record]]:
    """The full fine-tunings to show, by task: one a seed, at the rate that `normtune table` shows."""
    every = load_runs(folder, model=model, protocol=protocol)
    full = [record for record in every if record.config.method == METHOD and record.status == "done"]

    def hint(named: str) -> str:
        return f"run it with `normtune train --task {named} --method {METHOD} --records {folder}`"

    if not full:
        raise DataError(f"There is no full fine-tuning in {folder}; {hint(','.join(tasks or ['TASK']))}.")
    have = in_order(record.config.task for record in full)
    trained = {record.config.task for record in every}
    wanted = have if tasks is None else [*dict.fromkeys(spelled(name, [*have, *trained]) for name in tasks)]
    for name in wanted:
        if name not in trained and known_task(name) is None:
            raise UnknownNameError("task", name, have)
        if name not in have:
            raise DataError(
                f"There is no full fine-tuning of {name} in {folder}, only of {', '.join(have)}; {hint(name)}."
            )
    shown = [record for record in full if record.config.task in wanted]
    check_one_setting(shown)
    best = chosen(shown)
    runs = {name: [*best[METHOD, name].values()] for name in wanted}
    if bare := [record for group in runs.values() for record in group if not record.changes]:
        raise DataError(f"The record {bare[0].id} ({bare[0].config.task}) does not say how far its parameters moved.")
    return runs


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


def _ranking(panels: Sequence[Panel], places: Mapping[str, Mapping[str, int]], measure: Measure) -> list[render.Block]:
    """The unit and the table: the components of the layers, then the others, each from the farthest moved."""
    whole: dict[str, dict[str, Average]] = defaultdict(dict)
    for panel in panels:
        for name, value in panel.moved.whole.items():
            whole[panel.named(name)][panel.task] = value
    means = {name: average([own.get(task, NONE).mean for task in places]).mean for name, own in whole.items()}
    inside, several = {name for own in places.values() for name in own}, len(places) > 1
    rows = []
    for name in sorted(means, key=lambda name: (name not in inside, -(means[name] or 0.0))):
        spread = None if several else next(iter(whole[name].values())).spread
        behind = "" if spread is None else f" ± {number(spread)}"
        rows.append([name, number(means[name]) + behind, *(str(own.get(name, "")) for own in places.values())])
    over = f" (mean over {len(places)} tasks), and the rank in each" if several else ""
    header = ["component", "change", *(places if several else ["rank"])]
    gaps = [name for name, mean in means.items() if mean is None]
    table = render.table(header, rows, notes=[*_remarks(panels, several, gaps)])
    return [f"Change: {MEASURES[measure]}{over}.", table]


def _setting(runs: Sequence[Record]) -> tuple[str, str]:
    """The model and protocol, and the number of seeds and their rate, in words."""
    config, count = runs[0].config, len(runs)
    seeds = f"{count} seed{'s' * (count > 1)}, rate {config.rate:g}"
    return f"{model_name(config.model)}, protocol {config.protocol.name}", seeds


def number(value: float | None) -> str:
    """A value with three digits, such as ``9.28e-04``, or a dash where there is none."""
    return "-" if value is None else f"{value:.2e}"


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
    """Rows for CSV: for each panel the components as a whole, then each component in each layer."""
    for panel in panels:
        whole = [((name, None), value) for name, value in panel.moved.whole.items()]
        for (name, layer), value in [*whole, *panel.moved.cells.items()]:
            yield {"task": panel.task, "component": name, "sub": panel.sub, "layer": layer, **asdict(value)}


def _draw(panels: Sequence[Panel], path: Path, subs: bool) -> None:
    """Draw the heat maps: the paper's figure 1."""
    from normtune.report.figures import change_map

    if not all(panel.moved.layers for panel in panels):
        raise ConfigError("This model has no numbered layers, so there is no heat map to draw.")
    maps, title = [], ""
    for panel in panels:
        setting, seeds = _setting(panel.runs)
        name = title_of(panel.task) + (f", {panel.sub}" if panel.sub else "")
        maps.append(change_map(f"{name} ({seeds})", panel.moved))
        title = f"Change of each component in full fine-tuning: {setting}"
    save(heat_maps(maps, title=title, across=2 if subs else None), path)
