"""Figures of heat maps: what is drawn, where it is written, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from normtune.errors import ConfigError, OutputError
from normtune.report.drawing import check, save
from normtune.report.heatmap import HeatMap, figure

LONG = ("attention.self.query", "attention.output.LayerNorm", "output.LayerNorm")


def heat(
    title: str = "RTE",
    rows: int = 4,
    columns: tuple[str, ...] = LONG,
    factor: float = 1e-4,
    unit: str = "mean |change|",
) -> HeatMap:
    values = tuple(tuple(factor * (1 + x + y) for x in range(len(columns))) for y in range(rows))
    return HeatMap(title, tuple(map(str, range(rows))), columns, values, unit)


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_it_is_written_as_the_suffix_says_and_twice_the_same(suffix: str, start: bytes, tmp_path: Path) -> None:
    one, two = tmp_path / f"new/one{suffix}", tmp_path / f"two{suffix.upper()}"
    for path in (one, two):
        save(figure([heat()], title="Change"), path)
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("panels", "across", "shape"), [(1, None, (1, 1)), (4, None, (2, 2)), (5, 4, (2, 4))])
def test_a_panel_and_a_colour_bar_each(panels: int, across: int | None, shape: tuple[int, int]) -> None:
    drawn = figure([heat(f"task {number}") for number in range(panels)], across=across)
    maps = [axes for axes in drawn.axes if axes.get_gid() == "map"]
    assert [axes.get_title("left") for axes in maps] == [f"task {number}" for number in range(panels)]
    assert len(drawn.axes) == 2 * panels
    grid = maps[0].get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    assert (grid.nrows, grid.ncols) == shape


def test_shared_names_stand_at_the_edge_only() -> None:
    drawn = figure([heat(str(number)) for number in range(4)])
    maps = [axes for axes in drawn.axes if axes.get_gid() == "map"]
    named = [([t.get_text() for t in axes.get_xticklabels()] == [*LONG], axes.get_ylabel() == "layer") for axes in maps]
    assert named == [(False, True), (False, False), (True, True), (True, False)]
    other = heat("tasks", rows=3, columns=("rte", "mrpc"))
    maps = [axes for axes in figure([heat(), other, heat(), other]).axes if axes.get_gid() == "map"]
    assert all(axes.get_xlabel() == "component" and axes.get_ylabel() == "layer" for axes in maps)


def test_the_first_row_is_at_the_top_and_each_map_has_its_own_range() -> None:
    small, large = heat(), heat(factor=5.0)
    for axes, panel in zip(figure([small, large]).axes[:2], (small, large), strict=True):
        assert axes.get_ylim() == (4, 0)
        shown = axes.collections[0].get_array()
        assert shown is not None
        assert shown[0, 0] == pytest.approx(panel.values[0][0])
        assert axes.collections[0].get_clim() == pytest.approx((shown.min(), shown.max()))


@pytest.mark.parametrize(
    "values", [((None, None), (None, 1.0)), ((None, None), (None, None)), ((0.0, 0.0), (0.0, 0.0)), ((2.0, 2.0),) * 2]
)
def test_gaps_and_constants_draw(values: tuple[tuple[float | None, ...], ...], tmp_path: Path) -> None:
    save(figure([HeatMap("a $b_ task", ("0", "1"), ("x", "y"), values, "|d|")]), tmp_path / "map.png")


def test_no_label_is_cut_off() -> None:
    drawn = figure([heat(f"task {number}", rows=24) for number in range(4)], title="Change of each component")
    drawn.draw_without_rendering()
    for axes in drawn.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert drawn.bbox.x0 <= box.x0 <= box.x1 <= drawn.bbox.x1
        assert drawn.bbox.y0 <= box.y0 <= box.y1 <= drawn.bbox.y1


def test_the_range_of_colours_is_that_of_the_values() -> None:
    assert heat().limits == pytest.approx((1e-4, 6e-4))
    assert HeatMap("", ("0",), ("x",), ((None,),)).limits == (0.0, 0.0)


def test_a_file_that_cannot_be_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    for name in ("map.jpg", "map", "map.svg.txt"):
        with pytest.raises(ConfigError, match=r"\.svg, \.png, \.pdf"):
            check(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save(figure([heat()]), tmp_path / "file" / "map.svg")


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'normtune\[report\]'"):
        check(tmp_path / "map.svg")
    assert not any(tmp_path.iterdir())


def test_drawing_loads_no_torch_and_opens_no_window(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from normtune.report.drawing import save
from normtune.report.heatmap import HeatMap, figure
assert not {"matplotlib", "numpy", "torch"} & {*sys.modules}
save(figure([HeatMap("RTE", ("0",), ("x",), ((1.0,),))]), Path("map.svg"))
assert not {"torch", "transformers", "matplotlib.pyplot"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
