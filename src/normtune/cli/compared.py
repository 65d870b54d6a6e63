"""How a comparison of methods reads: a table a question, a sentence a conclusion; for people, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from normtune.statistics.comparison import Comparison, Pair


_HEADER = 10  # characters of a column's name that fit over its numbers


@dataclass(frozen=True)
class Case:
    """One table of scores, compared.

    Attributes:
        rows: The comparison with every row for itself, or None where only one value a task is wanted.
        tasks: The comparison with one value a task, or None where every row is a task.
        groups: For each task of several rows its rows.
        facts: Sentences about the scores.
    """

    rows: Comparison | None
    tasks: Comparison | None
    groups: Mapping[str, Sequence[str]]
    facts: tuple[str, ...]

    @property
    def sets(self) -> list[tuple[str, Comparison]]:
        """What is shown: how many values there are, and the comparison."""
        found = []
        if self.rows is not None:
            found.append((f"{len(self.rows.scores)} {'rows' if self.tasks else 'tasks'}", self.rows))
        if self.tasks is not None:
            found.append((f"{len(self.tasks.scores)} tasks", self.tasks))
        return found

    @property
    def last(self) -> Comparison:
        """What is concluded from: one value a task, where there is that."""
        return self.sets[-1][1]


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        title: The question it answers.
        header: Names of the columns.
        rows: The cells.
        left: How many columns from the left hold names.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 2


def p_value(p: float, digits: int = 4) -> str:
    """A p to some digits; what is smaller than they can say is said to be."""
    least = 10.0**-digits
    return f"< {least:.{digits}f}" if p < least else f"{p:.{digits}f}"


def _stated(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def sheets(case: Case) -> list[Sheet]:
    """The questions, each with a row for every pair and set of values."""
    settings = case.last.settings
    return [
        _sheet(
            case,
            "How large is the difference?",
            ("mean", "median", "wins / losses / ties", f"{1 - settings.alpha:.0%} interval of the mean"),
            lambda pair: (
                f"{pair.effect.mean:+.4f}",
                f"{pair.effect.median:+.4f}",
                f"{pair.effect.wins} / {pair.effect.losses} / {pair.effect.ties}",
                interval(pair),
            ),
        ),
        _sheet(
            case,
            "Is there a difference? Wilcoxon's signed-rank test, exact",
            ("p", "p, Holm", "p, Benjamini-Hochberg"),
            lambda pair: (p_value(pair.signed_rank.p), p_value(pair.holm), p_value(pair.fdr)),
        ),
        _sheet(
            case,
            f"Is it smaller than {settings.margin:g}? Two one-sided paired t-tests",
            ("p", "p, Holm", "smallest margin", "smallest, Holm"),
            lambda pair: (
                p_value(pair.equivalence.p),
                p_value(pair.equivalence_holm),
                upwards(pair.equivalence.smallest),
                upwards(pair.smallest_margin),
            ),
        ),
        _sheet(
            case,
            "What does the unpaired test see? Kruskal-Wallis, as in the paper",
            ("p", "against the paired test"),
            lambda pair: (
                p_value(pair.unpaired, 5),
                "misses a difference" if pair.overlooked else "",
            ),
        ),
    ]


def _sheet(case: Case, title: str, names: tuple[str, ...], cells: Callable[[Pair], tuple[str, ...]]) -> Sheet:
    together = [
        (f"{pair.first} - {pair.second}", values, *cells(pair))
        for pairs in zip(*([(values, pair) for pair in c.pairs] for values, c in case.sets), strict=True)
        for values, pair in pairs
    ]
    return Sheet(title, ("first - second", "values", *names), tuple(together))


def upwards(margin: float) -> str:
    """A margin that passes, rounded up, since one rounded down would not."""
    return f"{math.ceil(margin * 1e4 - 1e-9) / 1e4:.4f}"


def interval(pair: Pair) -> str:
    """The bootstrap interval."""
    return f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}"


def sentence(pair: Pair) -> str:
    """What follows for a pair, in words."""
    margin, rank = f"{pair.equivalence.margin:g}", pair.signed_rank
    mean = f"mean difference {pair.effect.mean:+.4f}, {1 - pair.alpha:.0%} interval {interval(pair)}"
    tested = f"Wilcoxon {_stated(rank.p)}" + ("" if pair.holm == rank.p else f", {p_value(pair.holm)} after Holm")
    tost = f"TOST {_stated(pair.equivalence_holm)}" + (
        "" if pair.equivalence_holm == pair.equivalence.p else " after Holm"
    )
    if not pair.different:
        if pair.equivalent:
            return f"{pair.first} and {pair.second} are equivalent within {margin}: {mean}; {tost}."
        return (
            f"{pair.first} and {pair.second} cannot be told apart, nor shown to be equivalent within {margin}: {mean};"
            f" {tested}; the smallest margin that passes is {upwards(pair.smallest_margin)}."
        )
    up = rank.positive > rank.negative
    better, worse = (pair.first, pair.second) if up else (pair.second, pair.first)
    but = "" if (pair.effect.mean > 0) == up else " on most tasks, though not on average"
    within = f", but by less than {margin}" if pair.equivalent else ""
    proof = f"; {tost}" if pair.equivalent else ""
    return f"{better} scores higher than {worse}{but}{within}: {mean}; {tested}{proof}."


def notes(case: Case) -> list[str]:
    """What a reader should be warned of."""
    return [text for text in (_few(case.last), _overlooked(case.last), _seeds(case.last)) if text]


def _few(comparison: Comparison) -> str:
    from normtune.statistics.paired import smallest_p

    pairs, tasks, alpha = len(comparison.pairs), len(comparison.scores), comparison.settings.alpha
    if smallest_p(tasks) * pairs <= alpha:
        return ""
    enough = next(number for number in range(tasks, 100) if smallest_p(number) * pairs <= alpha)
    corrected = f", {p_value(min(1.0, smallest_p(tasks) * pairs))} after Holm" if pairs > 1 else ""
    comparisons = f"{pairs} comparisons" if pairs > 1 else "one comparison"
    return (
        f"With {tasks} tasks the exact test cannot give a p below {p_value(smallest_p(tasks))}{corrected}, however"
        f" clear the difference; for {comparisons} at {alpha:g} it takes at least {enough} tasks. The intervals are"
        " narrower than they say where tasks are that few."
    )


def _overlooked(comparison: Comparison) -> str:
    missed = [pair for pair in comparison.pairs if pair.overlooked]
    if not missed:
        return ""
    chance = [pair for pair in missed if "random" in {pair.first, pair.second}]
    named = ", ".join(f"{pair.first} from {pair.second} (p = {p_value(pair.unpaired, 5)})" for pair in chance or missed)
    return (
        f"The unpaired test cannot tell {'even ' if chance else ''}{named}, where the paired test can: it sets the"
        " difference of methods against the far larger one of tasks. A large p of it is no evidence of equivalence."
    )


def _seeds(comparison: Comparison) -> str:
    if max(len(seeds) for seeds in comparison.scores.seeds) > 1:
        return ""
    return "There is one seed: how much a score changes from run to run is in none of these numbers."


def show(case: Case, console: Console) -> None:
    """Print a comparison for people."""
    for fact in case.facts:
        console.print(fact, highlight=False, markup=False)
    for sheet in sheets(case):
        console.print(rich_sheet(sheet))
    for title, texts in (("Conclusions", [*map(sentence, case.last.pairs)]), ("Mind", notes(case))):
        if texts:
            console.print(f"[bold]{title}[/]", highlight=False)
        for text in texts:
            console.print(f"- {text}", highlight=False, markup=False)


def rich_sheet(sheet: Sheet) -> Table:
    """A sheet for the terminal; where it is narrow, names are broken and numbers are not."""
    shown = Table(title=escape(sheet.title), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for place, name in enumerate(sheet.header):
        text = place < sheet.left
        shown.add_column(
            name if text else textwrap.fill(name, _HEADER), justify="left" if text else "right", no_wrap=not text
        )
    for row in sheet.rows:
        shown.add_row(*map(escape, row))
    return shown


def in_markdown(case: Case) -> str:
    """A comparison in Markdown."""
    parts = [" ".join(case.facts), *map(markdown_sheet, sheets(case))]
    for title, texts in (("Conclusions", [*map(sentence, case.last.pairs)]), ("Mind", notes(case))):
        if texts:
            parts.append(f"**{title}**\n\n" + "\n".join(f"- {text}" for text in texts))
    return "\n\n".join(parts)


def markdown_sheet(sheet: Sheet) -> str:
    """A sheet in Markdown, under its title."""
    rule = ["---" if place < sheet.left else "---:" for place in range(len(sheet.header))]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (sheet.header, rule, *sheet.rows)]
    return f"**{sheet.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(case: Case) -> dict[str, object]:
    """A comparison for programs."""
    return {
        "facts": case.facts,
        "settings": dataclasses.asdict(case.last.settings),
        "sets": [
            {
                "values": "rows" if comparison is not case.tasks else "tasks",
                "tasks": comparison.scores.tasks,
                "groups": {name: [*rows] for name, rows in case.groups.items()} if comparison is case.tasks else {},
                "seeds": [len(seeds) for seeds in comparison.scores.seeds],
                "pairs": [
                    {**dataclasses.asdict(pair), "verdict": pair.verdict, "sentence": sentence(pair)}
                    for pair in comparison.pairs
                ],
            }
            for _, comparison in case.sets
        ],
        "notes": notes(case),
    }
