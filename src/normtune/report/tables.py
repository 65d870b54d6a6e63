"""The paper's tables from records, ours beside the paper's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from normtune.data.glue_tasks import GLUE
from normtune.data.suites import Column
from normtune.importance.ranking import component_means, ranking, shares
from normtune.records.fisher import FisherRecord
from normtune.records.results import Results
from normtune.records.run import Record
from normtune.records.submission import SubmissionRecord
from normtune.report.baselines import floor
from normtune.report.scores import PAPER, Cell, Scores, order, title
from normtune.report.table import Entry, Group, Table
from normtune.statistics import published

#: The paper's methods, and the control that it does not have.
METHODS = ("full", "bitfit", "layernorm", "random", "head")
NAMES = {"full": "Full", "bitfit": "BitFit", "layernorm": "LayerNorm", "random": "Random", "head": "Head only"}
OTHER = "The paper's, BERT-large-cased: another model, so not to be compared in level"
_NO_RUN = "—"


def table1_sums(fisher: Iterable[FisherRecord]) -> dict[str, float]:
    """Each task's shares added over tasks, by component, the largest first."""
    return ranking({each.config.task: component_means(each.information) for each in fisher})


def table1(results: Results) -> Table:
    """Components by the sum of their normalised Fisher information, the paper's rank beside."""
    by_task = {each.config.task: each for each in results.fisher}
    tasks = order(by_task)
    own = {task: shares(component_means(by_task[task].information)) for task in tasks}
    theirs = {name: place for place, name in enumerate(published.RANKING, 1)}
    rows = []
    for place, (name, total) in enumerate(table1_sums(results.fisher).items(), 1):
        rank = theirs.get(name)
        rows.append((
            Entry(name),
            Entry(str(place)),
            Entry(str(rank or _NO_RUN), kind="best" if rank == place else ""),
            Entry(f"{100 * total / len(tasks):.2f}"),
            *(_share(own[task].get(name), by_task[task], name) for task in tasks),
        ))
    missing = [column.title for column in PAPER if column.task not in by_task and column.split == "dev"]
    notes = _missing("Not measured here, so not in the mean", missing) if tasks else ()
    return Table(
        "table1",
        "Table 1. Components by normalised Fisher information.",
        ("component", "rank", "paper’s rank", "mean share", *map(title, tasks)),
        (Group("", tuple(rows)),) if rows else (),
        "For each task the mean Fisher information of a component over all of its entries, as a share of the sum over"
        " components, in %; ranked by the mean over tasks, which orders as the paper’s sum does.",
        notes or (() if rows else ("No Fisher information was measured.",)),
    )


def _share(value: float | None, fisher: FisherRecord, name: str) -> Entry:
    if value is None:
        return Entry(_NO_RUN, kind="missing")
    each = [shares(component_means(fisher.information, head))[name] for head in range(len(fisher.config.head_seeds))]
    seeds = zip(fisher.config.head_seeds, each, strict=True)
    tip = f"{name} on {title(fisher.config.task)}, {fisher.examples:,} examples\n" + ", ".join(
        f"head seed {seed}: {100 * share:.2f}" for seed, share in seeds
    )
    return Entry(f"{100 * value:.2f}", tip=tip, link=f"fisher-{fisher.config.task}")


def table2(scores: Scores, results: Results) -> Table:
    """Dev scores, a row a method, with the head-only control and the paper's rows below."""
    others = [name for name in scores.methods if name not in METHODS and "@" not in name]
    rows = [*(_row(name, scores, results) for name in (*METHODS, *others)), _floors(scores, results)]
    counts = [scores.cell(name, column) for name in METHODS for column in scores.ran]
    gaps = [f"{NAMES[cell.method]} on {cell.column.title} ({cell.count} seeds)" for cell in counts if not cell.complete]
    absent = [column.title for column in scores.columns if column not in scores.ran]
    return Table(
        "table2",
        "Table 2. Dev scores.",
        ("method", "% of full", *(column.title for column in scores.columns)),
        (Group(_ours(results), tuple(rows)), Group(OTHER, tuple(_paper("dev", scores.columns)), other=True)),
        f"{metrics(scores.columns)}, × 100; mean ± standard deviation over seeds"
        f" {', '.join(map(str, scores.seeds)) or '—'}.",
        (*_missing("Missing", gaps), *_missing(f"Not run here (0 of {len(scores.seeds)} seeds)", absent)),
    )


def _ours(results: Results) -> str:
    return f"Measured here: {setting(results)}"


def setting(results: Results) -> str:
    """On which model and how, in words."""
    each: list[Record | FisherRecord] = [*results.runs, *results.fisher]
    name = each[0].config.model.rstrip("/").rsplit("/", 1)[-1] if each else "no model"
    return f"{name}, protocol {results.runs[0].config.protocol.name}" if results.runs else name


def metrics(columns: Iterable[Column]) -> str:
    """The columns' metrics in words."""
    by_metric: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        by_metric[GLUE[column.task].primary if column.task in GLUE else "its own metric"].append(column.title)
    words = {"matthews": "Matthews correlation", "f1": "F1", "spearman": "Spearman correlation"}
    parts = [f"{words.get(name, name)} ({', '.join(titles)})" for name, titles in by_metric.items()]
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _row(method: str, scores: Scores, results: Results) -> tuple[Entry, ...]:
    runs = [run for run in results.done if run.config.method == method]
    share = {run.counts.selected / (run.counts.total - run.counts.head) for run in runs}
    counts = sorted({run.counts.trained for run in runs})
    trained = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}" if counts else ""
    tip = f"{trained} entries trained, head included; without it {max(share):.4%} of the pre-trained" if share else ""
    percent = Entry(_percent(runs[0].counts.trained / runs[0].counts.total) if runs else _NO_RUN, tip=tip)
    return (
        Entry(NAMES.get(method, method)),
        percent,
        *(
            score_entry(scores.cell(method, column)) if column in scores.ran else Entry(_NO_RUN, kind="missing")
            for column in scores.columns
        ),
    )


def _floors(scores: Scores, results: Results) -> tuple[Entry, ...]:
    """What one answer for all examples scores, where that is known."""
    lows = [floor(column, results.done) for column in scores.columns]
    tip = "The score of giving every example the same answer, the one that scores most."
    cells = (Entry("" if low is None else f"{100 * low:.1f}", kind="missing", tip=tip) for low in lows)
    return Entry("One answer for all", kind="missing"), Entry(_NO_RUN, kind="missing"), *cells


def _percent(share: float) -> str:
    """A share as the paper prints it: ``0.015%``, ``100%``."""
    return f"{share:.0%}" if share > 0.995 else f"{share:.3%}" if share < 0.01 else f"{share:.2%}"


def score_entry(cell: Cell) -> Entry:
    """A score with its spread, and the count of its seeds where some are missing."""
    if cell.mean is None:
        return Entry(
            _NO_RUN, kind="missing", badge="" if not cell.wanted else f"0 of {len(cell.wanted)}", tip=cell.says
        )
    return Entry(
        f"{100 * cell.mean:.1f}",
        spread="" if cell.spread is None else f"{100 * cell.spread:.1f}",
        badge="" if cell.complete else cell.count,
        kind="" if cell.complete else "partial",
        tip=cell.says,
        link=cell.anchor,
    )


def _paper(split: str, columns: Iterable[Column]) -> Iterable[tuple[Entry, ...]]:
    for method, row in published.TABLES[split].items():
        by_column = dict(zip((column.title for column in PAPER), row, strict=True))
        share = _percent(published.TRAINED[method] / published.TRAINED["full"])
        values = (by_column.get(column.title) for column in columns)
        decimals = 2 if split == "dev" else 1
        cells = (Entry(_NO_RUN if value is None else f"{100 * value:.{decimals}f}") for value in values)
        yield Entry(NAMES[method]), Entry(share), *cells


def table3(results: Results) -> Table:
    """Test scores: the GLUE server's reply where one was recorded."""
    scored = [each for each in results.submissions if each.scores]
    rows = tuple(_submitted(each) for each in scored)
    groups = [Group(_ours(results), rows)] if rows else []
    unscored = len(results.submissions) - len(scored)
    notes = ["No submission with the server’s scores yet."] if not rows else []
    if unscored:
        notes.append(f"{unscored} submission{'s' * (unscored > 1)} made, for which no reply of the server is recorded.")
    return Table(
        "table3",
        "Table 3. Test scores, as the GLUE server gives them.",
        ("method", "% of full", *(column.title for column in PAPER)),
        (*groups, Group(OTHER, tuple(_paper("test", PAPER)), other=True)),
        "The metrics of table 2, × 100.",
        tuple(notes),
    )


def _submitted(record: SubmissionRecord) -> tuple[Entry, ...]:
    methods = sorted({each.source.method for each in record.answers if each.source is not None})
    cells = []
    for column in PAPER:
        value = record.scores.get(column.title, {}).get(GLUE[column.task].primary)
        tip = f"{record.file}, scored {record.scored}"
        cells.append(Entry(_NO_RUN, kind="missing") if value is None else Entry(f"{100 * value:.1f}", tip=tip))
    return Entry(", ".join(NAMES.get(method, method) for method in methods) or record.file), Entry(_NO_RUN), *cells


def table4() -> Table:
    """The metric of each task."""
    words = {"matthews": "Matthews correlation", "f1": "F1", "spearman": "Spearman correlation"}
    rows = []
    for task in dict.fromkeys(column.task for column in PAPER):
        own = words.get(GLUE[task].primary, GLUE[task].primary)
        both = f"matched {own} / mismatched {own}" if task == "mnli" else own
        rows.append((Entry(title(task)), Entry(both), Entry(GLUE[task].about)))
    caption = "The same as the paper’s (its appendix C)."
    return Table("table4", "Table 4. The metric of each task.", ("task", "metric", "the question"), (
        Group("", tuple(rows)),), caption, texts=3)  # fmt: skip


def _missing(what: str, names: list[str]) -> tuple[str, ...]:
    return (f"{what}: {', '.join(names)}.",) if names else ()
