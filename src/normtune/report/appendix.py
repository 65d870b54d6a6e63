"""What lies behind the numbers: all that was chosen for them, and the data."""

from __future__ import annotations

from collections import Counter

from normtune.records.fisher import FisherRecord
from normtune.records.run import DataFacts
from normtune.report.cells import Cells
from normtune.report.table import GAP, Table, group


def facts(cells: Cells) -> list[tuple[str, str]]:
    """What was chosen for all of it: model, protocol, seeds and the like."""
    runs, fisher = cells.results.runs, cells.results.fisher
    first = cells.records[0]
    config = first.config
    said = [
        ("model", f"{config.model}{f', {config.revision}' if config.revision else ''}, {config.dtype}"),
        ("identity of the base", first.base_identity[:16]),
        ("norm that closes a layer", cells.closing),
    ]
    if runs:
        counts, protocol = runs[0].counts, runs[0].config.protocol.model_dump()
        ways = dict.fromkeys(way for run in runs for way in run.ways)
        said += [
            ("entries of the pre-trained model", f"{counts.total - counts.head:,}"),
            ("computed by", ", ".join(ways) or "plain torch"),
            ("protocol", str(protocol.pop("name"))),
            *((name.replace("_", " "), _said(value)) for name, value in protocol.items()),
            ("seeds", ", ".join(map(str, cells.seeds))),
        ]
    if fisher:
        heads = sorted({seed for each in fisher for seed in each.config.head_seeds})
        said.append(("seeds of the heads, for Fisher information", ", ".join(map(str, heads))))
    hours = sum(each.seconds for each in cells.records) / 3600
    statuses: Counter[str] = Counter(run.status for run in runs)
    words = {"failed": "failed", "pruned": "dropped early"}
    unfinished = "".join(f", {statuses[name]} {word}" for name, word in words.items() if statuses[name])
    measured = f"{len(fisher)} measurements of Fisher information; {hours:.1f} hours in all"
    said.append(("records", f"{len(runs)} runs{unfinished}; {measured}"))
    for name in ("machine", "versions"):
        texts = (", ".join(f"{key} {value}" for key, value in getattr(each, name).items()) for each in cells.records)
        said += [(name, text) for text in dict.fromkeys(texts)]
    return said


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def data_table(cells: Cells) -> Table:
    """On which data: sizes, samples and hashes."""
    # Only a finished run knows how many texts were cut.
    by_task = {run.config.task: run.data for run in (*cells.results.runs, *cells.results.done)}
    rows = []
    for task in cells.order({*by_task, *cells.fisher}):
        data, fisher = by_task.get(task), cells.fisher.get(task)
        rows.append((
            cells.title(task),
            data.source if data else fisher.source if fisher else "",
            _sizes(data.train, data.train_of) if data else GAP,
            _sizes(data.dev, data.dev_of) if data else GAP,
            f"{sum(data.truncated.values()):,}" if data else GAP,
            # A measurement may have been given a sample already.
            _sizes(fisher.examples, data.train_of if data and _same(data, fisher) else fisher.available)
            if fisher
            else GAP,
            (data.identity.get("train", "") if data else fisher.identity if fisher else "")[:8],
        ))
    header = ("task", "source", "trained on", "scored on", "texts cut", "Fisher information on", "train’s hash")
    caption = "Examples; where a sample was taken, of how many. The same samples for every run."
    return Table("data", "Data.", header, (group(rows),), caption, texts=2)


def _same(data: DataFacts, fisher: FisherRecord) -> bool:
    return data.identity.get("train") == fisher.identity


def _sizes(size: int, of: int) -> str:
    return f"{size:,}" if size == of else f"{size:,} of {of:,}"
