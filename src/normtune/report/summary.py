"""What strikes in the results and deserves a sentence at the top of the page."""

from __future__ import annotations

from normtune.importance.ranking import component_means
from normtune.records.results import Results
from normtune.report.baselines import near_floor, other_dev
from normtune.report.figures import fractions
from normtune.report.scores import PAPER, Scores
from normtune.report.tables import METHODS, NAMES, setting, table1_sums
from normtune.statistics import published


def findings(scores: Scores, results: Results) -> list[str]:
    """Sentences, the one that matters most for reading the rest first."""
    said = [_what(scores, results), *_floors(scores, results), *_spread(scores), *_ranks(results)]
    said += [_other(results, scores), *_open(scores)]
    return [sentence for sentence in said if sentence]


def _what(scores: Scores, results: Results) -> str:
    if not results.runs:
        return f"Only Fisher information was measured ({setting(results)}); there are no runs."
    protocol = results.runs[0].config.protocol
    sample = f"at most {protocol.max_train:,} training examples" if protocol.max_train else "all training examples"
    return (
        f"These are runs of {results.runs[0].config.model} under the protocol {protocol.name} ({sample},"
        f" {protocol.epochs} epochs, dropout {'on' if protocol.dropout else 'off'}), scored on dev. The paper’s numbers"
        f" are BERT-large-cased’s, 20 epochs on all examples: read orders and differences beside them, not levels."
        if (results.runs[0].config.model, protocol.name) != (published.MODEL, "paper")
        else ""
    )


def _floors(scores: Scores, results: Results) -> list[str]:
    near = []
    for column in scores.ran:
        low = near_floor(scores, column, results.done, METHODS)
        whole = [method for method in METHODS if scores.cell(method, column).complete]
        if low:
            names = "every method" if low == whole else _and([NAMES[method] for method in low])
            near.append(f"on {column.title} {names}")
    if not near:
        return []
    return [
        f"Not clear of giving one answer to every example, by two standard errors: {_and(near, '; ')}. Such"
        " scores say little about which entries to train."
    ]


def _spread(scores: Scores) -> list[str]:
    """Where the methods differ most: the task that decides the comparisons."""
    gaps = {}
    for column in scores.ran:
        means = [
            cell.mean
            for method in METHODS
            if method != "head" and (cell := scores.cell(method, column)).complete and cell.mean is not None
        ]
        if len(means) > 1:
            gaps[column.title] = max(means) - min(means)
    if len(gaps) < 2:
        return []
    most = max(gaps, key=lambda name: gaps[name])
    return [
        f"The methods, head apart, lie furthest apart on {most} ({100 * gaps[most]:.1f} points), and"
        f" {min(100 * gap for gap in gaps.values()):.1f} points where they lie closest."
    ]


def _ranks(results: Results) -> list[str]:
    order = list(table1_sums(results.fisher))
    theirs = list(published.RANKING)
    if not {*theirs} <= {*order}:
        return []
    own = [name for name in order if name in theirs]
    pairs = [(a, b) for place, a in enumerate(theirs) for b in theirs[place + 1 :]]
    same = sum(own.index(a) < own.index(b) for a, b in pairs)
    first = {max(component_means(each.information).items(), key=lambda item: item[1])[0] for each in results.fisher}
    everywhere = f", first on every one of {len(results.fisher)} tasks" if len(first) == 1 else ""
    return [
        f"Table 1 begins with {own[0]}{everywhere}, then {own[1]}; {same} of {len(pairs)} pairs of components stand in"
        " the paper’s order."
    ]


def _other(results: Results, scores: Scores) -> str:
    found = {c.title: size for c in PAPER if c in scores.ran and (size := other_dev(c, results.done)) is not None}
    named = [f"{name} ({size:,} examples)" for name, size in found.items()]
    return f"Not GLUE’s dev set, so not to be compared with anyone’s: {_and(named)}." if named else ""


def _open(scores: Scores) -> list[str]:
    if not scores.methods:
        return []
    masks = any(fractions(scores, f"fisher-{scope}") for scope in ("individual", "global", "leave-one-out"))
    return [] if masks else ["No mask has been trained yet, so figures 2 and 5 have their ends only."]


def _and(names: list[str], comma: str = ", ") -> str:
    *most, last = names
    return f"{comma.join(most)}{comma if comma != ', ' else ' '}and {last}" if most else last
