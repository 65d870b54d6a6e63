"""How results are printed, and what the help says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from normtune.cli import render
from normtune.cli.app import COMMANDS
from normtune.report.table import Entry

Run = Callable[..., tuple[int, str, str]]
SHOWN = render.table(["name", "a long header"], [["[red]x[/]", "1.25"], ["a|b", Entry("2", spread="1")]], title="Title")


@pytest.mark.parametrize("width", [20, 80])
def test_words_are_folded_and_numbers_never(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.console, "_width", width)
    render.show([SHOWN])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "[red]x[/]" in text  # no markup
    assert "2 ± 1" in text
    assert "Title" in text


def test_a_title_stands_over_each_of_several_tables_in_markdown() -> None:
    alone = render.as_markdown([SHOWN])
    lines = ["| name | a long header |", "| --- | ---: |", "| [red]x[/] | 1.25 |", r"| a\|b | 2 ± 1 |"]
    assert alone.splitlines() == lines
    assert render.as_markdown([SHOWN, "Text.", SHOWN]) == f"**Title**\n\n{alone}\n\nText.\n\n**Title**\n\n{alone}"


def test_csv_has_all_digits() -> None:
    assert render.as_csv([{"a": 1 / 3, "b": None}, {"a": 2, "b": "x,y"}]) == 'a,b\n0.3333333333333333,\n2,"x,y"\n'
    assert render.as_csv([]) == ""


def test_the_help_lists_every_command_under_a_heading(cli: Run) -> None:
    status, text, _ = cli("--help")
    assert status == 0
    for heading, commands in COMMANDS.items():
        assert heading in text
        for command in commands:
            name = command.__name__.strip("_")
            assert f" {name} " in text
            assert cli(name, "--help")[0] == 0
