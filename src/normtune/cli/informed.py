"""What ``normtune fisher`` shows: table 1 for people and for programs, and the heat maps of figures 3 and 4."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from normtune.config import Sub
from normtune.data.suites import title_of
from normtune.importance.ranking import between_heads, component_means, ranking, shares
from normtune.report.heatmap import HeatMap

if TYPE_CHECKING:
    from normtune.importance.scores import Scores
    from normtune.records.fisher import FisherRecord


def shown(records: Sequence[FisherRecord]) -> Iterator[Table | Text]:
    """Table 1 for the terminal, and what should be known of it."""
    yield Text(_title(records))
    # Narrow enough for eight tasks in 80 columns; where that does not do, names are folded and never numbers.
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for number, name in enumerate(_header(records)):
        if number == 1:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in _rows(records):
        table.add_row(*row)
    yield table
    for note in _notes(records):
        yield Text(note)


def in_markdown(records: Sequence[FisherRecord]) -> str:
    """Table 1 as Markdown."""
    header = _header(records)
    lines = [header, ["---:", "---", *["---:"] * (len(header) - 2)], *_rows(records)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *_notes(records)])


def plain(records: Sequence[FisherRecord]) -> dict[str, object]:
    """Everything, for a program to read."""
    by_task = {record.config.task: component_means(record.information) for record in records}
    return {
        "ranking": ranking(by_task),
        "tasks": {
            record.config.task: {
                "id": record.id,
                "examples": record.examples,
                "available": record.available,
                "mean": by_task[record.config.task],
                "between_heads": between_heads(record.information),
                "stability": None if record.stability is None else record.stability.model_dump(mode="json"),
                "slow": record.slow,
                "seconds": record.seconds,
            }
            for record in records
        },
    }


def by_layer(scores: Scores) -> dict[tuple[int, Sub], float]:
    """Sums of single entries over each layer, weight and bias apart; those outside the layers are left out."""
    sums: dict[tuple[int, Sub], float] = defaultdict(float)
    for place in scores.within:
        if place.layer is not None:
            sums[place.layer, place.sub] += float(scores.values[place.parameter].sum())
    return dict(sums)


def heatmaps(by_task: Mapping[str, Mapping[tuple[int, Sub], float]], normalised: bool) -> list[HeatMap]:
    """Figures 3 and 4: for weight and bias a map with layers down and tasks across, summed over a layer's entries.

    Args:
        by_task: For each task what `by_layer` gives.
        normalised: Whether to divide each task by its own sum, and add a column with the mean over tasks (figure 4,
            whose sum would leave the tasks no room in the range of colours).

    Returns:
        One map a sub-component.
    """
    spots = {spot for sums in by_task.values() for spot in sums}
    layers = sorted({layer for layer, _ in spots})
    wholes = [sum(sums.values()) if normalised else 1.0 for sums in by_task.values()]
    tasks = [title_of(task) for task in by_task] + (["mean"] if normalised else [])
    maps = []
    subs: tuple[Sub, ...] = ("weight", "bias")
    for sub in subs:
        if not any(own == sub for _, own in spots):
            continue
        columns = [
            [sums[layer, sub] / whole if whole and (layer, sub) in sums else None for layer in layers]
            for sums, whole in zip(by_task.values(), wholes, strict=True)
        ]
        if normalised:
            columns.append([sum(value or 0.0 for value in row) / len(row) for row in zip(*columns, strict=True)])
        # The last layer on top, as the paper draws them.
        values = [tuple(column[i] for column in columns) for i in reversed(range(len(layers)))]
        maps.append(
            HeatMap(
                title=sub,
                rows=tuple(str(layer) for layer in reversed(layers)),
                columns=tuple(tasks),
                values=tuple(values),
                unit="share of the task's Fisher information" if normalised else "sum of Fisher information",
                column_name="task",
            )
        )
    return maps


def _title(records: Sequence[FisherRecord]) -> str:
    config = records[0].config
    model = config.model.rstrip("/").rsplit("/", 1)[-1]
    return f"Mean Fisher information of the components of {model}, {config.estimator.name}: share of each task, in %"


def _header(records: Sequence[FisherRecord]) -> list[str]:
    return ["", "component", "sum", *(record.config.task for record in records)]


def _rows(records: Sequence[FisherRecord]) -> Iterator[list[str]]:
    by_task = {record.config.task: component_means(record.information) for record in records}
    for place, (name, total) in enumerate(ranking(by_task).items(), 1):
        own = (shares(means).get(name) for means in by_task.values())
        yield [str(place), name, f"{total:.3f}", *("" if share is None else _percent(share) for share in own)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0.0005 else "<0.1"


def _notes(records: Sequence[FisherRecord]) -> list[str]:
    lines = [f"Examples: {_each(records, lambda r: f'{r.examples:,} of {r.available:,}')}."]
    if len(records[0].config.head_seeds) > 1:
        agreed = _each(records, lambda r: f"{100 * (between_heads(r.information) or 0):.0f} %")
        heads = len(records[0].config.head_seeds)
        lines.append(f"Pairs of components that two of the {heads} heads order alike: {agreed}.")
    late = [_task(record) for record in records if record.stability is not None and not record.stability.reached]
    if late:
        lines.append(f"Still changing when the examples ran out: {', '.join(late)}.")
    slow = max(records, key=lambda record: len(record.slow))
    if slow.slow:
        lines.append(f"{len(slow.slow)} parameters had to be computed example by example, such as {slow.slow[0]}.")
    return lines


def _each(records: Sequence[FisherRecord], text: Callable[[FisherRecord], str]) -> str:
    return ", ".join(f"{_task(record)} {text(record)}" for record in records)


def _task(record: FisherRecord) -> str:
    return title_of(record.config.task)
