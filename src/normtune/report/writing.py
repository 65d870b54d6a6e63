"""A report's folder: the page, and beside it the figures and tables as files."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

from normtune.errors import ConfigError, OutputError
from normtune.files import claim_folder
from normtune.report.curves import Curves
from normtune.report.drawing import FORMATS, rendered
from normtune.report.figures import Drawing
from normtune.report.page import Report, page
from normtune.report.table import as_csv, as_latex, as_markdown

PAGE = "index.html"
#: Lists the files of a report in its folder: nothing else is ever replaced.
MARKER = ".normtune-report"


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
    if force and (out / MARKER).is_file():
        _check_ours(out)
    else:
        claim_folder(out)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as aside:
            new = Path(aside, "new")
            new.mkdir()
            _fill(report, new)
            _swap(new, out, Path(aside, "old"))
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror or error}.") from error
    return out / PAGE


def _check_ours(folder: Path) -> None:
    """Make sure that the folder of an earlier report holds nothing else.

    Raises:
        OutputError: If it holds a file that the report did not write.
    """
    written = {*(folder / MARKER).read_text(encoding="utf-8").splitlines(), MARKER}
    other = sorted({file for file in _files(folder) if file not in written})
    if other:
        raise OutputError(f"{folder} holds {other[0]}, which is no part of the report; move it away first.")


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())


def _swap(new: Path, out: Path, old: Path) -> None:
    """Move `out` to `old`, and `new` in its place.

    Raises:
        OSError: If that is not possible; `out` is as it was then.
    """
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise


def _fill(report: Report, folder: Path) -> None:
    tables, figures = folder / "tables", folder / "figures"
    tables.mkdir()
    figures.mkdir()
    for key, table in report.tables.items():
        for suffix, text in ((".md", as_markdown(table)), (".tex", as_latex(table)), (".csv", as_csv(table))):
            (tables / f"{key}{suffix}").write_text(text, encoding="utf-8")
    for key, drawing in report.figures.items():
        if drawing.panels:
            for suffix in FORMATS:
                content = drawing.svg if suffix == ".svg" else rendered(drawing.figure, suffix)
                (figures / f"{key}{suffix}").write_bytes(content)
            (figures / f"{key}.csv").write_text(values(drawing), encoding="utf-8")
    (folder / PAGE).write_text(page(report), encoding="utf-8")
    (folder / MARKER).write_text("\n".join(_files(folder)), encoding="utf-8")


def values(drawing: Drawing) -> str:
    """The values behind a figure as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, panel in enumerate(drawing.panels):
        if isinstance(panel, Curves):
            head = ["panel", "masks", "fraction", "score", "sd", "complete"]
            rows = [
                [panel.title, each.look.name, x, *point, each.cells[x].complete]
                for each in panel.all
                for x, point in each.points.items()
            ]
        else:
            head = ["panel", panel.row_name, panel.column_name, panel.unit]
            cells = [(name, *cell) for name, row in zip(panel.rows, panel.values, strict=True)
                     for cell in zip(panel.columns, row, strict=True)]  # fmt: skip
            rows = [[panel.title, *cell] for cell in cells]
        writer.writerows(rows if number else [head, *rows])
    return text.getvalue()
