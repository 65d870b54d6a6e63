"""The statistics of the report: methods against LayerNorm, on our scores and on those that the paper printed."""

from __future__ import annotations

from normtune.report.cells import Cells, named
from normtune.report.table import Entry, Kind, Table, group, signed
from normtune.statistics import published
from normtune.statistics.comparison import Comparison, Pair, compare, pairs_of
from normtune.statistics.conclusions import warnings
from normtune.statistics.paired import LEAST, p_value
from normtune.statistics.scores import Scores, grouped

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
_SAID: dict[str, tuple[str, Kind]] = {
    "equivalent": ("equivalent", "good"),
    "undecided": ("undecided", "note"),
    "different": ("different", "best"),
    "different within the margin": ("different, within ±1", "best"),
}


def ours(cells: Cells) -> tuple[Comparison | None, tuple[str, ...]]:
    """Our methods against LayerNorm, on the tasks where every one of them has all of its seeds.

    Returns:
        The comparison, or None where there are too few such tasks; and the tasks that were left out.
    """
    full = {method: {task for task in cells.tasks if cells.complete(method, task)} for method in cells.whole}
    methods = [method for method in cells.whole if len(full[method]) >= LEAST]
    tasks = [task for task in cells.order(cells.tasks) if all(task in full[method] for method in methods)]
    left = tuple(cells.title(task) for task in cells.order(cells.tasks) if task not in tasks)
    if len(tasks) < LEAST or len(methods) < 2 or AGAINST not in methods:
        return None, left
    return _against(cells.scores(methods, tasks)), left


def _against(scores: Scores) -> Comparison:
    return compare(scores, pairs_of(scores, AGAINST))


def theirs() -> dict[str, Comparison]:
    """The paper's methods against LayerNorm: each split with nine values and with one a task, and both pooled."""
    found = {}
    for split in ("dev", "test"):
        scores = published.scores(split)
        found[f"{split}, nine values"] = _against(scores)
        found[f"{split}, one value a task"] = _against(grouped(scores))
    found["dev and test pooled, as in the paper (not independent)"] = _against(published.scores("pooled"))
    return found


def ours_table(cells: Cells) -> Table:
    """Our methods compared."""
    comparison, left = ours(cells)
    notes = [] if comparison else ["Fewer than three tasks have all runs of LayerNorm and another method: no test."]
    if left:
        notes.append(f"Left out, since a compared method lacks runs there: {', '.join(left)}.")
    return Table(
        "statistics",
        "Statistics: LayerNorm against the others, here.",
        _HEADER,
        (group(map(_row, comparison.pairs)),) if comparison else (),
        CAPTION,
        (*notes, *(warnings(comparison) if comparison else ())),
        texts=2,
    )


def theirs_table() -> Table:
    """The paper's methods compared on its own printed scores."""
    sets = theirs()
    dev = sets["dev, nine values"]
    return Table(
        "statistics-paper",
        "Statistics: the paper’s own scores (tables 2 and 3, BERT-large-cased).",
        _HEADER,
        tuple(group(map(_row, each.pairs), name) for name, each in sets.items()),
        "The same tests on what the paper printed, one run a value. The notes are on dev with nine values.",
        tuple(warnings(dev)),
        texts=2,
    )


CAPTION = (
    "Scores are paired by task, so Wilcoxon’s signed-rank test is taken by its exact permutation distribution,"
    " corrected by Holm for the number of pairs; least p is the smallest that so few values allow. The interval of"
    " the mean difference (× 100) is bootstrapped over tasks and seeds. TOST asks whether the difference is smaller"
    " than one point (corrected likewise); least margin is the smallest that passes. Kruskal-Wallis, the paper’s"
    " test, takes the scores as if they were of unrelated tasks."
)


def _row(pair: Pair) -> tuple[str | Entry, ...]:
    effect = pair.effect
    said, kind = _SAID[pair.verdict]
    return (
        f"{named(pair.first)} − {named(pair.second)}",
        Entry(said, kind=kind),
        str(effect.wins + effect.losses + effect.ties),
        signed(100 * effect.mean),
        " to ".join(signed(100 * end) for end in pair.interval),
        f"{effect.wins} / {effect.losses}",
        *map(p_value, (pair.signed_rank.p, pair.holm, pair.signed_rank.smallest)),
        p_value(pair.unpaired, 5),
        p_value(pair.equivalence_holm),
        f"{100 * pair.smallest_margin:.1f}",
    )
