"""What README and docs tell a reader to run, run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from normtune.records.store import Store

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<kind>\w+)\n(?P<code>.*?)```", re.DOTALL)
# A made-up file for the README, whose reader has one.
INTENTS = "body,intent\n" + "".join(f"where is {thing},find\nI pay for {thing},buy\n" for thing in "abcdefghij")

Run = Callable[..., tuple[int, str, str]]


def blocks(page: Path) -> Iterator[re.Match[str]]:
    yield from BLOCK.finditer(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.name)
def test_every_example_runs(page: Path, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMTUNE_DATA", "")
    (tmp_path / "intents.csv").write_text(INTENTS)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        code = block["code"]
        if block["file"]:
            (tmp_path / block["file"]).write_text(code)
        elif block["kind"] == "python":
            exec(compile(code, f"{page.name}", "exec"), names)
        else:
            for line in code.strip().splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "normtune"
                status, _, error = cli(*arguments)
                assert status == 0, f"{line}\n{error}"


def test_every_command_in_the_text_exists() -> None:
    from typer.main import get_command

    from normtune.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```|`(normtune [^`]*)`", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in "\n".join(block).splitlines():
                if line.startswith("normtune "):
                    words = shlex.split(line, comments=True)
                    assert words[1] in commands, line
                    options = {option for p in commands[words[1]].params for option in p.opts + p.secondary_opts}
                    assert {word for word in words[2:] if word.startswith("--")} <= options, line


def test_links_between_pages_hold() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "index.html").is_file()


MADE = re.compile(r"<!-- made by: (normtune|python) (.*?) -->\n(.*?)\n\n", re.DOTALL)


@pytest.mark.parametrize(
    ("program", "words", "table"),
    [pytest.param(*made.groups(), id=page.name) for page in PAGES for made in MADE.finditer(page.read_text("utf-8"))],
)
def test_tables_are_what_the_records_say(program: str, words: str, table: str, cli: Run) -> None:
    if program == "python":
        text = subprocess.run(
            [sys.executable, *words.split()], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    else:
        command, folder, *options = shlex.split(words)
        status, text, _ = cli(command, ROOT / folder, *options)
        assert status == 0
    assert text.strip().split("\n\n")[0] == table.strip()


def test_the_bank_page_is_what_the_benchmark_measured() -> None:
    page = (ROOT / "docs" / "bank.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "results" / "benchmarks" / "bank.json").read_text())
    expected = {name.replace("_", " "): f"{value:.2f}" for name, value in measured["ratios"].items()}
    for name, value in (measured["cases"]["memory"] | measured["cases"]["adding"]).items():
        unit, words = name.rpartition("_")[2], name.replace("_", " ")
        if unit == "seconds":
            expected[f"{words.removesuffix(' seconds')}, ms"] = f"{1000 * value:.1f}"
        else:
            expected[words] = f"{value:,.0f}"
    rows = dict(re.findall(r"^\| (.+?) \| ([\d.,]+) \|$", page, re.MULTILINE))
    assert rows == expected
    assert measured["cases"]["quality"]["largest_difference_from_alone"] < 1e-5


def test_records_are_whole_and_named_after_their_run() -> None:
    store = Store(ROOT / "results" / "runs")
    records = list(store)
    assert records
    assert all(store.path(record.id).is_file() and record.status == "done" for record in records)
