"""What strikes in the results and deserves a sentence at the top of the page."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from normtune.importance.ranking import component_means
from normtune.report.cells import PRINTED, Cells, named
from normtune.report.tables import DEV, floor, paper_ranks, setting, table1_sums
from normtune.statistics import published

#: A score that is less than this above one answer for all is near it.
_NEAR = 0.05


def findings(cells: Cells) -> list[str]:
    """Sentences, the one that matters most for reading the rest first."""
    said = [_what(cells), _floors(cells), _ranks(cells), _other(cells)]
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


def _floors(cells: Cells) -> str:
    """Where methods hardly score more than one answer for all."""
    near = []
    for column in cells.ran:
        low = floor(column, cells)
        found = [cell for cell in (cells.cell(method, column) for method in cells.whole) if cell.complete]
        under = [named(cell.method) for cell in found if low is not None and (cell.mean or 0.0) - low < _NEAR]
        if under:
            near.append(f"on {column.title} {'every method' if len(under) == len(found) else joined(under)}")
    if not near:
        return ""
    return (
        f"Less than {100 * _NEAR:g} points above giving one answer to every example: {joined(near, '; ')}. Such scores"
        " say little about which entries to train."
    )


def _ranks(cells: Cells) -> str:
    """How table 1 begins, and how far it stands in the paper's order."""
    ours = list(table1_sums(cells))
    if len(ours) < 2:
        return ""
    theirs = paper_ranks(cells)
    pairs = [(theirs[a], theirs[b]) for a, b in combinations([name for name in ours if name in theirs], 2)]
    same = sum(a < b for a, b in pairs)
    means = [component_means(each.information) for each in cells.results.fisher]
    first = {max(own, key=lambda name: own[name]) for own in means}
    everywhere = f", first on every one of {len(means)} tasks" if len(first) == 1 else ""
    order = f"; {same} of {len(pairs)} pairs of components stand in the paper’s order" if pairs else ""
    return f"Table 1 begins with {ours[0]}{everywhere}, then {ours[1]}{order}."


def _other(cells: Cells) -> str:
    """Columns of GLUE whose dev set is another one."""
    names = []
    for column in cells.ran:
        sizes = {run.data.dev_of for run in cells.results.done if run.config.task == column.task}
        if column in PRINTED and column.split == "dev" and sizes - {DEV[column.title][0]}:
            names.append(f"{column.title} ({max(sizes):,} examples)")
    return f"Not GLUE’s dev set, so not to be compared with anyone’s: {joined(names)}." if names else ""


def joined(names: Iterable[str], comma: str = ", ") -> str:
    """Names in a sentence: ``a, b and c``."""
    *most, last = names
    return f"{comma.join(most)}{comma if comma != ', ' else ' '}and {last}" if most else last
