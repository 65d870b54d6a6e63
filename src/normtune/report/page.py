"""A report: one self-contained HTML page, and beside it the figures and tables as files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from normtune.errors import OutputError
from normtune.files import claim_folder, remove_strays, write_atomically
from normtune.records.results import Results
from normtune.report.ablation import table as ablated
from normtune.report.cells import Cells
from normtune.report.comparisons import ours_table, theirs_table
from normtune.report.drawing import FORMATS, rendered
from normtune.report.evidence import claims_table
from normtune.report.figures import Drawing, ablations, figure1, figure2, figure3, figure4, figure5
from normtune.report.methods import methods_figure, methods_table
from normtune.report.table import Table, as_markdown
from normtune.report.tables import data_table, findings, setting, table1, table2, table3, table4

PAGE = "index.html"
#: Lists the files of a report in its folder; only these are ever replaced.
MARKER = ".normtune-report"
_ASSETS = files("normtune.report") / "assets"


#: The sections of the page: name in links; title, shown up to a colon in the table of contents; and the functions that
#: make its tables and figures, which are shown if there are records for them.
SECTIONS: tuple[tuple[str, str, tuple[Callable[[Cells], Table | Drawing], ...]], ...] = (
    ("findings", "What came out", (claims_table,)),
    ("where", "Where it matters: change and Fisher information", (figure1, table1, figure3, figure4)),
    ("scores", "Scores", (table2, methods_table, methods_figure, table3, table4)),
    ("masks", "A part of LayerNorm", (figure2, figure5)),
    ("ablation", "Switched off", (ablations, lambda cells: ablated(cells.results.ablations))),
    ("tests", "Statistics", (ours_table, theirs_table)),
    ("how", "How it was run", (data_table,)),
)
#: Sections with a text of their own, which are always shown.
_WORDED = {"findings", "how"}


class Report:
    """Everything that a report of some records shows."""

    def __init__(self, results: Results) -> None:
        self.cells = Cells(results)
        made = [(key, title, [make(self.cells) for make in makers]) for key, title, makers in SECTIONS]
        #: Name, title, tables and figures of each section that has something to show.
        self.sections = [
            (key, title, shown)
            for key, title, items in made
            if (shown := [item for item in items if item.filled]) or key in _WORDED
        ]
        every = [item for *_, items in self.sections for item in items]
        self.tables = {item.key: item for item in every if isinstance(item, Table)}
        self.figures = {item.key: item for item in every if isinstance(item, Drawing)}


def page(report: Report) -> str:
    """The page: HTML with its style, script and drawings inside."""
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        heading=f"LayerNorm study: {setting(report.cells)}",
        sections=report.sections,
        drawings={key: Markup(each.inline) for key, each in report.figures.items()},
        findings=findings(report.cells),
        facts=facts(report.cells),
        style=Markup(_asset("style.css")),
        script=Markup(_asset("script.js")),
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def write(report: Report, out: Path, *, force: bool = False) -> Path:
    """Make a whole report, then write it to a folder that is absent or empty; returns the page's file.

    With `force` an earlier report in `out` is replaced; an unfinished one always is.

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
        for suffix in FORMATS:
            yield f"figures/{key}{suffix}", rendered(drawing.figure, suffix)
        rows = dict.fromkeys(row for panel in drawing.panels for row in panel.flat)  # the panels share one header
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        yield f"figures/{key}.csv", text.getvalue()
    yield PAGE, page(report)


def facts(cells: Cells) -> list[tuple[str, str]]:
    """The settings that all records share: model, protocol, seeds and the like."""
    runs, fisher, off = cells.results.runs, cells.results.fisher, cells.results.ablations
    every = [*cells.records, *off]
    config = every[0].config
    model = (config.model, getattr(config, "revision", None), getattr(config, "dtype", None))
    said = [("model", ", ".join(filter(None, model))), ("identity of the base", every[0].base_identity[:16])]
    if cells.records:
        said.append(("norm that closes a layer", cells.closing))
    if runs:
        # What a method adds to the model is counted in the total too.
        entries = min(run.counts.total - run.counts.head for run in runs)
        protocol = runs[0].config.protocol.model_dump()
        ways = dict.fromkeys(way for run in runs for way in run.ways)
        said += [
            ("entries of the pre-trained model", f"{entries:,}"),
            ("computed by", ", ".join(ways) or "plain torch"),
            ("protocol", str(protocol.pop("name"))),
            *((name.replace("_", " "), _said(value)) for name, value in protocol.items()),
            ("seeds", ", ".join(map(str, cells.seeds))),
        ]
    if fisher:
        heads = sorted({seed for each in fisher for seed in each.config.head_seeds})
        said.append(("seeds of the heads, for Fisher information", ", ".join(map(str, heads))))
    hours = sum(each.seconds for each in (*cells.records, *(point for each in off for point in each.points))) / 3600
    statuses: Counter[str] = Counter(run.status for run in runs)
    ends = {"failed": "failed", "pruned": "dropped early"}
    unfinished = "".join(f", {statuses[name]} {word}" for name, word in ends.items() if statuses[name])
    made = {f"runs{unfinished}": runs, "measurements of Fisher information": fisher, "ablations": off}
    words = [f"{len(own)} {what}" for what, own in made.items() if own]
    said.append(("records", "; ".join([*words, f"{hours:.1f} hours in all"])))
    for name in ("machine", "versions"):
        texts = (", ".join(f"{key} {value}" for key, value in getattr(each, name).items()) for each in every)
        said += [(name, text) for text in dict.fromkeys(texts)]
    return said


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
