"""The paper's tables from records, ours beside the paper's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from normtune.data.glue_tasks import GLUE
from normtune.data.suites import Column
from normtune.importance.ranking import component_means, ranking, shares
from normtune.records.fisher import FisherRecord
from normtune.records.submission import SubmissionRecord
from normtune.report.cells import NEAR, PRINTED, Cells, named
from normtune.report.table import GAP, Entry, Group, Table, group, model_name, remark, score
from normtune.statistics import published

OTHER = "The paper’s scores, BERT-large-cased: another model, so do not compare levels"
_WORDS = {"matthews": "Matthews correlation", "f1": "F1", "spearman": "Spearman correlation"}


def table1(cells: Cells) -> Table:
    """Components by the sum of their normalised Fisher information, with the paper's ranks."""
    whole = {task: each for task, each in cells.fisher.items() if each.config.within == "full"}
    means = {task: component_means(each.information) for task, each in whole.items()}
    own = {task: shares(each) for task, each in means.items()}
    theirs = paper_ranks(cells)
    rows: list[tuple[str | Entry, ...]] = [
        (
            name,
            str(place),
            Entry(str(theirs.get(name, "—")), kind="best" if theirs.get(name) == place else ""),
            f"{100 * total / len(own):.2f}",
            *(_share(cells, own[task].get(name), each, name) for task, each in whole.items()),
        )
        for place, (name, total) in enumerate(ranking(means).items(), 1)
    ]
    return Table(
        "table1",
        "Table 1. Components by normalised Fisher information.",
        ("component", "rank", "paper’s rank", "mean share", *map(cells.title, own)),
        (group(rows),) if rows else (),
        "For each task, the mean Fisher information of a component over all of its entries, as a share of the sum over"
        " components, in %; ranked by the mean over tasks, which gives the same order as the paper’s sum.",
        remark("Not measured here, so not in the mean", cells.without(own)),
    )


def paper_ranks(cells: Cells) -> dict[str, int]:
    """The paper's rank of each component by name, with the model's own norms in place of BERT's."""
    ranks = {name: place for place, name in enumerate(published.RANKING, 1)}
    for place, norms in enumerate((cells.norms.closing, cells.norms.attention), 1):
        ranks.update(dict.fromkeys(norms, place))
    return ranks


def _share(cells: Cells, value: float | None, fisher: FisherRecord, name: str) -> Entry:
    if value is None:
        return GAP
    seeds = fisher.config.head_seeds
    each = [shares(component_means(fisher.information, head))[name] for head in range(len(seeds))]
    said = ", ".join(f"head seed {seed}: {100 * share:.2f}" for seed, share in zip(seeds, each, strict=True))
    tip = f"{name} on {cells.title(fisher.config.task)}, {fisher.examples:,} examples\n{said}"
    return Entry(f"{100 * value:.2f}", tip=tip)


def table2(cells: Cells) -> Table:
    """Dev scores, a row a method, with the head-only control and the paper's rows below."""
    absent = [column.title for column in cells.columns if column not in cells.ran]
    other = [column.title for column in cells.ran if column in PRINTED and cells.floor(column) is None]
    rows = [*(_row(name, cells) for name in cells.whole), *_floors(cells)]
    return Table(
        "table2",
        "Table 2. Dev scores.",
        ("method", "% of full", *(column.title for column in cells.ran)),
        (group(rows, f"Measured here: {setting(cells)}"), *_paper("dev", cells.ran)) if cells.ran else (),
        f"{metrics(cells)}, × 100; mean ± standard deviation over seeds {', '.join(map(str, cells.seeds)) or '—'}.",
        (
            *remark("Not run here", absent),
            *remark("Not GLUE’s whole dev set, so not comparable with other results", other),
        ),
    )


def setting(cells: Cells) -> str:
    """The model and the protocol, in words."""
    every = [*cells.records, *cells.results.ablations]
    name = model_name(every[0].config.model)
    runs = cells.results.runs
    return f"{name}, protocol {runs[0].config.protocol.name}" if runs else name


def metrics(cells: Cells) -> str:
    """The columns' metrics in words."""
    by_metric: dict[str, list[str]] = defaultdict(list)
    for column in cells.ran:
        by_metric[cells.metric(column)].append(column.title)
    text = "; ".join(f"{_WORDS.get(name, name)} ({', '.join(titles)})" for name, titles in by_metric.items())
    return text[:1].upper() + text[1:]


def _row(method: str, cells: Cells) -> tuple[str | Entry, ...]:
    every = [run.counts for run in cells.results.done if run.config.method == method]
    trained = sorted({counts.trained for counts in every})
    span = " to ".join(f"{count:,}" for count in dict.fromkeys((trained[0], trained[-1])))
    share = max(counts.selected / (counts.total - counts.head) for counts in every)
    tip = f"{span} entries trained, head included; without it {share:.4%} of the pre-trained"
    percent = Entry(_percent(max(counts.trained / counts.total for counts in every)), tip=tip)
    return named(method), percent, *(score(cells.cell(method, column)) for column in cells.ran)


def _floors(cells: Cells) -> list[tuple[Entry, ...]]:
    """A row with the score of one answer for all examples, if it is known for any column."""
    lows = [cells.floor(column) for column in cells.ran]
    tip = "The score of giving every example the same answer, the one that scores most."
    row = (Entry("" if low is None else f"{100 * low:.1f}", kind="missing", tip=tip) for low in lows)
    return [(Entry("One answer for all", kind="missing"), GAP, *row)] if any(low is not None for low in lows) else []


def _percent(share: float) -> str:
    """A share as the paper prints it: ``0.015%``, ``100%``."""
    return f"{share:.0%}" if share > 0.995 else f"{share:.3%}" if share < 0.01 else f"{share:.2%}"


def _paper(split: str, columns: Sequence[Column]) -> list[Group]:
    """The paper's rows, where it has any of the columns."""
    if not {*columns} & {*PRINTED}:
        return []
    rows = []
    for method, row in published.TABLES[split].items():
        by_column = dict(zip(PRINTED, row, strict=True))
        values = (by_column.get(column) for column in columns)
        decimals = 2 if split == "dev" else 1
        scores = ("—" if value is None else f"{100 * value:.{decimals}f}" for value in values)
        rows.append((named(method), _percent(published.TRAINED[method] / published.TRAINED["full"]), *scores))
    return [group(rows, OTHER, other=True)]


def table3(cells: Cells) -> Table:
    """Test scores: the GLUE server's reply where one was recorded."""
    submissions = cells.results.submissions
    rows = [_submitted(each, cells) for each in submissions if each.scores]
    unscored = len(submissions) - len(rows)
    made = f"{unscored} submission{'s' * (unscored > 1)} made, for which no reply of the server is recorded."
    return Table(
        "table3",
        "Table 3. Test scores, as the GLUE server gives them.",
        ("method", "% of full", *(column.title for column in cells.columns)),
        (group(rows, f"Measured here: {setting(cells)}"), *_paper("test", cells.columns)) if submissions else (),
        "The metrics of table 2, × 100.",
        (made,) if unscored else (),
    )


def _submitted(record: SubmissionRecord, cells: Cells) -> tuple[str | Entry, ...]:
    methods = sorted({each.source.method for each in record.answers if each.source is not None})
    values = (record.scores.get(column.title, {}).get(cells.metric(column)) for column in cells.columns)
    tip = f"{record.file}, scored {record.scored}"
    scores = (GAP if value is None else Entry(f"{100 * value:.1f}", tip=tip) for value in values)
    return ", ".join(map(named, methods)) or record.file, "—", *scores


def table4(cells: Cells) -> Table:
    """The metric of each task."""
    rows = []
    for task in cells.order(cells.tasks):
        own = [column for column in cells.ran if column.task == task]
        metric = _WORDS.get(cells.metric(own[0]), cells.metric(own[0]))
        both = f"matched {metric} / mismatched {metric}" if len(own) > 1 else metric
        rows.append((cells.title(task), both, GLUE[task].about if own[0] in PRINTED else "—"))
    caption = "The same as the paper’s (its appendix C)." if {*cells.ran} & {*PRINTED} else ""
    header = ("task", "metric", "the question")
    return Table(
        "table4", "Table 4. The metric of each task.", header, (group(rows),) if rows else (), caption, texts=3
    )


def data_table(cells: Cells) -> Table:
    """The data: sizes, samples and hashes."""
    # Only a finished run knows how many texts were cut.
    by_task = {run.config.task: run.data for run in (*cells.results.runs, *cells.results.done)}
    rows = []
    for task in cells.order({*by_task, *cells.fisher}):
        data, fisher = by_task.get(task), cells.fisher.get(task)
        same = data and fisher and data.identity.get("train") == fisher.identity
        rows.append((
            cells.title(task),
            data.source if data else fisher.source if fisher else "",
            _sizes(data.train, data.train_of) if data else GAP,
            _sizes(data.dev, data.dev_of) if data else GAP,
            f"{sum(data.truncated.values()):,}" if data else GAP,
            # A measurement may have been given a sample already.
            _sizes(fisher.examples, data.train_of if data and same else fisher.available) + _by(fisher)
            if fisher
            else GAP,
            (data.identity.get("train", "") if data else fisher.identity if fisher else "")[:8],
        ))
    header = ("task", "source", "trained on", "scored on", "texts cut", "Fisher information on", "train’s hash")
    caption = "Numbers of examples; where a sample was taken, of how many. Every run uses the same samples."
    return Table("data", "Data.", header, (group(rows),) if rows else (), caption, texts=2)


def _by(fisher: FisherRecord) -> str:
    """The estimator, where it is not the empirical one."""
    name = fisher.config.estimator.name
    return "" if name == "empirical" else f", {name}"


def _sizes(size: int, of: int) -> str:
    return f"{size:,}" if size == of else f"{size:,} of {of:,}"


def findings(cells: Cells) -> list[str]:
    """What a reader must know first: what was measured, and where scores say little."""
    return [sentence for sentence in (_measured(cells), _near(cells)) if sentence]


def _measured(cells: Cells) -> str:
    if not cells.records:
        return f"Only ablations were measured ({setting(cells)}); there are no runs."
    if not cells.results.runs:
        return f"Only Fisher information was measured ({setting(cells)}); there are no runs."
    config = cells.results.runs[0].config
    protocol = config.protocol
    if (config.model, protocol.name) == (published.MODEL, "paper"):
        return ""
    sample = f"at most {protocol.max_train:,} training examples" if protocol.max_train else "all training examples"
    return (
        f"These are runs of {config.model} under the protocol {protocol.name} ({sample}, {protocol.epochs}"
        f" epoch{'s' * (protocol.epochs > 1)}, dropout {'on' if protocol.dropout else 'off'}), scored on dev. The"
        " paper’s numbers are BERT-large-cased’s, 20 epochs on all examples: compare orders and differences with them,"
        " not levels."
    )


def _near(cells: Cells) -> str:
    """Where methods hardly score more than one answer for all."""
    near = []
    for column in cells.ran:
        low = cells.floor(column, sampled=True)
        found = [cell for cell in (cells.cell(method, column) for method in cells.whole) if cell.complete]
        under = [named(cell.method) for cell in found if low is not None and (cell.mean or 0.0) - low < NEAR]
        if under:
            near.append(f"{column.title} ({'every method' if len(under) == len(found) else ', '.join(under)})")
    if not near:
        return ""
    return (
        f"Less than {100 * NEAR:g} points above giving one answer to every example: {', '.join(near)}. Such scores say"
        " little about which entries to train."
    )
