"""``normtune compare``: what a reader sees, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.report.comparisons import theirs_table
from normtune.report.table import rows_as_markdown
from normtune.statistics.comparison import compare, sentence
from normtune.statistics.paired import p_value
from normtune.statistics.published import METHODS, TABLES, TASKS
from tests.records.test_aggregate import record
from tests.statistics.test_comparison import BASE, TINY, table

Run = Callable[..., tuple[int, str, str]]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def table2(tmp_path: Path) -> Path:
    path = tmp_path / "table2.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", *METHODS])
        writer.writerows(zip(TASKS, *TABLES["dev"].values(), strict=True))
    return path


def test_a_reader_sees_numbers_and_sentences(cli: Run, table2: Path):
    status, text, error = cli("compare", table2, "--methods", "bitfit,layernorm,random", "--against", "layernorm")
    assert (status, error) == (0, "")
    assert "MNLI-m and MNLI-mm are one task, MNLI" in text
    for shown in ("0.0391", "0.0781", "0.56599", "0.45291", "9 rows", "8 tasks"):
        assert shown in text
    assert "- bitfit and layernorm are equivalent within 0.01: mean difference +0.0043" in text
    assert "- layernorm scores higher than random: mean difference -0.0390" in text
    assert "cannot tell even random from layernorm (p = 0.46225)" in text
    assert "There is one seed" in text


def test_json_holds_it_all(cli: Run, table2: Path):
    status, text, _ = cli("compare", table2, "--json", "--methods", "bitfit,layernorm")
    assert status == 0
    rows, tasks = json.loads(text)["sets"]
    assert [each["values"] for each in (rows, tasks)] == ["rows", "tasks"]
    assert tasks["groups"] == {"MNLI": ["MNLI-m", "MNLI-mm"]}
    assert rows["pairs"][0]["signed_rank"]["p"] == 0.0390625
    assert tasks["pairs"][0]["verdict"] == "equivalent"


def test_rows_that_are_one_task_can_be_named(cli: Run, table2: Path):
    _, stated, _ = cli("compare", table2, "--group", "MNLI-mm,QNLI", "--json")
    assert json.loads(stated)["sets"][1]["groups"] == {"MNLI-mm+QNLI": ["MNLI-mm", "QNLI"]}


def test_markdown_tables_are_whole(cli: Run, table2: Path):
    _, text, _ = cli("compare", table2, "--markdown")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(lines) for lines in tables] == [2 + 6 * 2] * 4
    assert all(len({line.count("|") for line in lines}) == 1 for lines in tables)


def test_the_margin_and_the_level_are_the_users(cli: Run, table2: Path):
    _, text, _ = cli("compare", table2, "--methods", "bitfit,layernorm", "--margin", "0.005", "--alpha", "0.001")
    assert "99.9% interval" in text
    _, text, _ = cli("compare", table2, "--methods", "bitfit,layernorm", "--margin", "0.005", "--alpha", "0.1")
    assert "bitfit scores higher than layernorm: mean difference +0.0043, 90% interval" in text
    assert "Is it smaller than 0.005?" in text


def test_percents_are_read_alike(cli: Run, table2: Path, tmp_path: Path):
    percents = tmp_path / "percents.csv"
    header, *lines = table2.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    body = [",".join([task, *(f"{100 * float(value):.2f}" for value in values)]) for task, *values in cells]
    percents.write_text("\n".join([header, *body]) + "\n")
    first, second = (json.loads(cli("compare", path, "--json")[1])["sets"] for path in (table2, percents))
    for ours, theirs in zip(first[0]["pairs"], second[0]["pairs"], strict=True):
        assert ours["signed_rank"] == theirs["signed_rank"]
        assert ours["mean"] == pytest.approx(theirs["mean"])
    assert "read as percents" in cli("compare", percents)[1]


def test_records_are_compared_on_shared_seeds(cli: Run, tmp_path: Path):
    for place, method in enumerate(("head", "full")):
        for number, task in enumerate(("rte", "cola", "mrpc")):
            for seed in range(2 + (task == "rte" and method == "full")):
                run = record(method, task, seed, 1e-2, 0.5 + place / 10 + number / 100 + seed / 1000)
                run.save(tmp_path / f"{run.id}.json")
    status, text, error = cli("compare", tmp_path, "--protocol", "small", "--methods", "full,head")
    assert (status, error) == (0, "")
    assert "2 methods on 3 tasks, 2 seeds each." in text
    assert "On rte 2 of 3 seeds are used" in text
    assert "With 3 tasks the exact test cannot give a p below 0.2500" in text
    assert "at least 6 tasks" in text
    assert "There is one seed" not in text
    status, _, error = cli("compare", tmp_path, "--protocol", "paper")
    assert status == 1
    assert "no records of runs of protocol paper" in error


def test_the_page_shows_the_paper():
    page = (DOCS / "statistics.md").read_text(encoding="utf-8")
    assert rows_as_markdown(theirs_table()) in page
    block = re.search(r"```csv\n(.*?)```", page, re.DOTALL)
    assert block is not None
    rows = [*csv.reader(block[1].splitlines())]
    assert tuple(rows[0][1:]) == METHODS
    assert [row[0] for row in rows[1:]] == [*TASKS]
    assert [[float(cell) for cell in row[1:]] for row in rows[1:]] == [
        [*values] for values in zip(*TABLES["dev"].values(), strict=True)
    ]


def test_names_are_no_markup(cli: Run, tmp_path: Path):
    path = tmp_path / "s.csv"
    path.write_text("task,[red]a[/],a|b\n[x],0.1,0.2\ny,0.3,0.1\nz,0.1,0.3\n")
    assert "[red]a[/] - a|b" in cli("compare", path)[1]
    assert r"[red]a[/] - a\|b" in cli("compare", path, "--markdown")[1]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("task,a,b\nx,0.1,\n", [], "line 2: the score of b is missing"),
        ("task,a\nx,0.1\ny,0.1\nz,0.1\n", [], "at least two methods; got a"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\n", [], "at least 3 tasks; there are 2"),
        ("task,a,b\nx-m,0.1,0.2\nx-mm,0.1,0.2\ny,0.1,0.2\n", [], "at least 3 tasks; there are 2: x, y"),
        ("task,a,b\nx,0.1,high\n", [], "'high' in the column 'b' is no number"),
        ("task,a,b\nx,0.1,0.2\nx,0.1,0.2\n", [], "x stands twice"),
        ("", [], "has no rows"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--against", "c"], "Unknown method 'c'"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--methods", "a,c"], "Unknown method 'c'"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--protocol", "small"], "no folder of records"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--margin", "1"], "The margin is a fraction"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--json", "--markdown"], "one of --json and --markdown"),
        ("task,a,b\nx,0.1,0.2\ny,0.1,0.2\nz,0.1,0.2\n", ["--group", "x,w"], "Unknown task 'w'"),
    ],
)
def test_bad_input_is_one_sentence(cli: Run, tmp_path: Path, content: str, options: list[str], message: str):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    status, out, error = cli("compare", path, *options)
    assert (status, out) == (1, "")
    assert message in error
    assert error.count("\n") == 1


def test_nothing_to_read(cli: Run, tmp_path: Path):
    for arguments, message in (
        ([tmp_path / "none.csv"], "cannot be read: No such file"),
        ([tmp_path], "There are no records of runs"),
    ):
        status, _, error = cli("compare", *arguments)
        assert status == 1
        assert message in error


def test_sentences():
    near = [value + 0.001 * (n + 1) / 2 for n, value in enumerate(BASE)]
    (pair,) = compare(table(a=near, b=BASE)).pairs
    assert sentence(pair).startswith("a scores higher than b, but by less than 0.01: mean difference +0.0022")
    (pair,) = compare(table(a=[b + t for b, t in zip(BASE, TINY, strict=True)], b=BASE)).pairs
    assert sentence(pair).startswith("a and b are equivalent within 0.01")
    odd = [value + (0.001 * (n + 1) if n else -0.2) for n, value in enumerate([*BASE, *BASE])]
    (pair,) = compare(table(a=odd, b=[*BASE, *BASE])).pairs
    assert sentence(pair).startswith("a scores higher than b on most tasks, though not on average: ")
    (pair,) = compare(table(**{name: TABLES["test"][name] for name in ("bitfit", "layernorm")})).pairs
    assert sentence(pair).startswith("bitfit scores higher than layernorm: ")


def test_p_values_are_never_printed_as_zero():
    assert [p_value(p) for p in (0.0390625, 1.0, 0.00001, 0.0)] == ["0.0391", "1.0000", "< 0.0001", "< 0.0001"]
