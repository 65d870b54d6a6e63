"""A report: one HTML page that needs nothing else, and beside it the figures and tables as files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from normtune.errors import OutputError
from normtune.files import claim_folder, remove_strays, write_atomically
from normtune.records.results import Results
from normtune.report import ablation
from normtune.report.cells import Cells
from normtune.report.comparisons import ours_table, theirs_table
from normtune.report.drawing import FORMATS, rendered
from normtune.report.evidence import claims_table
from normtune.report.figures import Drawing, ablations, figure1, figure2, figure3, figure4, figure5
from normtune.report.methods import methods_figure, methods_table
from normtune.report.table import Table, as_markdown
from normtune.report.tables import data_table, findings, setting, table1, table2, table3, table4

PAGE = "index.html"
#: Lists the files of a report in its folder: nothing else is ever replaced.
MARKER = ".normtune-report"
_ASSETS = files("normtune.report") / "assets"


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        results: The records.
    """

    results: Results

    @cached_property
    def cells(self) -> Cells:
        """The scores of the runs, and what they are of."""
        return Cells(self.results)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by their key."""
        makers = (claims_table, table1, table2, methods_table, table3, table4, ours_table, data_table)
        shown = [*(make(self.cells) for make in makers), theirs_table()]
        if self.results.ablations:
            shown.append(ablation.table(self.results.ablations))
        return {table.key: table for table in shown}

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """The figures by their key."""
        makers = (figure1, figure2, figure3, figure4, figure5, methods_figure)
        drawn = [make(self.cells) for make in (*makers, *([ablations] if self.results.ablations else []))]
        return {drawing.key: drawing for drawing in drawn}


def page(report: Report) -> str:
    """The page: HTML with its style, script and drawings inside."""
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        heading=f"LayerNorm study: {setting(report.cells)}",
        tables=report.tables,
        figures=report.figures,
        drawings={key: Markup(each.inline) for key, each in report.figures.items() if each.panels},
        findings=findings(report.cells),
        facts=facts(report.cells),
        style=Markup(_asset("style.css")),
        script=Markup(_asset("script.js")),
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def write(report: Report, out: Path, *, force: bool = False) -> Path:
    """Write a report's folder; nothing is written before all of it is made.

    Args:
        report: The report.
        out: The folder: absent or empty.
        force: Whether an earlier report in `out` is replaced; one that was left unfinished always is.

    Returns:
        The page's file.

    Raises:
        OutputError: If something else is in `out`, or it cannot be written.
    """
    for folder in (out, *(file for file in out.glob("*") if file.is_dir())):
        remove_strays(folder)
    earlier = {*(out / MARKER).read_text(encoding="utf-8").splitlines(), MARKER} if (out / MARKER).is_file() else set()
    unfinished = any(not (out / name).is_file() for name in earlier)  # by a command that was stopped
    if earlier and (force or unfinished):
        there = (file.relative_to(out).as_posix() for file in out.rglob("*") if not file.is_dir())
        if other := sorted({*there} - earlier):
            raise OutputError(f"{out} holds {other[0]}, which is no part of the report; move it away first.")
    else:
        claim_folder(out)
    new = dict(_files(report))
    # Until the end the marker names the files of both reports, so that this can be stopped anywhere and run again.
    write_atomically(out / MARKER, "\n".join(sorted({*new, *earlier} - {MARKER})))
    for name in earlier - {*new, MARKER}:
        (out / name).unlink(missing_ok=True)
    for name, content in (*new.items(), (MARKER, "\n".join(sorted(new)))):
        write_atomically(out / name, content)
    return out / PAGE


def _files(report: Report) -> Iterator[tuple[str, bytes | str]]:
    """The files of a report by their names in its folder."""
    for key, table in report.tables.items():
        yield f"tables/{key}.md", as_markdown(table)
    for key, drawing in report.figures.items():
        if drawing.panels:
            for suffix in FORMATS:
                yield f"figures/{key}{suffix}", rendered(drawing.figure, suffix)
            rows = [row for panel in drawing.panels for row in panel.flat]
            yield f"figures/{key}.csv", _csv(dict.fromkeys(rows))  # the panels have one header
    yield PAGE, page(report)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def facts(cells: Cells) -> list[tuple[str, str]]:
    """What was chosen for all of it: model, protocol, seeds and the like."""
    runs, fisher = cells.results.runs, cells.results.fisher
    said = []
    for first in cells.records[:1]:
        config = first.config
        said += [
            ("model", f"{config.model}{f', {config.revision}' if config.revision else ''}, {config.dtype}"),
            ("identity of the base", first.base_identity[:16]),
            ("norm that closes a layer", cells.closing),
        ]
    if runs:
        counts, protocol = runs[0].counts, runs[0].config.protocol.model_dump()
        ways = dict.fromkeys(way for run in runs for way in run.ways)
        said += [
            ("entries of the pre-trained model", f"{counts.total - counts.head:,}"),
            ("computed by", ", ".join(ways) or "plain torch"),
            ("protocol", str(protocol.pop("name"))),
            *((name.replace("_", " "), _said(value)) for name, value in protocol.items()),
            ("seeds", ", ".join(map(str, cells.seeds))),
        ]
    if fisher:
        heads = sorted({seed for each in fisher for seed in each.config.head_seeds})
        said.append(("seeds of the heads, for Fisher information", ", ".join(map(str, heads))))
    hours = sum(each.seconds for each in cells.records) / 3600
    statuses: Counter[str] = Counter(run.status for run in runs)
    words = {"failed": "failed", "pruned": "dropped early"}
    unfinished = "".join(f", {statuses[name]} {word}" for name, word in words.items() if statuses[name])
    measured = f"{len(fisher)} measurements of Fisher information; {hours:.1f} hours in all"
    said.append(("records", f"{len(runs)} runs{unfinished}; {measured}"))
    for name in ("machine", "versions"):
        texts = (", ".join(f"{key} {value}" for key, value in getattr(each, name).items()) for each in cells.records)
        said += [(name, text) for text in dict.fromkeys(texts)]
    return said


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
