"""``normtune compare``: the statistics for a comparison of methods, on any table of scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options, render
from normtune.cli.options import Json, Markdown, OfModel, OfProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from normtune.report.table import Table
    from normtune.statistics.comparison import Comparison, Pair
    from normtune.statistics.scores import ScoreTable

    Groups = Mapping[str, Sequence[str]]
    #: Comparisons of the same pairs, each with how many values it has, in words.
    Sets = list[tuple[str, Comparison]]


def compare(
    context: typer.Context,
    scores: Annotated[
        Path,
        typer.Argument(help="Records, or a table (CSV, TSV, JSONL, Excel, Parquet): a row a task, a column a method."),
    ],
    against: Annotated[str | None, typer.Option(help="Compare with this method only. [default: every pair]")] = None,
    margin: Annotated[float, typer.Option(help="Differences below it count as none; 0.01 is one point.")] = 0.01,
    alpha: Annotated[float, typer.Option(help="Level of the tests, after Holm's correction.")] = 0.05,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Rows that are one task, separated by commas; MNLI-m and MNLI-mm are recognised anyway."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, separated by commas.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    model: OfModel = None,
    protocol: OfProtocol = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same tasks: how large is the difference, is there one, is it small enough not to matter?

    A column `task` names the rows (or the first column does), and a column `seed` allows several rows a task.

    Examples:
    `normtune compare scores.csv --against layernorm`

    `normtune compare results/runs --protocol small --tasks stsb,cola,mrpc`
    """
    from normtune.data.rows import read_rows
    from normtune.data.suites import spelled
    from normtune.records.results import check_one_setting, load_runs
    from normtune.statistics.scores import from_records, from_rows

    form = options.form(as_json=as_json, markdown=markdown)
    names = options.methods(methods) if methods else None
    task_names = options.names(tasks) if tasks else None
    if scores.is_dir():  # of records, at the rates that `normtune table` shows
        runs = load_runs(scores, model=model, protocol=protocol)
        if task_names is not None:
            trained = {run.config.task for run in runs}
            task_names = [spelled(name, trained) for name in task_names]
        check_one_setting([run for run in runs if task_names is None or run.config.task in task_names])
        found = from_records(runs, methods=names, tasks=task_names)
    else:
        options.refuse(context, {"model", "protocol"}, f"{scores} is no folder of records")
        found = from_rows(read_rows(scores), methods=names, tasks=task_names)
    _show(found, *_compared(found, against, group or (), margin, alpha), form)


def _compared(
    scores: ScoreTable, against: str | None, group: Sequence[str], margin: float, alpha: float
) -> tuple[Sets, Groups]:
    """The comparisons, by rows and, where tasks have several, by tasks; and the rows of each such task."""
    from normtune.statistics.comparison import compare as compare_pairs
    from normtune.statistics.scores import grouped, same_task

    stated = {"+".join(rows): tuple(rows) for rows in map(options.names, group)}
    taken = {row for rows in stated.values() for row in rows}
    seen = {name: rows for name, rows in same_task(scores.tasks).items() if not {*rows} & taken}
    groups = {**stated, **seen}
    words = f"{len(scores)} {'rows' if groups else 'tasks'}"
    sets = [(words, compare_pairs(scores, against, margin=margin, alpha=alpha))]
    if groups:
        comparison = compare_pairs(grouped(scores, groups), against, margin=margin, alpha=alpha)
        sets.append((f"{len(comparison.scores)} tasks", comparison))
    return sets, groups


def _show(scores: ScoreTable, sets: Sets, groups: Groups, form: render.Form) -> None:
    """Print a table a question, with a row for every pair and set of values, then conclusions and notes."""
    from normtune.statistics.comparison import sentence, warnings

    facts = _facts(scores, groups)
    last = sets[-1][1]  # by tasks, if there is one
    said = {"Conclusions": [*map(sentence, last.pairs)], "Notes": warnings(last)}
    lists = ["\n".join([f"{title}:\n", *(f"- {text}" for text in texts)]) for title, texts in said.items() if texts]
    plain = {
        "facts": facts,
        "sets": [
            {
                "values": "tasks" if groups and comparison is last else "rows",
                "tasks": comparison.scores.tasks,
                "groups": {name: [*rows] for name, rows in groups.items()} if comparison is last else {},
                "seeds": [len(seeds) for seeds in comparison.scores.seeds],
                "pairs": [
                    {**dataclasses.asdict(pair), "verdict": pair.verdict, "sentence": sentence(pair)}
                    for pair in comparison.pairs
                ],
            }
            for _, comparison in sets
        ],
        "notes": said["Notes"],
    }
    render.show([" ".join(facts), *_tables(sets), "\n\n".join(lists)], form, plain=plain)


def _facts(scores: ScoreTable, groups: Groups) -> list[str]:
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


def _tables(sets: Sets) -> list[Table]:
    from normtune.statistics.comparison import interval, upwards
    from normtune.statistics.paired import p_value

    margin, alpha = sets[0][1].pairs[0].margin, sets[0][1].pairs[0].alpha

    def question(title: str, header: Sequence[str], cells: Callable[[Pair], Sequence[str]]) -> Table:
        together = zip(*([(values, pair) for pair in comparison.pairs] for values, comparison in sets), strict=True)
        rows = [(f"{pair.first} - {pair.second}", values, *cells(pair)) for pairs in together for values, pair in pairs]
        return render.table(("first - second", "values", *header), rows, title=title, texts=2)

    return [
        question(
            "How large is the difference?",
            ("mean", "median", "wins / losses / ties", f"{100 * (1 - alpha):g}% interval of the mean"),
            lambda pair: (
                f"{pair.mean:+.4f}",
                f"{pair.median:+.4f}",
                f"{pair.wins} / {pair.losses} / {pair.ties}",
                interval(pair),
            ),
        ),
        question(
            "Is there a difference? Wilcoxon's signed-rank test, exact",
            ("p", "p, Holm", "p, Benjamini-Hochberg"),
            lambda pair: (p_value(pair.signed_rank.p), p_value(pair.holm), p_value(pair.fdr)),
        ),
        question(
            f"Is it smaller than {margin:g}? Two one-sided paired t-tests",
            ("p", "p, Holm", "smallest margin", "smallest, Holm"),
            lambda pair: (
                p_value(pair.equivalence),
                p_value(pair.equivalence_holm),
                upwards(pair.smallest_margin),
                upwards(pair.smallest_margin_holm),
            ),
        ),
        question(
            "What does the unpaired test see? Kruskal-Wallis, as in the paper",
            ("p", "against the paired test"),
            lambda pair: (p_value(pair.unpaired, 5), "misses a difference" if pair.overlooked else ""),
        ),
    ]
