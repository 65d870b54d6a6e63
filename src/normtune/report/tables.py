"""The paper's tables from records, ours beside the paper's."""

from __future__ import annotations

from collections import defaultdict

from normtune.data.glue_tasks import GLUE
from normtune.importance.ranking import component_means, ranking, shares
from normtune.records.fisher import FisherRecord
from normtune.records.submission import SubmissionRecord
from normtune.report.baselines import floor
from normtune.report.cells import NAMES, PRINTED, Cell, Cells, named
from normtune.report.table import Entry, Group, Table
from normtune.statistics import published

OTHER = "The paper's, BERT-large-cased: another model, so not to be compared in level"
NO_RUN = "—"
_WORDS = {"matthews": "Matthews correlation", "f1": "F1", "spearman": "Spearman correlation"}


def table1_sums(cells: Cells) -> dict[str, float]:
    """Each task's shares added over tasks, by component, the largest first."""
    return ranking({each.config.task: component_means(each.information) for each in cells.results.fisher})


def table1(cells: Cells) -> Table:
    """Components by the sum of their normalised Fisher information, the paper's rank beside."""
    by_task = {each.config.task: each for each in cells.results.fisher}
    tasks = cells.order(by_task)
    own = {task: shares(component_means(by_task[task].information)) for task in tasks}
    theirs = paper_ranks(cells)
    rows = []
    for place, (name, total) in enumerate(table1_sums(cells).items(), 1):
        rank = theirs.get(name)
        rows.append((
            Entry(name),
            Entry(str(place)),
            Entry(str(rank or NO_RUN), kind="best" if rank == place else ""),
            Entry(f"{100 * total / len(tasks):.2f}"),
            *(_share(cells, own[task].get(name), by_task[task], name) for task in tasks),
        ))
    notes = _missing("Not measured here, so not in the mean", cells.without(tasks)) if tasks else ()
    return Table(
        "table1",
        "Table 1. Components by normalised Fisher information.",
        ("component", "rank", "paper’s rank", "mean share", *map(cells.title, tasks)),
        (Group("", tuple(rows)),) if rows else (),
        "For each task the mean Fisher information of a component over all of its entries, as a share of the sum over"
        " components, in %; ranked by the mean over tasks, which orders as the paper’s sum does.",
        notes or (() if rows else ("No Fisher information was measured.",)),
    )


def paper_ranks(cells: Cells) -> dict[str, int]:
    """The rank that the paper gives a component of this name, or the norm in its place."""
    ranks = {name: place for place, name in enumerate(published.RANKING, 1)}
    for place, norms in enumerate((cells.norms.closing, cells.norms.attention), 1):
        ranks.update(dict.fromkeys(norms, place))
    return ranks


def _share(cells: Cells, value: float | None, fisher: FisherRecord, name: str) -> Entry:
    if value is None:
        return Entry(NO_RUN, kind="missing")
    each = [shares(component_means(fisher.information, head))[name] for head in range(len(fisher.config.head_seeds))]
    seeds = zip(fisher.config.head_seeds, each, strict=True)
    tip = f"{name} on {cells.title(fisher.config.task)}, {fisher.examples:,} examples\n" + ", ".join(
        f"head seed {seed}: {100 * share:.2f}" for seed, share in seeds
    )
    return Entry(f"{100 * value:.2f}", tip=tip, link=f"fisher-{fisher.config.task}")


def table2(cells: Cells) -> Table:
    """Dev scores, a row a method, with the head-only control and the paper's rows below."""
    names = list(dict.fromkeys((*NAMES, *cells.whole)))
    found = [cells.cell(name, column) for name in names for column in cells.ran]
    gaps = [f"{named(cell.method)} on {cell.column.title} ({cell.count} seeds)" for cell in found if not cell.complete]
    absent = [column.title for column in cells.columns if column not in cells.ran]
    return Table(
        "table2",
        "Table 2. Dev scores.",
        ("method", "% of full", *(column.title for column in cells.columns)),
        (Group(_ours(cells), (*(_row(name, cells) for name in names), *_floors(cells))), *_paper("dev", cells)),
        f"{metrics(cells)}, × 100; mean ± standard deviation over seeds {', '.join(map(str, cells.seeds)) or NO_RUN}.",
        (*_missing("Missing", gaps), *_missing(f"Not run here (0 of {len(cells.seeds)} seeds)", absent)),
    )


def _ours(cells: Cells) -> str:
    return f"Measured here: {setting(cells)}"


def setting(cells: Cells) -> str:
    """On which model and how, in words."""
    name = cells.records[0].config.model.rstrip("/").rsplit("/", 1)[-1] if cells.records else "no model"
    runs = cells.results.runs
    return f"{name}, protocol {runs[0].config.protocol.name}" if runs else name


def metrics(cells: Cells) -> str:
    """The columns' metrics in words."""
    by_metric: dict[str, list[str]] = defaultdict(list)
    for column in cells.columns:
        by_metric[cells.metric(column) or "their own metrics"].append(column.title)
    text = "; ".join(f"{_WORDS.get(name, name)} ({', '.join(titles)})" for name, titles in by_metric.items())
    return text[:1].upper() + text[1:]


def _row(method: str, cells: Cells) -> tuple[Entry, ...]:
    runs = [run for run in cells.results.done if run.config.method == method]
    share = {run.counts.selected / (run.counts.total - run.counts.head) for run in runs}
    counts = sorted({run.counts.trained for run in runs})
    trained = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else ""
    tip = f"{trained} entries trained, head included; without it {max(share):.4%} of the pre-trained" if share else ""
    percent = Entry(_percent(runs[0].counts.trained / runs[0].counts.total) if runs else NO_RUN, tip=tip)
    return (
        Entry(named(method)),
        percent,
        *(
            score_entry(cells.cell(method, column)) if column in cells.ran else Entry(NO_RUN, kind="missing")
            for column in cells.columns
        ),
    )


def _floors(cells: Cells) -> list[tuple[Entry, ...]]:
    """A row of what one answer for all examples scores, where that is known of any column."""
    lows = [floor(column, cells) for column in cells.columns]
    tip = "The score of giving every example the same answer, the one that scores most."
    row = (Entry("" if low is None else f"{100 * low:.1f}", kind="missing", tip=tip) for low in lows)
    first = Entry("One answer for all", kind="missing"), Entry(NO_RUN, kind="missing")
    return [(*first, *row)] if any(low is not None for low in lows) else []


def _percent(share: float) -> str:
    """A share as the paper prints it: ``0.015%``, ``100%``."""
    return f"{share:.0%}" if share > 0.995 else f"{share:.3%}" if share < 0.01 else f"{share:.2%}"


def score_entry(cell: Cell) -> Entry:
    """A score with its spread, and the count of its seeds where some are missing."""
    if cell.mean is None:
        return Entry(NO_RUN, kind="missing", badge="" if not cell.wanted else f"0 of {len(cell.wanted)}", tip=cell.says)
    return Entry(
        f"{100 * cell.mean:.1f}",
        spread="" if cell.spread is None else f"{100 * cell.spread:.1f}",
        badge="" if cell.complete else cell.count,
        kind="" if cell.complete else "partial",
        tip=cell.says,
        link=cell.anchor,
    )


def _paper(split: str, cells: Cells) -> list[Group]:
    """The paper's rows, where it has any of the columns."""
    if not {*cells.columns} & PRINTED.keys():
        return []
    rows = []
    for method, row in published.TABLES[split].items():
        by_name = dict(zip(published.TASKS, row, strict=True))
        share = _percent(published.TRAINED[method] / published.TRAINED["full"])
        values = (by_name.get(PRINTED.get(column, "")) for column in cells.columns)
        decimals = 2 if split == "dev" else 1
        scores = (Entry(NO_RUN if value is None else f"{100 * value:.{decimals}f}") for value in values)
        rows.append((Entry(named(method)), Entry(share), *scores))
    return [Group(OTHER, tuple(rows), other=True)]


def table3(cells: Cells) -> Table:
    """Test scores: the GLUE server's reply where one was recorded."""
    submissions = cells.results.submissions
    rows = tuple(_submitted(each, cells) for each in submissions if each.scores)
    unscored = len(submissions) - len(rows)
    notes = ["No submission with the server’s scores yet."] if not rows else []
    if unscored:
        notes.append(f"{unscored} submission{'s' * (unscored > 1)} made, for which no reply of the server is recorded.")
    return Table(
        "table3",
        "Table 3. Test scores, as the GLUE server gives them.",
        ("method", "% of full", *(column.title for column in cells.columns)),
        (*([Group(_ours(cells), rows)] if rows else []), *_paper("test", cells)),
        "The metrics of table 2, × 100.",
        tuple(notes),
    )


def _submitted(record: SubmissionRecord, cells: Cells) -> tuple[Entry, ...]:
    methods = sorted({each.source.method for each in record.answers if each.source is not None})
    scores = []
    for column in cells.columns:
        value = record.scores.get(column.title, {}).get(cells.metric(column))
        tip = f"{record.file}, scored {record.scored}"
        scores.append(Entry(NO_RUN, kind="missing") if value is None else Entry(f"{100 * value:.1f}", tip=tip))
    return Entry(", ".join(map(named, methods)) or record.file), Entry(NO_RUN), *scores


def table4(cells: Cells) -> Table:
    """The metric of each task."""
    rows = []
    for task in cells.order(column.task for column in cells.columns):
        own = [column for column in cells.columns if column.task == task]
        metric = _WORDS.get(cells.metric(own[0]), cells.metric(own[0])) or NO_RUN
        both = f"matched {metric} / mismatched {metric}" if len(own) > 1 else metric
        about = GLUE[task].about if own[0] in PRINTED else NO_RUN
        rows.append((Entry(cells.title(task)), Entry(both), Entry(about)))
    caption = "The same as the paper’s (its appendix C)." if {*cells.columns} & PRINTED.keys() else ""
    return Table("table4", "Table 4. The metric of each task.", ("task", "metric", "the question"), (
        Group("", tuple(rows)),), caption, texts=3)  # fmt: skip


def _missing(what: str, names: list[str]) -> tuple[str, ...]:
    return (f"{what}: {', '.join(names)}.",) if names else ()
