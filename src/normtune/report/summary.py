"""What strikes in the results and deserves a sentence at the top of the page."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from normtune.importance.ranking import component_means
from normtune.report.baselines import near_floor, other_dev
from normtune.report.cells import Cells, named
from normtune.report.tables import paper_ranks, setting, table1_sums
from normtune.statistics import published


def findings(cells: Cells) -> list[str]:
    """Sentences, the one that matters most for reading the rest first."""
    said = [_what(cells), *_floors(cells), *_spread(cells), *_ranks(cells), _other(cells), *_open(cells)]
    return [sentence for sentence in said if sentence]


def _what(cells: Cells) -> str:
    if not cells.results.runs:
        return f"Only Fisher information was measured ({setting(cells)}); there are no runs."
    config = cells.results.runs[0].config
    protocol = config.protocol
    if (config.model, protocol.name) == (published.MODEL, "paper"):
        return ""
    sample = f"at most {protocol.max_train:,} training examples" if protocol.max_train else "all training examples"
    return (
        f"These are runs of {config.model} under the protocol {protocol.name} ({sample}, {protocol.epochs} epochs,"
        f" dropout {'on' if protocol.dropout else 'off'}), scored on dev. The paper’s numbers are BERT-large-cased’s,"
        " 20 epochs on all examples: read orders and differences beside them, not levels."
    )


def _floors(cells: Cells) -> list[str]:
    near = []
    for column in cells.ran:
        low = near_floor(column, cells, cells.whole)
        if low:
            every = low == [method for method in cells.whole if cells.cell(method, column).complete]
            near.append(f"on {column.title} {'every method' if every else joined(map(named, low))}")
    if not near:
        return []
    return [
        f"Not clear of giving one answer to every example, by two standard errors: {joined(near, '; ')}. Such"
        " scores say little about which entries to train."
    ]


def _spread(cells: Cells) -> list[str]:
    """Where the methods differ most: the task that decides the comparisons."""
    gaps = {}
    for column in cells.ran:
        found = [cells.cell(method, column) for method in cells.whole if method != "head"]
        means = [cell.mean for cell in found if cell.complete and cell.mean is not None]
        if len(means) > 1:
            gaps[column.title] = max(means) - min(means)
    if len(gaps) < 2:
        return []
    most = max(gaps, key=lambda name: gaps[name])
    return [
        f"The methods, head apart, lie furthest apart on {most} ({100 * gaps[most]:.1f} points), and"
        f" {min(100 * gap for gap in gaps.values()):.1f} points where they lie closest."
    ]


def _ranks(cells: Cells) -> list[str]:
    """How table 1 begins, and how far it stands in the paper's order."""
    ours = list(table1_sums(cells))
    if len(ours) < 2:
        return []
    theirs = paper_ranks(cells)
    pairs = [(theirs[a], theirs[b]) for a, b in combinations([name for name in ours if name in theirs], 2)]
    same = sum(a < b for a, b in pairs)
    fisher = cells.results.fisher
    first = {max(means, key=lambda name: means[name]) for means in (component_means(f.information) for f in fisher)}
    everywhere = f", first on every one of {len(fisher)} tasks" if len(first) == 1 else ""
    order = f"; {same} of {len(pairs)} pairs of components stand in the paper’s order" if pairs else ""
    return [f"Table 1 begins with {ours[0]}{everywhere}, then {ours[1]}{order}."]


def _other(cells: Cells) -> str:
    found = {column.title: size for column in cells.ran if (size := other_dev(column, cells)) is not None}
    names = [f"{name} ({size:,} examples)" for name, size in found.items()]
    return f"Not GLUE’s dev set, so not to be compared with anyone’s: {joined(names)}." if names else ""


def _open(cells: Cells) -> list[str]:
    if not cells.methods or cells.masks():
        return []
    return ["No mask has been trained yet, so figures 2 and 5 have their ends only."]


def joined(names: Iterable[str], comma: str = ", ") -> str:
    """Names in a sentence: ``a, b and c``."""
    *most, last = names
    return f"{comma.join(most)}{comma if comma != ', ' else ' '}and {last}" if most else last
