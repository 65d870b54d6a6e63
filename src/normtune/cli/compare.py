"""``normtune compare``: the statistics that a comparison of methods needs, on anybody's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli.options import Json, console, names
from normtune.cli.options import methods as method_names
from normtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.cli.compared import Case
    from normtune.statistics.comparison import Settings
    from normtune.statistics.scores import Scores


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare")(compare)


def compare(
    scores: Annotated[
        Path | None,
        typer.Argument(help="A table (CSV, TSV, JSONL, Parquet): a row a task, a column a method; or records."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare with this method only. [default: every two]")] = None,
    margin: Annotated[float, typer.Option(help="Differences below it count as none; 0.01 is one point.")] = 0.01,
    alpha: Annotated[float, typer.Option(help="Level of the tests, after Holm's correction.")] = 0.05,
    one_value: Annotated[
        bool | None,
        typer.Option("--one-value-per-task/--every-row", help="Only so. [default: both where they differ]"),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Rows that are one task, separated by commas; MNLI-m and MNLI-mm are seen without."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, separated by commas.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    scale: Annotated[
        str, typer.Option(help="fraction, percent, or auto: percents where any score is beyond 1 in size.")
    ] = "auto",
    protocol: Annotated[str | None, typer.Option(help="Of records, only runs of this protocol.")] = None,
    draws: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the bootstrap.")] = 0,
    paper: Annotated[bool, typer.Option("--paper", help="Instead, the paper's own tables 2 and 3.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same tasks: how large is the difference, is there one, is it small enough not to matter?

    A column `task` names the rows (or the first column does), and a column `seed` allows several rows a task.

    Examples:
    `normtune compare scores.csv --against layernorm`

    `normtune compare results/runs --protocol small --tasks stsb,cola,mrpc`
    """
    from normtune.cli import compared
    from normtune.statistics.comparison import Settings

    if as_json and markdown:
        raise ConfigError("Choose one of --json and --markdown.")
    settings = Settings(margin=margin, alpha=alpha, draws=draws, seed=seed)
    if paper:
        if scores is not None:
            raise ConfigError("Give either a table of scores or --paper, which has its own.")
        show_paper(settings, markdown=markdown, as_json=as_json)
        return
    if scores is None:
        raise ConfigError("Name a table of scores or a folder of records; --paper shows the paper's own.")
    wanted = method_names(methods) if methods else None, names(tasks) if tasks else None
    found = recorded(scores, protocol, *wanted) if scores.is_dir() else tabled(scores, protocol, *wanted, scale)
    case = compared_case(found, against, settings, group or (), one_value)
    if as_json:
        print(json.dumps(compared.plain(case), indent=1))
    elif markdown:
        print(compared.in_markdown(case))
    else:
        compared.show(case, console)


def show_paper(settings: Settings, *, markdown: bool, as_json: bool) -> None:
    """Print the paper's own numbers, recomputed."""
    from normtune.cli.compared import markdown_sheet, rich_sheet
    from normtune.cli.published import FOLLOWS, paper_lines, paper_plain, paper_sheets

    lines = paper_lines(settings)
    if as_json:
        print(json.dumps(paper_plain(lines), indent=1))
    elif markdown:
        print("\n\n".join(map(markdown_sheet, paper_sheets(lines, settings))))
    else:
        for sheet in paper_sheets(lines, settings):
            console.print(rich_sheet(sheet))
        console.print(FOLLOWS, highlight=False, markup=False)


def tabled(
    file: Path, protocol: str | None, methods: Sequence[str] | None, tasks: Sequence[str] | None, scale: str
) -> Scores:
    """The scores in a file."""
    from normtune.data.rows import read_rows
    from normtune.statistics.reading import from_rows

    if protocol is not None:
        raise ConfigError(f"--protocol chooses among records, and {file} is no folder of records.")
    return from_rows(read_rows(file), methods=methods, tasks=tasks, scale=scale)


def recorded(folder: Path, protocol: str | None, methods: Sequence[str] | None, tasks: Sequence[str] | None) -> Scores:
    """The scores in a folder of records, at the rates that `normtune table` shows."""
    from normtune.records.store import Store
    from normtune.statistics.reading import from_records

    found = [record for record in Store(folder) if protocol in {None, record.config.protocol.name}]
    if not found:
        raise DataError(f"There are no such records in {folder}.")
    if len({(record.base_identity, record.config.protocol) for record in found}) > 1:
        raise ConfigError(
            "These records are of several base models or protocols; choose with --protocol, or keep them apart."
        )
    return from_records(found, methods=methods, tasks=tasks)


def compared_case(
    scores: Scores, against: str | None, settings: Settings, group: Sequence[str], one_value: bool | None
) -> Case:
    """Compare, with every row for itself and with one value a task.

    Args:
        scores: The scores.
        against: A method, or None for every two.
        settings: How.
        group: Rows that are one task, in words.
        one_value: Only with one value a task, only with every row, or None for both.

    Returns:
        The comparisons.
    """
    from normtune.cli.compared import Case
    from normtune.statistics.comparison import compare as compare_pairs
    from normtune.statistics.comparison import pairs_of
    from normtune.statistics.scores import grouped, same_task

    stated = {"+".join(rows): tuple(rows) for rows in map(names, group)}
    taken = {row for rows in stated.values() for row in rows}
    seen = {name: rows for name, rows in same_task(scores.tasks).items() if not {*rows} & taken}
    groups = {} if one_value is False else {**stated, **seen}
    pairs = pairs_of(scores, against)
    rows = None if one_value and groups else compare_pairs(scores, pairs, settings=settings)
    single = compare_pairs(grouped(scores, groups), pairs, settings=settings) if groups else None
    return Case(rows, single, groups, tuple(facts(scores, groups)))


def facts(scores: Scores, groups: dict[str, tuple[str, ...]]) -> list[str]:
    """Sentences about what is compared."""
    counts = sorted({len(seeds) for seeds in scores.seeds})
    span = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s' * (counts != [1])}"
    told = [f"{len(scores.methods)} methods on {len(scores)} {'rows' if groups else 'tasks'}, {span} each."]
    kind = "percents, since some are beyond 1 in size," if scores.percent else "fractions"
    told.append(f"Scores are read as {kind} and differences shown as fractions: 0.01 is one point.")
    for name, rows in groups.items():
        told.append(f"{' and '.join(rows)} are one task, {name}, and not independent.")
    if groups:
        told.append("The conclusions take one value a task, the mean of its rows.")
    return [*told, *scores.notes]
