from __future__ import annotations

import re

from normtune.errors import DataError
from normtune.records.results import read
from normtune.report import page as pages
from normtune.report.page import Report, page
from tests.report import made


def test_a_report_is_written_with_its_files(cli, tmp_path):
    results = made.results(
        tmp_path / "results", methods={**made.METHODS, **made.masks([0.1])}, tasks=["rte"], measured=["rte"]
    )
    out = tmp_path / "report"
    status, said, error = cli("report", results, "--out", out)
    assert (status, said.strip()) == (0, str(out / "index.html")), error
    names = ("figure1", "figure2", "figure3", "figure4", "figure5", "costs")
    figures = {f"{name}{suffix}" for name in names for suffix in (".svg", ".pdf", ".png", ".csv")}
    assert {file.name for file in (out / "figures").iterdir()} == figures
    assert all(file.stat().st_size > 100 for file in (out / "figures").iterdir())
    keys = ("claims", "table1", "table2", "methods", "table4", "statistics-paper", "data")
    assert {f.name for f in (out / "tables").iterdir()} == {f"{key}.md" for key in keys}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("https://arxiv.org/abs/2403.20284", "")

    before = {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    status, _, error = cli("report", results, "--out", out)
    assert (status, "in use" in error) == (1, True)
    (out / "figures" / "notes.txt").write_text("mine")
    status, _, error = cli("report", results, "--out", out, "--force")
    assert (status, "figures/notes.txt, which is no part of the report" in error) == (1, True)
    (out / "figures" / "notes.txt").unlink()
    (out / "index.html").write_text("")
    for folder in (out, out / "figures"):
        (folder / ".normtune-0123456789abcdef").write_text("of a kill")
    status, _, _ = cli("report", results, "--out", out, "--force")
    assert status == 0
    again = {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    assert before == again  # the same records give the same files
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report", "results"]


def test_a_report_that_fails_leaves_the_earlier_one(cli, tmp_path, monkeypatch):
    results = made.results(tmp_path / "results", methods={"head": 0.0}, tasks=["rte"], seeds=[0], measured=())
    out = tmp_path / "report"
    out.mkdir()
    (out / "index.html").write_text("the earlier one")
    (out / pages.MARKER).write_text("index.html")

    def broken(table):
        raise DataError("The table is broken.")

    monkeypatch.setattr(pages, "as_markdown", broken)
    status, _, error = cli("report", results, "--out", out, "--force")
    assert (status, error.strip()) == (1, "Error: The table is broken.")
    assert (out / "index.html").read_text() == "the earlier one"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report", "results"]


def test_one_table_is_printed(cli, tmp_path):
    results = made.results(tmp_path / "results", methods=made.METHODS)
    status, said, _ = cli("report", results, "--table", "claims")
    assert status == 0
    head, _, *rows = said.strip().splitlines()
    assert head.split(" | ")[1] == "claim"
    assert [row.split(" | ")[0] for row in rows if not row.startswith("|  |")] == [f"| {n}" for n in (1, 2, 3, 4, 6, 7)]
    status, _, error = cli("report", results, "--table", "table9")
    assert (status, error.count("\n"), "table1" in error) == (1, 1, True)


def test_another_folder_is_never_replaced(cli, tmp_path):
    results = made.results(tmp_path / "results", methods={"head": 0.0}, tasks=["rte"], measured=())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "mine" / "index.html").write_text("my own page")
    status, _, error = cli("report", results, "--out", tmp_path / "mine", "--force")
    assert (status, "in use" in error) == (1, True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_bad_input_is_one_sentence(cli, tmp_path):
    status, _, error = cli("report", tmp_path / "nothing", "--out", tmp_path / "out")
    assert (status, error.strip()) == (1, f"Error: There is no results folder at {tmp_path / 'nothing'}.")
    status, _, error = cli("report", tmp_path, "--out", tmp_path / "out")
    assert (status, error.count("\n")) == (1, 1)
    assert not (tmp_path / "out").exists()


def test_little_is_enough(tmp_path):
    made.fisher("rte").save(tmp_path / "information" / "fisher" / "a.json")
    made.results(tmp_path / "runs-only", methods={"head": 0.0}, tasks=["rte"], seeds=[0], measured=())
    for name, wanted in (("information", ["where"]), ("runs-only", ["scores", "tests"])):
        text = page(Report(read(tmp_path / name)))
        assert re.findall(r'<section id="(.*?)"', text) == ["findings", *wanted, "how"]
        assert ("there are no runs" in text) is (name == "information")
