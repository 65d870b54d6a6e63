"""Tables, figures and claims of models whose components are not named like BERT's, and of suites that are not GLUE."""

from __future__ import annotations

import pytest

from normtune.data.suites import SUITES, Column, Suite
from normtune.models.families import FAMILIES
from normtune.records.results import read
from normtune.report.cells import Cells
from normtune.report.evidence import claims_table
from normtune.report.figures import figure1, figure3, figure4
from normtune.report.page import Report, page
from normtune.report.tables import table1, table2, table4
from tests.report import made


@pytest.mark.parametrize("family", ["roberta", "mpnet", "gpt2", "llama"])
def test_a_familys_norms_are_found_by_its_records(family, tmp_path):
    norms = FAMILIES[family]
    bias = family != "llama"
    made.results(tmp_path, methods={"full": 0.0}, measured=("cola", "mrpc", "rte"), norms=norms, bias=bias)
    cells = Cells(read(tmp_path))
    rows = table1(cells).rows
    assert [(row[0].text, row[2].text) for row in rows[:2]] == [(norms.closing[0], "1"), (norms.attention[0], "2")]
    assert figure1(cells).panels[0].rows[0] == norms.closing[0]
    for drawing in (figure3(cells), figure4(cells)):
        assert [panel.title for panel in drawing.panels] == ["weight", "bias"][: 1 + bias]
        assert any("has no bias" in note for note in drawing.notes) is not bias
    claims = [row for row in claims_table(cells).rows if row[0].text]
    said = {row[2].text: row for row in claims}
    assert said["figure 1"][4].text.startswith(f"change of {norms.closing[0]} over")
    assert said["figure 1"][3].text == said["table 1"][3].text == "confirmed"
    assert [row[3].text for row in claims if row[2].text == "figures 3, 4"] == ["confirmed", *["confirmed"] * bias] + [
        "undecided"
    ] * (not bias)
    assert bias or "has no bias" in claims[-1][4].text


@pytest.fixture
def other(monkeypatch, tmp_path):
    """Runs of a suite that is registered here alone, and of a task outside it."""

    def load(name, folder):
        raise NotImplementedError

    columns = (Column("BoolQ", "boolq"), Column("CB", "cb"), Column("WiC", "wic"), Column("COPA", "copa"))
    monkeypatch.setitem(SUITES, "super", Suite("SuperGLUE", {}, columns, load))
    methods = {"full": 0.0, "layernorm": -0.01, "lora": -0.02}
    made.results(
        tmp_path, methods=methods, tasks=["wic", "cb", "boolq"], measured=("wic", "cb", "boolq"), suite="super"
    )
    made.results(tmp_path, methods=methods, tasks=["mine"], measured=(), suite="")
    return read(tmp_path)


def test_columns_are_the_suites_and_a_new_method_has_a_row(other):
    report = Report(other)
    titles = ("BoolQ", "CB", "WiC", "COPA", "mine")
    assert tuple(column.title for column in report.cells.columns) == titles
    table = table2(report.cells)
    shown = [title for title in titles if title != "COPA"]  # which has no run
    assert table.header == ("method", "% of full", *shown)
    assert "Not run here: COPA." in table.notes
    (group,) = table.groups  # the paper's numbers are GLUE's
    rows = {row[0].text: row for row in group.rows}
    assert rows["lora"][2].text != "—"
    assert [panel.title.split(" ")[0] for panel in figure1(report.cells).panels] == ["BoolQ", "CB", "WiC", "mine"]
    assert figure3(report.cells).panels[0].columns == ("BoolQ", "CB", "WiC")
    assert [row[0].text for row in table4(report.cells).rows] == shown
    assert [row[3].text for row in report.tables["claims"].rows if row[2].text == "figure 1"] == ["confirmed"]
    assert "lora" in report.tables["statistics"].rows[1][0].text
    text = page(report)
    assert "BoolQ" in text
    assert "QNLI" not in text.split('id="tests"')[0]
