"""A report's folder: the page, and beside it the figures and tables as files."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from pathlib import Path

from normtune.errors import ConfigError, OutputError
from normtune.files import claim_folder
from normtune.report import curves, heatmap
from normtune.report.curves import Curves
from normtune.report.figures import Drawing, Heat
from normtune.report.page import Report, page
from normtune.report.table import as_csv, as_latex, as_markdown

PAGE = "index.html"


def check() -> None:
    """Make sure that a report can be written, before any work is done for it.

    Raises:
        ConfigError: If a library is missing.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"A report needs {error.name}: pip install 'normtune[report]'.") from error


def write(report: Report, out: Path, *, force: bool = False) -> Path:
    """Write a report's folder, whole or not at all.

    Args:
        report: The report.
        out: The folder: absent or empty.
        force: Whether an earlier report in `out` is replaced.

    Returns:
        The page's file.

    Raises:
        OutputError: If something else is in `out`, or it cannot be written.
    """
    replaced = force and (out / PAGE).is_file()
    if not replaced:
        had = out.is_dir()
        claim_folder(out)
        if not had:
            out.rmdir()
    try:
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror or error}.") from error
    try:
        _fill(report, aside)
        aside.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / PAGE


def _fill(report: Report, folder: Path) -> None:
    tables, drawings = folder / "tables", folder / "figures"
    tables.mkdir()
    drawings.mkdir()
    for key, table in report.tables.items():
        for suffix, text in ((".md", as_markdown(table)), (".tex", as_latex(table)), (".csv", as_csv(table))):
            (tables / f"{key}{suffix}").write_text(text, encoding="utf-8")
    for key, drawing in report.figures.items():
        if drawing.panels:
            _draw(drawing, drawings / key)
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def _draw(drawing: Drawing, stem: Path) -> None:
    """The figure as SVG, PDF and PNG, and its values as CSV."""
    import matplotlib as mpl

    heats = [panel for panel in drawing.panels if isinstance(panel, Heat)]
    lines = [panel for panel in drawing.panels if isinstance(panel, Curves)]
    with mpl.rc_context(curves.STYLE):
        if heats:
            drawn = heatmap.figure([heat.map for heat in heats], across=min(4, len(heats)))
            images = [axes.images[0] for axes in drawn.axes if axes.images]
            for image, heat in zip(images, heats, strict=True):
                image.set_clim(*(limit / 10.0**heat.map.exponent for limit in heat.limits))
        else:
            drawn = curves.figure(lines)
        for suffix, metadata in heatmap.FORMATS.items():
            drawn.savefig(
                stem.with_suffix(suffix), dpi=200, metadata=dict(metadata), bbox_inches="tight", pad_inches=0.05
            )
    stem.with_suffix(".csv").write_text(values(drawing), encoding="utf-8")


def values(drawing: Drawing) -> str:
    """The values behind a figure as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, panel in enumerate(drawing.panels):
        if isinstance(panel, Curves):
            if not number:
                writer.writerow(["panel", "masks", "fraction", "score", "sd", "complete"])
            for each in panel.series:
                for point in each.points:
                    spread = "" if point.spread is None else point.spread
                    writer.writerow([panel.title, each.look.name, point.x, point.y, spread, point.complete])
        elif isinstance(panel, Heat):
            if not number:
                writer.writerow(["panel", panel.map.row_name, panel.map.column_name, panel.map.unit])
            for name, row in zip(panel.map.rows, panel.map.values, strict=True):
                for column, value in zip(panel.map.columns, row, strict=True):
                    writer.writerow([panel.map.title, name, column, "" if value is None else value])
    return text.getvalue()
