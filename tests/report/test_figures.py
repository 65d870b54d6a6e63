from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from normtune.importance.movement import movement
from normtune.records.results import read
from normtune.records.run import Record
from normtune.report.curves import Curves, ticks
from normtune.report.figures import ENDS, Heat, figure1, figure2, figure3, figure4, figure5
from normtune.report.multiples import VIRIDIS, colour, heat_maps
from normtune.report.scores import Scores
from normtune.report.svg import curves
from tests.report import made


def test_figure1_is_equation_1(folder):
    scores = Scores(read(folder))
    drawing = figure1(scores)
    records = [Record.load(folder / "runs" / f"{run.id}.json") for run in scores.chosen["full", "rte"].values()]
    known = movement([record.changes for record in records])
    panel = next(each for each in drawing.panels if isinstance(each, Heat) and each.map.title.startswith("RTE"))
    for name, row in zip(panel.map.rows, panel.map.values, strict=True):
        for layer, value in zip(panel.map.columns, row, strict=True):
            assert value == pytest.approx(known.cells[name, int(layer)].mean, rel=1e-12)
    assert "QQP" in drawing.notes[0]


def test_figures_3_and_4_share_their_colours_and_sum_to_one(folder):
    results = read(folder)
    weight, bias = figure3(results).panels
    assert weight.limits == bias.limits
    assert weight.map.unit.startswith("log10")  # a task's sums are 300 times the others'
    assert weight.map.rows == ("2", "1", "0")
    weight, bias = figure4(results).panels
    for place, _ in enumerate(weight.map.columns):
        assert sum(row[place] for each in (weight, bias) for row in each.map.values) == pytest.approx(1)
    assert weight.map.columns[-1] == "mean"


def test_curves_run_from_the_head_to_the_whole_layernorm(folder):
    scores = Scores(read(folder))
    for drawing in (figure2(scores), figure5(scores)):
        assert [panel.title for panel in drawing.panels] == ["CoLA", "MRPC", "STS-B", "RTE"]
        for panel in drawing.panels:
            first = panel.series[0]
            assert [point.x for point in first.points] == [0, 0.1, 0.2, 0.4, 1]
            assert [point.marked for point in first.points] == [False, True, True, True, False]
            assert panel.series[-1].look == ENDS
            assert panel.note == ""
    assert len(figure5(scores).panels[0].series) == 4


def test_missing_masks_are_counted(tmp_path):
    made.results(tmp_path, methods={**made.METHODS, "fisher-individual@0.1": -0.02}, tasks=["rte"], information=False)
    gone = next(r for r in read(tmp_path).runs if (r.config.method, r.config.seed) == ("fisher-individual@0.1", 1))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    drawing = figure2(Scores(read(tmp_path)))
    assert drawing.panels[0].note == "1 mask run missing"
    assert not drawing.panels[0].series[0].points[1].complete
    assert "No masks trained yet" in drawing.notes[0]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (30.2, 59.7), (-3, 4), (5, 5), (0.001, 0.0011), (81.2, 81.9)])
def test_ticks_hold_all_values(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 6
    assert len({round(b - a, 9) for a, b in pairwise(found)}) == 1


def test_drawings_are_xml_with_a_text_for_every_mark(folder):
    results = read(folder)
    for drawing, bars in ((figure1(Scores(results)), 4), (figure4(results), 1)):
        heats = [heat for heat in drawing.panels if isinstance(heat, Heat)]
        if bars == 4:  # the made records of all tasks are alike
            heats = [replace(heat, limits=(0.0, place + 1.0)) for place, heat in enumerate(heats)]
        drawn = ET.fromstring(heat_maps(heats, "key"))
        cells = [each for each in drawn.iter("rect") if each.get("data-tip")]
        assert len(cells) == sum(len(heat.map.rows) * len(heat.map.columns) for heat in heats)
        assert not any("nan" in str(each.attrib) for each in drawn.iter())
        # Rows are named once, a range of colours is shown once where it is shared, and nothing hangs over the edge.
        said = [each.text for each in drawn.iter("text")]
        assert [name for name in said if name in heats[0].map.rows[:1]] == [heats[0].map.rows[0]]
        assert len([*drawn.iter("linearGradient")]) == bars
        right = max(float(cell.get("x", 0)) + float(cell.get("width", 0)) for cell in cells)
        assert float(drawn.get("width", 0)) - 2 < right <= float(drawn.get("width", 0))
    panel = figure5(Scores(results)).panels[0]
    assert isinstance(panel, Curves)
    drawn = ET.fromstring(curves(panel, [each.look for each in panel.series]))
    points = list(drawn.iter("a"))
    assert len(points) == sum(point.marked for each in panel.series for point in each.points)
    assert all("seed 0" in each.get("data-tip") for each in points)


def test_colours_are_viridis():
    assert (colour(0), colour(1), colour(0.5)) == (VIRIDIS[0], VIRIDIS[-1], VIRIDIS[4])
    brightness = [sum(bytes.fromhex(colour(place / 20)[1:])) for place in range(21)]
    assert math.isclose(max(brightness), brightness[-1], rel_tol=0.1)
