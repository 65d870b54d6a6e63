"""How results are printed, and what the help says."""

from __future__ import annotations

import io
import sys
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


#: Clears the screen, sets the window's title and colours what follows: by ESC, and by the one-byte CSI.
HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\x08\x7f"


def test_no_control_characters_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = io.StringIO()
    monkeypatch.setattr(render, "console", render.Terminal(file=sent, force_terminal=True, color_system=None))
    shown = render.table(["name", HOSTILE], [[HOSTILE, "1.25"]], title=HOSTILE, notes=[HOSTILE])
    render.show([HOSTILE, shown, "two\nlines"])
    assert not [sign for sign in sent.getvalue() if not sign.isprintable() and sign != "\n"]
    assert sent.getvalue().count("a?[2Jb") == 5
    assert "two\nlines" in sent.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_what_programs_read_is_exact_unless_a_terminal_shows_it(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    render.show([], "csv", rows=[{"label": HOSTILE}])
    render.show([HOSTILE], "markdown")
    text = capsys.readouterr().out
    assert (HOSTILE in text) is not terminal
    assert ("\x1b" in text) is not terminal
    assert text.count("\n") == 3
    render.show([], "json", plain=HOSTILE)
    assert "\\u001b" in capsys.readouterr().out


def test_the_help_lists_every_command_under_a_heading(cli: Run) -> None:
    status, text, _ = cli("--help")
    assert status == 0
    for heading, commands in COMMANDS.items():
        assert heading in text
        for command in commands:
            name = command.__name__.strip("_")
            assert f" {name} " in text
            assert cli(name, "--help")[0] == 0


def test_a_table_too_wide_for_the_terminal_is_broken_between_columns_and_no_number_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.console, "_width", 80)
    cells = ("diff-pruning@20000", *[f"5{i}.9 ± 19.9" for i in range(3)], "22,713,216", "147.8 kB", "5", "778.3 MB")
    header = ("method", "SST-2", "STS-B", "RTE", "entries", "delta", "seconds", "peak memory", "at inference")
    render.show([render.table(header, [(*cells, "extra tokens")])])
    text = capsys.readouterr().out
    assert all(cell in text for cell in (*cells, "seconds", "extra"))
    assert text.count("diff-pruning@20000") == 2
    assert max(map(len, text.splitlines())) <= 80
