"""The paper's own tables 2 and 3 under the tests that their question needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normtune.cli.compared import Sheet, p_value, upwards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.statistics.comparison import Pair, Settings

PAIRS = (("bitfit", "layernorm"), ("layernorm", "random"))
#: What follows from the numbers.
FOLLOWS = (
    "The unpaired test cannot tell layernorm from random either, so its large p for bitfit and layernorm is no evidence"
    " that the two are equal; with every row, the paired test tells both pairs apart. Each p stands for one"
    " comparison, uncorrected. Dev and test pooled is shown as the paper's: a task's two scores come from one model and"
    " are not independent."
)
_SPLITS = ("dev", "test", "pooled")


@dataclass(frozen=True)
class Line:
    """One pair on one of the paper's tables.

    Attributes:
        split: ``dev``, ``test`` or ``pooled``.
        unit: ``rows``, or ``tasks`` where each has one value.
        count: How many of them.
        pair: The tests.
        printed: The p that the paper prints.
    """

    split: str
    unit: str
    count: int
    pair: Pair
    printed: float | None


def paper_lines(settings: Settings) -> list[Line]:
    """Every test on the paper's numbers, with every row and with one value a task, beside what the paper prints."""
    from normtune.statistics.comparison import compare
    from normtune.statistics.published import KRUSKAL_WALLIS, scores
    from normtune.statistics.scores import grouped, same_task

    lines = []
    for methods in PAIRS:
        for split in _SPLITS:
            rows = scores(split)
            for unit, taken in (("rows", rows), ("tasks", grouped(rows, same_task(rows.tasks)))):
                as_printed = methods == PAIRS[0] and unit == "rows"
                if split == "pooled" and not as_printed:
                    continue
                (pair,) = compare(taken, [methods], settings=settings).pairs
                lines.append(Line(split, unit, len(taken), pair, KRUSKAL_WALLIS[split] if as_printed else None))
    return lines


def paper_sheets(lines: Sequence[Line], settings: Settings) -> list[Sheet]:
    """The lines for people, a table a pair."""
    header = (
        *("values", "mean", "Kruskal-Wallis p", "in the paper", "exact Wilcoxon p"),
        *(f"TOST p, margin {settings.margin:g}", "smallest margin"),
    )
    return [
        Sheet(
            f"{first} - {second}, the paper's tables 2 (dev) and 3 (test)",
            header,
            tuple(_row(line) for line in lines if (line.pair.first, line.pair.second) == (first, second)),
            left=1,
        )
        for first, second in PAIRS
    ]


def _row(line: Line) -> tuple[str, ...]:
    pair = line.pair
    unpaired = p_value(pair.unpaired, 5), "" if line.printed is None else p_value(line.printed, 5)
    if line.split == "pooled":  # the other tests would take the rows as independent too
        return (f"pooled, {line.count} {line.unit}: not independent", "", *unpaired, "", "", "")
    paired = p_value(pair.signed_rank.p), p_value(pair.equivalence.p), upwards(pair.equivalence.smallest)
    return (f"{line.split}, {line.count} {line.unit}", f"{pair.effect.mean:+.4f}", *unpaired, *paired)


def paper_plain(lines: Sequence[Line]) -> list[dict[str, object]]:
    """The lines for programs."""
    return [{**dataclasses.asdict(line), "independent": line.split != "pooled"} for line in lines]
