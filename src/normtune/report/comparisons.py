"""The statistics of the report: methods against LayerNorm, on our scores and on the paper's printed ones."""

from __future__ import annotations

from normtune.report.cells import PRINTED, Cells, named
from normtune.report.table import Entry, EntryKind, Table, group, remark, signed
from normtune.statistics import published
from normtune.statistics.comparison import Comparison, Pair, compare, upwards, warnings
from normtune.statistics.paired import LEAST, p_value
from normtune.statistics.scores import grouped

AGAINST = "layernorm"
_HEADER = (
    "compared",
    "paired tests say",
    "values",
    "mean difference",
    "95 % interval",
    "higher / lower",
    "Wilcoxon p",
    "Holm",
    "least p",
    "Kruskal-Wallis p",
    "TOST p (±1)",
    "least margin",
)
_SAID: dict[str, tuple[str, EntryKind]] = {
    "equivalent": ("equivalent", "good"),
    "undecided": ("undecided", "note"),
    "different": ("different", "best"),
    "different within the margin": ("different, within ±1", "best"),
}


def ours_table(cells: Cells) -> Table:
    """Our methods against LayerNorm, on the tasks where each of them has all seeds."""
    comparison, notes = against_layernorm(cells)
    groups = () if comparison is None else (group(map(_row, comparison.pairs)),)
    title = "Statistics: LayerNorm against the other methods, measured here."
    return Table("statistics", title, _HEADER, groups, CAPTION, notes, texts=2)


def against_layernorm(cells: Cells) -> tuple[Comparison | None, tuple[str, ...]]:
    """Every other method compared with LayerNorm, or None if there are too few tasks, and notes on it."""
    full = {method: {task for task in cells.tasks if cells.complete(method, task)} for method in cells.whole}
    methods = [method for method in cells.whole if len(full[method]) >= LEAST]
    dropped = []
    while len(methods) > 2 and len(set.intersection(*(full[method] for method in methods))) < LEAST:
        # Drop the last one of those with the fewest tasks.
        dropped.append(min((m for m in reversed(methods) if m != AGAINST), key=lambda method: len(full[method])))
        methods.remove(dropped[-1])
    tasks = [task for task in cells.order(cells.tasks) if all(task in full[method] for method in methods)]
    left = [cells.title(task) for task in cells.order(cells.tasks) if task not in tasks]
    notes = (
        *remark("Left out, since a compared method lacks runs there", left),
        *remark("Left out, since it shares too few tasks with the others", [*map(named, dropped)]),
    )
    if len(tasks) < LEAST or len(methods) < 2 or AGAINST not in methods:
        return None, ("Fewer than three tasks have all runs of LayerNorm and another method: no test.", *notes)
    few = [named(method) for method in cells.whole if len(full[method]) < LEAST]
    comparison = compare(cells.scores(methods, tasks), AGAINST)
    few_note = remark(f"Left out, since fewer than {LEAST} tasks have all its runs", few)
    return comparison, (*few_note, *notes, *warnings(comparison))


def theirs_table(cells: Cells | None = None) -> Table:
    """The paper's methods on its own scores: each split with nine values and with one per task, and both pooled.

    It is empty if `cells` has none of the paper's tasks.
    """
    beside = cells is None or {*cells.ran} & {*PRINTED}
    sets = {}
    for split in ("dev", "test"):
        scores = published.scores(split)
        sets[f"{split}, nine values"] = compare(scores, AGAINST)
        sets[f"{split}, one value a task"] = compare(grouped(scores), AGAINST)
    sets["dev and test pooled, as in the paper (not independent)"] = compare(published.scores("pooled"), AGAINST)
    return Table(
        "statistics-paper",
        "Statistics: the paper’s own scores (tables 2 and 3, BERT-large-cased).",
        _HEADER,
        tuple(group(map(_row, each.pairs), name) for name, each in sets.items()) if beside else (),
        "The same tests on the paper’s printed scores, each of one run. The notes are about dev with nine values.",
        tuple(warnings(sets["dev, nine values"])),
        texts=2,
    )


CAPTION = (
    "Scores are paired by task. Wilcoxon p is that of the signed-rank test, from its exact permutation distribution;"
    " Holm is the same p, corrected for the number of pairs; least p is the smallest that this number of values allows."
    " The interval of the mean difference (× 100) is Student’s t, over tasks and seeds. TOST tests whether the"
    " difference is smaller than one point (Holm-corrected); least margin is the smallest that passes. Kruskal-Wallis,"
    " the paper’s test, treats the scores as if they were from unrelated tasks."
)


def _row(pair: Pair) -> tuple[str | Entry, ...]:
    said, kind = _SAID[pair.verdict]
    return (
        f"{named(pair.first)} − {named(pair.second)}",
        Entry(said, kind=kind),
        str(pair.wins + pair.losses + pair.ties),
        signed(100 * pair.mean),
        " to ".join(signed(100 * end) for end in pair.interval),
        f"{pair.wins} / {pair.losses}",
        *map(p_value, (pair.signed_rank.p, pair.holm, pair.signed_rank.smallest)),
        p_value(pair.unpaired, 5),
        p_value(pair.equivalence_holm),
        upwards(100 * pair.smallest_margin_holm, 1),
    )
