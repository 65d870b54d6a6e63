"""Runs what README and docs tell a reader to run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from normtune.records.results import Store
from tests.soak.kinds import KINDS
from tests.soak.test_kills import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<kind>\w+)\n(?P<code>.*?)```", re.DOTALL)

Run = Callable[..., tuple[int, str, str]]


def blocks(page: Path) -> Iterator[re.Match[str]]:
    yield from BLOCK.finditer(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.name)
def test_every_example_runs(page: Path, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMTUNE_DATA", "")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
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


def test_the_bank_tables_are_what_the_benchmark_measured() -> None:
    measured = json.loads((ROOT / "results" / "benchmarks" / "bank.json").read_text())
    all_rows, shown = (
        table_after("results/README.md", "throughput, ours"),
        table_after("docs/serving.md", "compared with"),
    )
    assert [*all_rows.values()] == [f"{value:.2f}" for value in measured["ratios"].values()]
    for words, name in BANK.items():
        assert shown[words] == f"{measured['ratios'][name]:.1f}"
    assert shown.keys() == BANK.keys()
    assert measured["cases"]["quality"]["largest_difference_from_alone"] < 1e-5


BANK = {
    "the base model with one task, 53 tokens a row": "mixed_vs_base",
    "the base model with one task, 8 tokens a row": "mixed_vs_base_8_tokens",
    "one process for each task, without the time for starting them": "mixed_vs_one_process_a_task",
    "PEFT's LN tuning, which switches adapters, 53 tokens a row": "mixed_vs_peft_switching",
    "PEFT's LN tuning, which switches adapters, 8 tokens a row": "mixed_vs_peft_switching_8_tokens",
}


def table_after(page: str, head: str) -> dict[str, str]:
    """The first and the last column of the table whose head begins with `head`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = text[text.index(f"| {head}") :].split("\n\n")[0].splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    return {row[0]: row[-1] for row in cells}


def test_contributors_find_what_the_page_names() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "normtune"
    named = re.findall(r"`(\w+)`(?: \(both)? in `(\w+/[\w/]+\.(?:py|j2))`", page)
    assert len(named) >= 8
    for name, file in named:
        assert re.search(rf"\b{name}\b", (source / file).read_text(encoding="utf-8")), f"{name} is not in {file}"
    for file in re.findall(r"`(\w+/[\w/]+\.(?:py|html\.j2))`", page):
        assert (source / file).is_file() or (ROOT / file).is_file(), file


def test_what_is_promised_has_its_tests_and_counts() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 18
    for file, test in named:
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{test} is not in {file}"
    assert f"of each of {len(KINDS)} kinds" in page
    assert f"of {len(COMMANDS)} commands" in page


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r"- (\w[\w-]*\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_records_are_whole_and_named_after_their_run() -> None:
    store = Store(ROOT / "results" / "runs")
    records = list(store)
    assert records
    assert all(store.path(record.id).is_file() and record.status == "done" for record in records)


def test_masks_and_fisher_information_of_the_study_carry_hashes() -> None:
    files = sorted((ROOT / "results").rglob("*.safetensors"))
    assert len(files) == 100
    for file in files:
        with safe_open(file, "pt") as stored:
            assert any('"hash":' in text for text in stored.metadata().values()), file
