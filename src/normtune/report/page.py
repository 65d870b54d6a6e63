"""The report as one HTML page that needs nothing else: data in, text out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from normtune.records.results import Results
from normtune.report import appendix
from normtune.report.comparisons import ours_table, theirs_table
from normtune.report.curves import Curves, Look
from normtune.report.evidence import claims_table
from normtune.report.figures import Drawing, Heat, figure1, figure2, figure3, figure4, figure5
from normtune.report.multiples import heat_maps
from normtune.report.scores import Scores
from normtune.report.summary import findings
from normtune.report.svg import curves, key_of
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
    def scores(self) -> Scores:
        """The scores of the runs."""
        return Scores(self.results)

    @property
    def heading(self) -> str:
        """What stands on top."""
        return self.title or f"LayerNorm study: {setting(self.results)}"

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by their key."""
        shown = (
            claims_table(self.scores, self.results),
            table1(self.results),
            table2(self.scores, self.results),
            table3(self.results),
            table4(),
            ours_table(self.scores),
            theirs_table(),
            appendix.data_table(self.results),
        )
        return {table.key: table for table in shown}

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """The figures by their key."""
        drawn = (
            figure1(self.scores),
            figure2(self.scores),
            figure3(self.results),
            figure4(self.results),
            figure5(self.scores),
        )
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

    machines, versions = appendix.Marks("M"), appendix.Marks("V")
    shelves = appendix.shelves(report.results, report.scores, machines, versions)
    looks = _looks(report)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        report=report,
        tables=report.tables,
        figures=report.figures,
        drawings={key: Markup(_drawn(drawing, looks)) for key, drawing in report.figures.items()},
        findings=findings(report.scores, report.results),
        facts=appendix.facts(report.results, report.scores),
        shelves=shelves,
        machines=machines.legend,
        versions=versions.legend,
        style=Markup(_asset("style.css") + _colours(looks)),
        script=Markup(_asset("script.js")),
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _looks(report: Report) -> list[Look]:
    panels = [panel for drawing in report.figures.values() for panel in drawing.panels if isinstance(panel, Curves)]
    return list(dict.fromkeys(each.look for panel in panels for each in panel.series))


def _drawn(drawing: Drawing, looks: list[Look]) -> str:
    """The panels of a figure, with a legend where it has curves."""
    parts = []
    own: dict[Look, None] = {}
    heats = [panel for panel in drawing.panels if isinstance(panel, Heat)]
    if heats:
        parts.append(heat_maps(heats, drawing.key))
    for panel in drawing.panels:
        if isinstance(panel, Curves):
            own |= dict.fromkeys(each.look for each in panel.series)
            parts.append(curves(panel, looks))
    names = "".join(f"<li>{key_of(look, looks.index(look))}{look.name}</li>" for look in own)
    legend = f'<ul class="legend">{names}</ul>' if names else ""
    return f'{legend}<div class="panels">{"".join(parts)}</div>'


def _colours(looks: list[Look]) -> str:
    light = "".join(f"--s{number}:{look.colour};" for number, look in enumerate(looks))
    dark = "".join(f"--s{number}:{look.dark};" for number, look in enumerate(looks))
    uses = "".join(f".s{n}{{color:var(--s{n})}}" for n in range(len(looks)))
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n{uses}\n"
    )
