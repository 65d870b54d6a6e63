"""What lies behind the numbers: the records, and all that was chosen for them, as tables for the page."""

from __future__ import annotations

from collections import Counter, defaultdict

from normtune.records.fisher import FisherRecord
from normtune.records.run import DataFacts, Record
from normtune.report.cells import Cells
from normtune.report.table import GAP, Entry, Table, anchor, group


def shelves(cells: Cells) -> list[Table]:
    """Every record: a table for the runs of each method and task, then one for the Fisher information of each task."""
    runs: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in cells.results.runs:
        runs[run.config.method, run.config.task].append(run)
    methods = dict.fromkeys((*cells.methods, *(method for method, _ in runs)))
    cases = [(m, task) for m in methods for task in cells.order(task for own, task in runs if own == m)]
    return [
        *(_runs(cells, *case, runs[case]) for case in cases),
        *(_fisher(cells.title(task), each) for task, each in cells.fisher.items()),
    ]


def _runs(cells: Cells, method: str, task: str, runs: list[Record]) -> Table:
    chosen = {run.id for run in cells.chosen.get((method, task), {}).values()}
    rows = []
    for run in sorted(runs, key=lambda run: (run.config.rate, run.config.seed)):
        shown = run.id in chosen
        rows.append((
            Entry(run.id, kind="best" if shown else "", tip="shown in the tables" if shown else "of the search only"),
            f"{run.config.rate:g}",
            str(run.config.seed),
            Entry(run.status, kind="missing", tip=run.error or "")
            if run.score is None
            else Entry(f"{100 * run.score:.2f}", tip=_every_metric(run)),
            str(run.best_epoch or "—"),
            f"{run.counts.selected:,}",
            f"{run.peak_memory / 2**20:,.0f}",
            f"{run.seconds:,.0f}",
        ))
    header = ("record", "rate", "seed", "score × 100", "best epoch", "entries", "peak MiB", "seconds")
    count = len({run.config.seed for run in runs if run.id in chosen})
    summary = f"{len(runs)} runs; {count} seed{'s' * (count != 1)} at the rate shown"
    return Table(anchor(method, task), f"{method} on {cells.title(task)}", header, (group(rows),), summary)


def _every_metric(run: Record) -> str:
    return "\n".join(
        f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in own.items())
        for split, own in run.scores.items()
    )


def _fisher(title: str, fisher: FisherRecord) -> Table:
    config, examples = fisher.config, f"{fisher.examples:,}"
    heads = ", ".join(map(str, config.head_seeds))
    facts = config.estimator.name, heads, examples, str(config.max_length)
    row = Entry(fisher.id, kind="best"), *facts, f"{fisher.seconds:,.0f}"
    header = ("record", "estimator", "head seeds", "examples", "tokens at most", "seconds")
    name, summary = f"Fisher information on {title}", f"{examples} examples"
    return Table(f"fisher-{config.task}", name, header, (group([row]),), summary, texts=2)


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
