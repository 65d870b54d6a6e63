"""What lies behind the numbers: the records, and all that was chosen for them, as tables for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from normtune.records.fisher import FisherRecord
from normtune.records.results import Results
from normtune.records.run import Record
from normtune.report.scores import Scores, anchor, order, title
from normtune.report.table import Entry, Group, Table
from normtune.report.tables import METHODS


@dataclass(frozen=True)
class Shelf:
    """The records behind one cell, or one measurement of Fisher information.

    Attributes:
        anchor: Its place on the page.
        title: What it is.
        summary: How much of it there is.
        table: The records.
    """

    anchor: str
    title: str
    summary: str
    table: Table


class Marks:
    """Short names for the machines and the sets of versions that occur, in the order in which they are met."""

    def __init__(self, letter: str) -> None:
        self._letter = letter
        self.known: dict[str, str] = {}

    def __call__(self, facts: Mapping[str, str | int]) -> str:
        """The short name of `facts`."""
        text = ", ".join(f"{name} {value}" for name, value in facts.items())
        return self.known.setdefault(text, f"{self._letter}{len(self.known) + 1}")

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Short names and what they stand for."""
        return [(name, text) for text, name in self.known.items()]


def shelves(results: Results, scores: Scores, machines: Marks, versions: Marks) -> list[Shelf]:
    """Every record: runs by method and task, then the Fisher information of each task."""
    runs: dict[tuple[str, str], list[Record]] = {}
    for run in results.runs:
        runs.setdefault((run.config.method, run.config.task), []).append(run)
    methods = sorted({method for method, _ in runs}, key=lambda m: (METHODS.index(m) if m in METHODS else 9, m))
    found = []
    for method in methods:
        for task in order(task for own, task in runs if own == method):
            chosen = {run.id for run in scores.chosen.get((method, task), {}).values()}
            found.append(_runs(method, task, runs[method, task], chosen, machines, versions))
    by_task = {each.config.task: each for each in results.fisher}
    return [*found, *(_fisher(by_task[task], machines, versions) for task in order(by_task))]


def _runs(method: str, task: str, runs: list[Record], chosen: set[str], machines: Marks, versions: Marks) -> Shelf:
    rows = []
    for run in sorted(runs, key=lambda run: (run.config.rate, run.config.seed)):
        shown = run.id in chosen
        rows.append((
            Entry(run.id, kind="best" if shown else "", tip="shown in the tables" if shown else "of the search only"),
            Entry(f"{run.config.rate:g}"),
            Entry(str(run.config.seed)),
            Entry(run.status, kind="missing", tip=run.error or "") if run.score is None
            else Entry(f"{100 * run.score:.2f}", tip=_every_metric(run)),
            Entry(str(run.best_epoch or "—")),
            Entry(f"{run.counts.selected:,}"),
            Entry(f"{run.seconds:,.0f}"),
            Entry(f"{run.peak_memory / 2**20:,.0f}"),
            Entry(machines(run.machine)),
            Entry(versions(run.versions)),
        ))  # fmt: skip
    header = ("record", "rate", "seed", "score × 100", "best epoch", "entries", "seconds", "peak MiB", "machine",
              "versions")  # fmt: skip
    name = anchor(method, task)
    count = len({run.config.seed for run in runs if run.id in chosen})
    summary = f"{len(runs)} runs; {count} seed{'s' * (count != 1)} at the rate shown"
    return Shelf(name, f"{method} on {title(task)}", summary, Table(name, "", header, (Group("", tuple(rows)),)))


def _every_metric(run: Record) -> str:
    return "\n".join(
        f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in own.items())
        for split, own in run.scores.items()
    )


def _fisher(fisher: FisherRecord, machines: Marks, versions: Marks) -> Shelf:
    config = fisher.config
    row = (
        Entry(fisher.id, kind="best"),
        Entry(config.estimator.name),
        Entry(", ".join(map(str, config.head_seeds))),
        Entry(f"{fisher.examples:,}"),
        Entry(str(config.max_length)),
        Entry(f"{fisher.seconds:,.0f}"),
        Entry(machines(fisher.machine)),
        Entry(versions(fisher.versions)),
    )
    header = ("record", "estimator", "head seeds", "examples", "tokens at most", "seconds", "machine", "versions")
    name = f"fisher-{config.task}"
    return Shelf(name, f"Fisher information on {title(config.task)}", f"{fisher.examples:,} examples",
                 Table(name, "", header, (Group("", (row,)),), texts=2))  # fmt: skip


def facts(results: Results, scores: Scores) -> list[tuple[str, str]]:
    """What was chosen for all of it: model, protocol, seeds and the like."""
    runs, fisher = results.runs, results.fisher
    every: list[Record | FisherRecord] = [*runs, *fisher]
    first = every[0]
    config = first.config
    said = [
        ("model", f"{config.model}{f', {config.revision}' if config.revision else ''}, {config.dtype}"),
        ("identity of the base", first.base_identity[:16]),
    ]
    if runs:
        counts = runs[0].counts
        said.append(("entries of the pre-trained model", f"{counts.total - counts.head:,}"))
        protocol = runs[0].config.protocol.model_dump()
        said.append(("protocol", str(protocol.pop("name"))))
        said += [(_WORDS.get(name, name), _said(name, value)) for name, value in protocol.items()]
        said.append(("seeds", ", ".join(map(str, scores.seeds))))
    if fisher:
        heads = sorted({seed for each in fisher for seed in each.config.head_seeds})
        said.append(("seeds of the heads, for Fisher information", ", ".join(map(str, heads))))
    hours = sum(each.seconds for each in every) / 3600
    counts_of: Counter[str] = Counter(run.status for run in runs)
    words = {"failed": "failed", "pruned": "dropped early"}
    unfinished = "".join(f", {counts_of[name]} {word}" for name, word in words.items() if counts_of[name])
    said.append(("records", f"{len(runs)} runs{unfinished}; {len(fisher)}"
                 f" measurements of Fisher information; {hours:.1f} hours in all"))  # fmt: skip
    return said


_WORDS = {
    "batch_size": "batch size",
    "max_length": "tokens at most",
    "warmup_fraction": "warm-up, of all steps",
    "weight_decay": "weight decay",
    "clip": "gradient clipped to",
    "held_out": "rate and epoch picked on",
    "max_train": "training examples at most",
    "max_dev": "dev examples at most",
    "rates": "rates of a grid tried",
    "sample_seed": "seed of the samples",
}


def _said(name: str, value: object) -> str:
    if name == "held_out":
        return f"a slice of train ({value:g})" if isinstance(value, float) and value else "dev, as the paper does"
    if isinstance(value, bool):
        words = ("on", "off") if name == "dropout" else ("yes", "no")
        return words[not value]
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def data_table(results: Results) -> Table:
    """On which data: sizes, samples and hashes."""
    # Only a finished run knows how many texts were cut.
    by_task = {run.config.task: run for run in (*results.runs, *results.done)}
    measured = {each.config.task: each for each in results.fisher}
    rows = []
    for task in order({*by_task, *measured}):
        run, fisher = by_task.get(task), measured.get(task)
        rows.append((
            Entry(title(task)),
            Entry(run.data.source if run else fisher.source if fisher else ""),
            _sizes((run.data.train, run.data.train_of) if run else None),
            _sizes((run.data.dev, run.data.dev_of) if run else None),
            Entry(f"{sum(run.data.truncated.values()):,}") if run else Entry("—", kind="missing"),
            _examples(fisher, run),
            Entry((run.data.identity.get("train", "") if run else fisher.identity if fisher else "")[:8]),
        ))  # fmt: skip
    header = ("task", "source", "trained on", "scored on", "texts cut", "Fisher information on", "train’s hash")
    caption = "Examples; where a sample was taken, of how many. The same samples for every run."
    return Table("data", "Data.", header, (Group("", tuple(rows)),), caption, texts=2)


def _sizes(sizes: tuple[int, int] | None) -> Entry:
    if sizes is None:
        return Entry("—", kind="missing")
    return Entry(f"{sizes[0]:,}" if sizes[0] == sizes[1] else f"{sizes[0]:,} of {sizes[1]:,}")


def _examples(fisher: FisherRecord | None, run: Record | None) -> Entry:
    if fisher is None:
        return Entry("—", kind="missing")
    whole = fisher.available
    if run is not None and run.data.identity.get("train") == fisher.identity:
        whole = run.data.train_of  # the measurement was given a sample already
    return _sizes((fisher.examples, whole))
