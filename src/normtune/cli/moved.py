"""What ``normtune change`` shows: heat maps and a ranking, in the terminal, as Markdown, as JSON, as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normtune.cli.heatmap import View, number, unit
from normtune.config import Sub
from normtune.data.suites import title_of
from normtune.errors import ConfigError, DataError
from normtune.importance.movement import MEASURES, Average, Measure, Movement, movement, ranks
from normtune.records.run import Record
from normtune.report.heatmap import HeatMap, draw, exponent


@dataclass(frozen=True)
class Case:
    """The full fine-tunings of one task, a record a seed.

    Attributes:
        task: The task's name.
        records: Runs that differ in their seed only.
    """

    task: str
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """The task's name in print."""
        return title_of(self.task)

    @property
    def setting(self) -> str:
        """On which model and how, in words."""
        config = self.records[0].config
        return f"{config.model.rstrip('/').rsplit('/', 1)[-1]}, protocol {config.protocol.name}"

    @property
    def runs(self) -> str:
        """How many runs at which rate, in words."""
        count = len(self.records)
        return f"{count} seed{'s' if count > 1 else ''}, rate {self.records[0].config.rate:g}"

    def moved(self, measure: Measure, sub: Sub | None) -> Movement:
        """How far the components moved, over the seeds.

        Raises:
            DataError: If a record holds no changes.
        """
        for record in self.records:
            if not record.changes:
                raise DataError(f"The record {record.id} ({self.task}) does not say how far its parameters moved.")
        return movement([record.changes for record in self.records], measure, sub)


@dataclass(frozen=True)
class Panel:
    """One heat map: a task, and one sub-component or both together."""

    case: Case
    sub: Sub | None
    moved: Movement

    def map(self, title: str) -> HeatMap:
        """The components of the layers as a heat map."""
        moved = self.moved
        values = (tuple(_mean(moved.cells.get((name, layer))) for name in moved.inside) for layer in moved.layers)
        return HeatMap(title, tuple(map(str, moved.layers)), moved.inside, tuple(values), MEASURES[moved.measure])

    def below(self) -> dict[str, list[float | None]]:
        """The rows under the map: each component over all layers, and the spread of that over seeds."""
        whole = [self.moved.whole[name] for name in self.moved.inside]
        rows = {"all": [each.mean for each in whole]}
        if any(each.spread is not None for each in whole):
            rows["±"] = [each.spread for each in whole]
        return rows

    def named(self, component: str) -> str:
        """The component's name, with the sub-component where the panel shows one."""
        return component if self.sub is None else f"{component}.{self.sub}"


def panels(cases: Sequence[Case], measure: Measure, subs: bool) -> list[Panel]:
    """A panel a task; two, for weight and bias, with `subs`."""
    apart: tuple[Sub | None, ...] = ("weight", "bias") if subs else (None,)
    return [Panel(case, sub, case.moved(measure, sub)) for case in cases for sub in apart]


@dataclass(frozen=True)
class Ranking:
    """Components over tasks.

    Attributes:
        tasks: The tasks.
        values: By component and task, as far as there are values; the components of the layers first, and of these the
            one with the largest mean over tasks.
        places: By task, the rank of each component among those of the layers.
    """

    tasks: tuple[str, ...]
    values: dict[str, tuple[Average, ...]]
    places: tuple[dict[str, int], ...]

    def mean(self, component: str) -> float | None:
        """The component's mean over tasks; None where any task has no value."""
        known = [each.mean for each in self.values[component] if each.mean is not None]
        return mean(known) if len(known) == len(self.tasks) else None

    def largest(self) -> float:
        """The largest mean of any component of the layers, or of any at all where there are no layers."""
        inside = [name for name in self.values if any(name in places for places in self.places)]
        return max(self.mean(name) or 0.0 for name in inside or self.values)


def ranking(shown: Sequence[Panel]) -> Ranking:
    """Rank the components of `shown` in each task, and over all."""
    whole: dict[str, dict[str, Average]] = {}
    inside: dict[str, None] = {}
    for panel in shown:
        column = whole.setdefault(panel.case.task, {})
        column.update({panel.named(name): value for name, value in panel.moved.whole.items()})
        inside.update(dict.fromkeys(map(panel.named, panel.moved.inside)))
    names = dict.fromkeys(name for column in whole.values() for name in column)
    made = Ranking(
        tasks=tuple(whole),
        values={name: tuple(column.get(name, Average(None)) for column in whole.values()) for name in names},
        places=tuple(
            ranks({name: value.mean for name, value in column.items() if name in inside}) for column in whole.values()
        ),
    )
    order = sorted(made.values, key=lambda name: (name not in inside, -(made.mean(name) or 0.0)))
    return Ranking(made.tasks, {name: made.values[name] for name in order}, made.places)


def show(cases: Sequence[Case], measure: Measure, subs: bool, console: Console) -> None:
    """Print the heat maps and the ranking."""
    shown = panels(cases, measure, subs)
    for panel in shown:
        if panel.moved.layers:
            console.print(View(panel.map(_heading(panel)), panel.below()), highlight=False)
            console.print()
    made = ranking(shown)
    power, largest = exponent(made.largest()), made.largest()
    console.print(Text(_over_tasks(made, measure, power), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("component", no_wrap=True)
    for name in _columns(made):
        table.add_column(name, justify="right")
    for name, cells in _ranked(made, power, largest):
        outside = not any(name in places for places in made.places)
        table.add_row(name, *cells, style="dim" if outside else "")
    console.print(table)
    for line in _remarks(shown, made):
        console.print(Text(line, style="dim"))


def in_markdown(cases: Sequence[Case], measure: Measure, subs: bool) -> str:
    """The heat maps and the ranking as Markdown tables."""
    shown = panels(cases, measure, subs)
    parts = [_markdown_map(panel) for panel in shown if panel.moved.layers]
    made = ranking(shown)
    power, largest = exponent(made.largest()), made.largest()
    lines = [["component", *_columns(made)], ["---", *["---:"] * len(_columns(made))]]
    lines += [[name, *cells] for name, cells in _ranked(made, power, largest)]
    parts.append(f"**{_over_tasks(made, measure, power)}**\n\n{_rows(lines)}")
    return "\n\n".join([*parts, *_remarks(shown, made)])


def plain(cases: Sequence[Case], measure: Measure, subs: bool) -> list[dict[str, object]]:
    """Everything as plain values, for JSON: one entry a task, or two with `subs`."""
    shown = panels(cases, measure, subs)
    made = ranking(shown)
    places = dict(zip(made.tasks, made.places, strict=True))
    return [_plain(panel, places[panel.case.task]) for panel in shown]


def figure_of(cases: Sequence[Case], measure: Measure, subs: bool, path: Path) -> None:
    """Draw the heat maps: the paper's figure 1.

    Raises:
        ConfigError: If the model has no layers to draw.
    """
    shown = panels(cases, measure, subs)
    if not all(panel.moved.layers for panel in shown):
        raise ConfigError("This model has no numbered layers, so there is no heat map to draw.")
    maps = [panel.map(f"{_short(panel)} ({panel.case.runs})") for panel in shown]
    title = f"Change of each component in full fine-tuning: {cases[0].setting}"
    draw(maps, path, title=title, across=2 if subs else None)


def _short(panel: Panel) -> str:
    return panel.case.title + (f", {panel.sub}" if panel.sub else "")


def _heading(panel: Panel) -> str:
    return f"{_short(panel)}: {panel.case.setting}, {panel.case.runs}"


def _over_tasks(made: Ranking, measure: Measure, power: int) -> str:
    over = f", mean over {len(made.tasks)} tasks" if len(made.tasks) > 1 else ""
    return f"Components by {unit(MEASURES[measure], power)}{over}, and rank"


def _columns(made: Ranking) -> list[str]:
    return ["change", *made.tasks] if len(made.tasks) > 1 else ["change", "rank"]


def _ranked(made: Ranking, power: int, largest: float) -> Iterator[tuple[str, list[str]]]:
    """The ranking's rows: the mean over tasks, with one task its spread over seeds too, and the ranks."""
    for name, values in made.values.items():
        text = number(made.mean(name), power, largest)
        if len(values) == 1 and values[0].spread is not None:
            text += f" ± {number(values[0].spread, power, largest)}"
        yield name, [text, *(str(places.get(name, "")) for places in made.places)]


def _remarks(shown: Sequence[Panel], made: Ranking) -> Iterator[str]:
    """What a reader of the tables must know."""
    spread = any(each.spread is not None for values in made.values.values() for each in values)
    notes = ["± is the standard deviation over seeds"] if spread else []
    if any(panel.moved.outside for panel in shown):
        notes.append("ranks are among the components of the layers")
    if notes:
        yield f"{'; '.join(notes).capitalize()}."
    gaps = [name for name, values in made.values.items() if any(value.mean is None for value in values)]
    if gaps:
        yield (
            f"No relative change (-) of {', '.join(gaps)}: the pre-trained values are all zero, or a part did not move"
            " and its record does not tell how large it was."
        )


def _markdown_map(panel: Panel) -> str:
    shown = panel.map("")
    largest = max(map(abs, shown.limits))
    lines = [[shown.row_name, *shown.columns], ["---", *["---:"] * len(shown.columns)]]
    for name, values in [*zip(shown.rows, shown.values, strict=True), *panel.below().items()]:
        lines.append([name, *(number(value, shown.exponent, largest) for value in values)])
    return f"**{_heading(panel)}**: {unit(shown.unit, shown.exponent)}\n\n{_rows(lines)}"


def _rows(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(panel: Panel, places: Mapping[str, int]) -> dict[str, object]:
    first, moved = panel.case.records[0], panel.moved
    return {
        "task": panel.case.task,
        "model": first.config.model,
        "base_identity": first.base_identity,
        "protocol": first.config.protocol.name,
        "rate": first.config.rate,
        "seeds": [record.config.seed for record in panel.case.records],
        "records": [record.id for record in panel.case.records],
        "measure": moved.measure,
        "sub": panel.sub,
        "cells": [
            {"component": name, "layer": layer, "mean": value.mean, "spread": value.spread}
            for (name, layer), value in moved.cells.items()
        ],
        "components": [
            {
                "component": name,
                "in_layers": name in moved.inside,
                "mean": value.mean,
                "spread": value.spread,
                "rank": places.get(panel.named(name)),
            }
            for name, value in moved.whole.items()
        ],
    }


def _mean(value: Average | None) -> float | None:
    return None if value is None else value.mean
