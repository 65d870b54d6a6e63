"""The report as one HTML page that needs nothing else: data in, text out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from normtune.records.results import Results
from normtune.report import appendix
from normtune.report.cells import Cells
from normtune.report.comparisons import ours_table, theirs_table
from normtune.report.evidence import claims_table
from normtune.report.figures import Drawing, figure1, figure2, figure3, figure4, figure5
from normtune.report.summary import findings
from normtune.report.table import Table
from normtune.report.tables import setting, table1, table2, table3, table4

_ASSETS = files("normtune.report") / "assets"


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        results: The records.
        title: What stands on top.
    """

    results: Results
    title: str = ""

    @cached_property
    def cells(self) -> Cells:
        """The scores of the runs, and what they are of."""
        return Cells(self.results)

    @property
    def heading(self) -> str:
        """What stands on top."""
        return self.title or f"LayerNorm study: {setting(self.cells)}"

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by their key."""
        makers = (claims_table, table1, table2, table3, table4, ours_table, appendix.data_table)
        shown = (*(make(self.cells) for make in makers), theirs_table())
        return {table.key: table for table in shown}

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """The figures by their key."""
        drawn = (make(self.cells) for make in (figure1, figure2, figure3, figure4, figure5))
        return {drawing.key: drawing for drawing in drawn}


def page(report: Report) -> str:
    """The page.

    Args:
        report: What it shows.

    Returns:
        HTML with its style, script and drawings inside.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        report=report,
        tables=report.tables,
        figures=report.figures,
        drawings={key: Markup(each.inline) for key, each in report.figures.items() if each.panels},
        findings=findings(report.cells),
        facts=appendix.facts(report.cells),
        shelves=appendix.shelves(report.cells),
        marks=appendix.marks(report.cells),
        style=Markup(_asset("style.css")),
        script=Markup(_asset("script.js")),
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
