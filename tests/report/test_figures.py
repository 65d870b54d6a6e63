from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from normtune.importance.movement import movement
from normtune.records.results import read
from normtune.records.run import Record
from normtune.report.cells import Cells
from normtune.report.curves import Curves, points
from normtune.report.drawing import rendered
from normtune.report.figures import ENDS, figure1, figure2, figure3, figure4, figure5
from normtune.report.heatmap import HeatMap
from tests.report import made


def test_figure1_is_equation_1(folder, cells):
    drawing = figure1(cells)
    records = [Record.load(folder / "runs" / f"{run.id}.json") for run in cells.chosen["full", "rte"].values()]
    known = movement([record.changes for record in records])
    panel = next(each for each in drawing.panels if each.title.startswith("RTE"))
    for name, row in zip(panel.rows, panel.values, strict=True):
        for layer, value in zip(panel.columns, row, strict=True):
            assert value == pytest.approx(known.cells[name, int(layer)].mean, rel=1e-12)
    assert "QQP" in drawing.notes[0]


def test_figures_3_and_4_share_their_colours_and_sum_to_one(cells):
    weight, bias = figure3(cells).panels
    assert weight.limits == bias.limits
    assert weight.log  # a task's sums are 300 times the others'
    assert weight.rows == ("2", "1", "0")
    weight, bias = figure4(cells).panels
    for place, _ in enumerate(weight.columns):
        assert sum(row[place] for each in (weight, bias) for row in each.values) == pytest.approx(1)
    assert weight.columns[-1] == "mean"


def test_curves_run_from_the_head_to_the_whole_layernorm(cells):
    for drawing in (figure2(cells), figure5(cells)):
        assert [panel.title for panel in drawing.panels] == ["CoLA", "MRPC", "STS-B", "RTE"]
        for panel in drawing.panels:
            first, *_, last = panel.series.items()
            assert [*points(first[1])] == [0.1, 0.2, 0.4]
            assert (last[0], [*points(last[1])]) == (ENDS, [0, 1])
            assert panel.note == ""
    assert len(figure5(cells).panels[0].series) == 3 + 1
    drawn = figure5(cells).figure.axes[0]
    assert [*drawn.lines[0].get_xdata()] == [0, 0.1, 0.2, 0.4, 1]


def test_missing_masks_are_counted(tmp_path):
    made.results(tmp_path, methods={**made.METHODS, "fisher-individual@0.1": -0.02}, tasks=["rte"], measured=())
    gone = next(r for r in read(tmp_path).runs if (r.config.method, r.config.seed) == ("fisher-individual@0.1", 1))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    drawing = figure2(Cells(read(tmp_path)))
    assert drawing.panels[0].note == "1 mask run missing"
    assert not next(iter(drawing.panels[0].series.values()))[0.1].complete
    assert "No masks trained yet" in drawing.notes[0]


def test_an_importance_that_nobody_has_seen_has_lines_of_its_own(tmp_path):
    masks = ("wanda-individual@0.2", "wanda-global@0.2", "magnitude@0.2")
    methods = {"head": -0.3, "layernorm": 0.0, **dict.fromkeys(masks, -0.1)}
    made.results(tmp_path, methods=methods, tasks=["rte"], measured=(), seeds=[0])
    cells = Cells(read(tmp_path))
    lines = [
        {look.name for look, own in drawing.panels[0].series.items() if look != ENDS and points(own)}
        for drawing in (figure2(cells), figure5(cells))
    ]
    assert lines == [{"wanda-individual", "magnitude"}, {"wanda-individual", "wanda-global"}]


def test_the_page_has_a_text_for_every_mark_of_the_file(shown):
    for drawing in shown.figures.values():
        drawn = ET.fromstring(drawing.inline)
        tips = [each for each in drawn.iter() if each.get("data-tip")]
        if isinstance(drawing.panels[0], HeatMap):
            assert len(tips) == sum(len(panel.rows) * len(panel.columns) for panel in drawing.panels)
            assert not drawing.panels[0].log or len({each.get("style") for each in tips}) > 10
        else:
            assert len(tips) == sum(len(own) for panel in drawing.panels for own in panel.marks)
            assert all("seed 0" in each.get("data-tip", "") for each in tips)
        assert "nan" not in drawing.inline
        file = ET.fromstring(rendered(drawing.figure, ".svg"))
        shapes = [sum(1 for each in tree.iter() if each.tag.endswith(("path", "use"))) for tree in (drawn, file)]
        assert shapes[0] == shapes[1]


def test_a_point_says_what_lies_under_it(cells):
    panel = figure5(cells).panels[0]
    assert isinstance(panel, Curves)
    said = panel.marks[0][0].splitlines()
    assert [line.split(":")[0] for line in said[:4]] == ["f = 0.1", "individual", "global", "leave-one-out (CV)"]
