"""How every command prints its results: tables for people, or Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from normtune.data.metrics import in_print
from normtune.report.table import GAP, Entry, EntryKind, Table, group, rows_as_markdown, score

if TYPE_CHECKING:
    from normtune.records.aggregate import Cell

#: Control characters, which could move a terminal's cursor or command it; each is replaced by a question mark.
_CONTROL = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Terminal(Console):
    """A console that replaces control characters, since labels and texts come from other people's files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments to print, with control characters replaced."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=piece.text.translate(_CONTROL))


def write(text: str) -> None:
    """Write to standard output, with control characters replaced if that is a terminal."""
    sys.stdout.write(text.translate(_CONTROL) if sys.stdout.isatty() else text)


#: For results.
console = Terminal()

Form = Literal["text", "markdown", "csv", "json"]
#: What is printed: tables, and paragraphs between them.
Block = Table | str

_NAME = 24  # longest name of a row, in characters, that is never broken
_HEADER = 10  # characters a line in the name of a column of numbers
_STYLES: dict[EntryKind, str] = {"best": "bold", "missing": "dim", "note": "dim", "bad": "red", "good": "green"}


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str | Entry]],
    *,
    title: str = "",
    texts: int = 1,
    notes: Sequence[str] = (),
) -> Table:
    """A table of one group; its first `texts` columns hold words, the others numbers."""
    return Table("", title, tuple(header), (group(rows),), notes=tuple(notes), texts=texts)


def show(
    parts: Iterable[Block], form: Form = "text", *, plain: object = None, rows: Sequence[Mapping[str, object]] = ()
) -> None:
    """Print results on standard output.

    Args:
        parts: What is printed as text or Markdown.
        form: How to print it.
        plain: What is printed as JSON.
        rows: What is printed as CSV, with the keys of the first row as columns.
    """
    if form == "json":
        print(json.dumps(plain, indent=1, default=str))
    elif form == "csv":
        write(as_csv(rows))
    elif form == "markdown":
        write(as_markdown([*parts]) + "\n")
    else:
        for part in parts:
            _print(part)


def as_markdown(parts: Sequence[Block]) -> str:
    """The parts in Markdown; a single table is shown without its title."""
    several = sum(isinstance(part, Table) for part in parts) > 1
    blocks: list[str] = []
    for part in parts:
        if isinstance(part, str):
            blocks.append(part)
            continue
        if several and part.title:
            blocks.append(f"**{part.title}**")
        blocks += [rows_as_markdown(part), *part.notes]
    return "\n\n".join(blocks)


def as_csv(
    rows: Sequence[Mapping[str, object]], delimiter: str = ",", quoting: Literal[0, 2] = csv.QUOTE_MINIMAL
) -> str:
    """The rows as CSV, with the keys of the first one as columns."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, [*rows[0]], delimiter=delimiter, quoting=quoting, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _print(part: Block) -> None:
    if isinstance(part, str):
        console.print(Text(part), soft_wrap=not console.is_terminal)
        return
    if part.title:
        console.print(Text(part.title, style="bold"))
    for made in _fitting(part, range(len(part.header))):
        console.print(made)
    for note in part.notes:
        console.print(Text(note, style="dim"))


def _fitting(shown: Table, columns: Sequence[int]) -> Iterator[RichTable]:
    """Some columns of a table for the terminal; in halves, one below the other, if it is too narrow for the numbers."""
    made, wide = _rich(shown, columns), console.options.update(max_width=10_000)
    if console.measure(made, options=wide).maximum > console.width:
        made.padding = (0, 0, 0, 0)
    words, numbers = columns[: shown.texts], columns[shown.texts :]
    if len(numbers) > 1 and console.measure(made, options=wide).minimum > console.width:
        for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
            yield from _fitting(shown, (*words, *half))
    else:
        yield made


def _rich(shown: Table, columns: Sequence[int]) -> RichTable:
    """Some columns of a table for the terminal; if it is narrow, words are broken and numbers are not."""
    made = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place in columns:
        name = shown.header[place]
        if place < shown.texts:
            longest = max((len(str(row[place])) for row in shown.rows), default=0)
            made.add_column(Text(name), overflow="fold", no_wrap=place == 0 and longest <= _NAME)
        else:
            header = Text(textwrap.fill(name, _HEADER, break_long_words=False))
            cells = [str(row[place]) for row in shown.rows]
            least = max(map(len, cells)) if any(map(str.isdigit, "".join(cells))) else None
            made.add_column(header, justify="right", no_wrap=least is not None, min_width=least)
    for row in shown.rows:
        own = [row[place] for place in columns]
        made.add_row(*(Text(str(cell), style=_STYLES.get(cell.kind, "")) for cell in own))
    return made


def scores(cells: Mapping[tuple[str, str], Cell], methods: Sequence[str] = (), tasks: Sequence[str] = ()) -> Table:
    """Scores of runs: a row a method, a column a task, mean and standard deviation over seeds.

    By default all methods and tasks; a cell that lacks seeds says how many it has.
    """
    methods = methods or [*dict.fromkeys(method for method, _ in cells)]
    tasks = tasks or [*dict.fromkeys(task for _, task in cells)]
    entries = {method: cell.runs[-1].counts.selected for (method, _), cell in cells.items()}
    seeds = max((len(cell.wanted) for cell in cells.values()), default=0)
    rows = [
        [method, f"{entries[method]:,}" if method in entries else GAP]
        + [score(cells[method, task]) if (method, task) in cells else GAP for task in tasks]
        for method in methods
    ]
    title = f"Dev score x 100: mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}"
    return table(["method", "entries", *tasks], rows, title=title)


def metrics(scores: Mapping[str, float], labels: Sequence[str]) -> str:
    """Metrics in words; with two `labels`, F1 is that of the second and names it."""
    of = {"f1": f" of {shortened(labels[1])}"} if len(labels) == 2 else {}
    return ", ".join(f"{name}{of.get(name, '')} {in_print(value)}" for name, value in scores.items())


def shortened(label: str) -> str:
    """A label, cut to at most 60 characters."""
    return label if len(label) < 60 else f"{label:.57}..."
