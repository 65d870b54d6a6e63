"""Heat maps in the terminal: the numbers stand, with colour and without, in whatever width there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from normtune.cli.heatmap import View, number, unit
from normtune.report.heatmap import HeatMap

BERT = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)


def heat(columns: tuple[str, ...] = BERT, rows: int = 3) -> HeatMap:
    values = tuple(tuple(1e-4 * (1 + y + x / 100) for x in range(len(columns))) for y in range(rows))
    return HeatMap("RTE", tuple(map(str, range(rows))), columns, values, "mean |change|")


def text(view: View, width: int = 80, *, colour: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=colour, color_system="truecolor" if colour else None, _environ={}
    )
    console.print(view, highlight=False)
    return file.getvalue()


def test_berts_components_fit_in_80_columns_under_their_whole_names() -> None:
    lines = text(View(heat(), {"all": (2e-4,) * 8, "±": (1e-6,) * 8})).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "RTE"
    assert lines[1].startswith("mean |change| x 1e-4: 1.00 ")
    assert lines[1].endswith(" 3.07")
    assert lines[3].split() == [
        "─",
        "attention.self",
        "─",
        "attention.output",
        "intermediate",
        *["────", "output"],
        "────",
    ]
    assert lines[4].split() == ["layer", *(name.rpartition(".")[2] for name in BERT)]
    numbers = [line.translate(dict.fromkeys(map(ord, "░▒▓█"), " ")).split() for line in lines[5:]]
    assert numbers == [
        *([str(y), *(f"{1 + y + x / 100:.2f}" for x in range(8))] for y in range(3)),
        ["all", *["2.00"] * 8],
        ["±", *["0.01"] * 8],
    ]


def test_what_does_not_fit_follows_below() -> None:
    shown = text(View(heat()), width=40)
    assert max(map(len, shown.splitlines())) <= 40
    assert shown.count("layer ") > 1
    for x in range(8):
        assert shown.count(f"1.{x:02d}") == (2 if x == 0 else 1)  # the smallest stands in the legend too


def test_without_colour_shades_tell_the_large_from_the_small() -> None:
    shown = text(View(HeatMap("", ("0", "1"), ("x", "y"), ((1.0, None), (2.0, 3.0)))))
    assert [line.split() for line in shown.splitlines()[-2:]] == [["0", "1.00", "-"], ["1", "2.00▒", "3.00█"]]


def test_in_colour_the_largest_is_bright_and_the_smallest_dark() -> None:
    shown = text(View(HeatMap("", ("0",), ("x", "y", "z"), ((1.0, 2.0, 3.0),))), colour=True).splitlines()[-1]
    dark, middle, bright = "48;2;68;1;84", "48;2;33;145;140", "48;2;253;231;37"  # viridis' ends and middle
    assert shown.index(dark) < shown.index("1.00") < shown.index(middle) < shown.index("2.00")
    assert shown.index("38;2;0;0;0;" + bright) < shown.index("3.00")
    assert "38;2;255;255;255;" + dark in shown
    assert "█" not in shown


@pytest.mark.parametrize("values", [((None,),), ((0.0,),), ((7.0,),)])
def test_a_map_of_nothing_or_one_value_shows(values: tuple[tuple[float | None, ...], ...]) -> None:
    for colour in (False, True):
        assert text(View(HeatMap("", ("0",), ("x",), values)), colour=colour)


def test_long_names_are_folded() -> None:
    name = "post_attention_layernorm"
    shown = text(View(heat(columns=(name, "mlp." + "x" * 40)))).splitlines()
    assert max(map(len, shown)) <= 80
    heads = "\n".join(shown[3:-3]).split()
    assert [word for word in heads if word in {"post_", "attention_", "layernorm"}] == [
        "post_",
        "attention_",
        "layernorm",
    ]
    assert sum(len(word) for word in heads if {*word} == {"x"}) == 40


def test_numbers_have_three_digits_and_never_hide_that_they_are_not_zero() -> None:
    assert number(9.28e-4, -4, 9.4e-4) == "9.28"
    assert [number(value, 0, 43.2) for value in (43.21, 0.04, 0.0, None)] == ["43.2", "<0.1", "0.0", "-"]
    assert number(0.001, 0, 5.0) == "<0.01"
    assert number(120.4, 0, 500) == "120"
    assert number(0.2, 0, 500) == "<1"
    assert number(9.998, 0, 9.998) == "10.0"
    assert (unit("L0", 0), unit("L0", 5)) == ("L0", "L0 x 1e5")
