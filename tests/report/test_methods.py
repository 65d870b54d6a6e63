"""All methods compared: what the table says, and a figure with readable names."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from normtune.records.results import Results
from normtune.records.run import Record
from normtune.report import scatter
from normtune.report.cells import Cells
from normtune.report.methods import LAYERS, MERGED, OWN, TOKENS, added, interval, methods_table, panels, style
from tests.report import made

SIZE = 22_713_216
#: For each method its entries, whether it adds them, its cost at inference, and its score.
FIELD: dict[str, tuple[int, bool, str, float]] = {
    "head": (0, False, "none", 0.335),
    "full": (SIZE, False, "none", 0.832),
    "bitfit": (26_112, False, "none", 0.824),
    "layernorm": (4_608, False, "none", 0.829),
    "attention-layernorm": (4_608, False, "none", 0.822),
    "all-layernorm": (9_984, False, "none", 0.83),
    "random": (4_608, False, "none", 0.736),
    "last-layers": (3_696_768, False, "none", 0.80),
    "value-bias": (2_304, False, "none", 0.79),
    "lora@8": (73_728, True, "none", 0.834),
    "lora-all@1": (41_472, True, "none", 0.836),
    "dora@8": (78_336, True, "none", 0.833),
    "ia3": (13_824, True, "none", 0.826),
    "residual-prompt-tuning@10": (3_840, True, "extra tokens", 0.81),
    "adapter@4": (39_000, True, "extra layers", 0.831),
    "hyper-adapter@16": (90_000, True, "extra layers", 0.828),
}


def run(method: str, seed: int, score: float) -> Record:
    entries, adds, cost, _ = FIELD[method]
    counts = {"selected": entries, "head": 770, "trained": entries + 770, "share": entries / SIZE}
    known = made.record("stsb", method, seed)
    return known.model_copy(
        update={
            "counts": known.counts.model_copy(update={**counts, "total": SIZE + 770 + entries * adds}),
            "cost": cost,
            "score": score,
            "scores": {"dev": {known.primary: score}},
            "delta_bytes": 4 * entries,
            "seconds": 30.0 + seed,
        }
    )


@pytest.fixture(scope="module")
def crowd() -> Cells:
    """Sixteen methods with long names, most of them at much the same height."""
    draws = random.Random(0)
    runs = [run(name, seed, facts[3] + draws.gauss(0, 0.004)) for name, facts in FIELD.items() for seed in range(3)]
    return Cells(Results(tuple(runs), ()))


def test_the_interval_is_students(crowd: Cells) -> None:
    """mean ± t(0.975, n - 1) s / sqrt(n), with t(0.975, 2) = 4.302653 from a table."""
    cell = crowd.cell("layernorm", crowd.ran[0])
    values = np.array([*cell.values.values()])
    assert interval(cell) == pytest.approx(4.302653 * values.std(ddof=1) / np.sqrt(3))
    alone = Cells(Results((run("layernorm", 0, 0.5),), ()))
    assert interval(alone.cell("layernorm", alone.ran[0])) is None


def test_added_entries_and_their_cost_say_how_a_method_is_drawn(crowd: Cells) -> None:
    for method, (entries, adds, _, _) in FIELD.items():
        assert added(run(method, 0, 0.5).counts) == entries * adds
    styles = {method: style(run(method, 0, 0.5)) for method in FIELD}
    assert [styles[name] for name in ("head", "full", "ia3")] == [OWN, OWN, MERGED]
    assert [styles[name] for name in ("residual-prompt-tuning@10", "adapter@4")] == [TOKENS, LAYERS]


def test_a_row_has_score_interval_and_all_that_a_method_costs(crowd: Cells) -> None:
    table = methods_table(crowd)
    assert table.header == ("method", "STS-B", "entries", "delta", "seconds", "peak memory", "at inference")
    assert [group.name for group in table.groups] == [each.name for each in (OWN, MERGED, TOKENS, LAYERS)]
    assert {row[0].text for row in table.groups[2].rows} == {"residual-prompt-tuning@10"}
    row = next(row for row in table.rows if row[0].text == "LayerNorm")
    cell = crowd.cell("layernorm", crowd.ran[0])
    assert row[1].text == f"{100 * float(np.mean([*cell.values.values()])):.1f}"
    assert row[1].spread == f"{100 * (interval(cell) or 0):.1f}"
    assert [entry.text for entry in row[2:]] == ["4,608", "18.4 kB", "31", "1.1 GB", "none"]


def test_names_cover_no_other_name_and_no_point(crowd: Cells) -> None:
    panel, _ = panels(crowd, crowd.ran[0])
    assert panel.line is not None  # the head alone has no entries, so it is no point
    figure = scatter.figure([panel, panel])
    axes = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # gives the names their places
    names = {text.get_text(): Text.get_window_extent(text, renderer) for text in axes.texts}  # without leader lines
    assert {*names} >= {dot.name for dot, _ in panel.dots}
    for one, other in itertools.combinations(names, 2):
        assert not names[one].overlaps(names[other]), (one, other)
    points = [axes.transData.transform((x, dot.score)) for dot, x in panel.dots]
    assert not [name for name, box in names.items() for point in points if box.contains(*point)]
    inside = axes.get_window_extent(renderer)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in names.values())


def test_a_long_bar_does_not_stretch_the_axis_far_above_the_highest_possible_score() -> None:
    dot = scatter.Dot("one", OWN, 80.0, 31.0, complete=True, tip="")
    axes = scatter.figure([scatter.Scatter("", "entries", ((dot, 10.0),))]).axes[0]
    low, high = axes.get_ylim()
    assert low < 49
    assert 100 < high < 110


def test_a_name_stands_nearest_to_its_own_point() -> None:
    """Right of its point, the first choice, a name would be nearer to another point."""
    room = Bbox.from_bounds(-200, -200, 400, 400)
    alone, _ = scatter._free((0, 0), 40, 8, [], room, [])
    assert alone.x0 > 0
    beside, _ = scatter._free((0, 0), 40, 8, [], room, [(54, 0)])
    assert scatter._away(beside, (0, 0)) <= scatter._away(beside, (54, 0))
    assert scatter._away(alone, (0, 0)) > scatter._away(alone, (54, 0))
