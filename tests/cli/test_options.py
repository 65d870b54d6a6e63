"""An option that has no effect is refused, by every command, before anything is read, measured or written."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.cli.app import app
from normtune.cli.options import protocol_of
from normtune.models.base import Base
from tests.deltas.banked import changed

Run = Callable[..., tuple[int, str, str]]

RTE = ("--task", "rte", "--suite", "toy")
MASK = ("mask", "--out", "m.safetensors", "--fraction", "0.1")
USELESS = [
    (("train", *RTE, "--labels", "numbers"), "The columns of a suite's task are known: leave out --labels."),
    (("train", *RTE, "--dev", "t.csv"), "The columns of a suite's task are known: leave out --dev."),
    (("train", *RTE, "--data", "glue"), "The suite 'toy' comes with the package: leave out --data."),
    (("train", *RTE, "--read", "delimiter=;"), "The columns of a suite's task are known: leave out --read."),
    (("train", "--train", "m.yaml", "--overwrite"), "are trained again where they changed: leave out --overwrite."),
    (("train", *RTE, "--records", "r", "--overwrite"), "Only records are kept, and none is overwritten: leave out"),
    (("evaluate", "d", "--read", "delimiter=;"), "Only --file has columns to name and to read: leave out --read."),
    (("predict", "d", "--text", "a", "--read", "delimiter=;"), "A text has no column: leave out --read."),
    (("predict", "d", "--file", "t.csv", "--read", "decimal=comma"), "No numbers are read here: leave decimal out of"),
    (("train", "--train", "t.csv", "--suite", "nonsense"), "A file of your own is in no suite: leave out --suite."),
    (("train", "--train", "m.yaml", "--method", "full"), "m.yaml says otherwise: leave out --method."),
    (("evaluate", "d", "--file", "t.csv", *RTE), "--file is scored instead of a task: leave out --suite, --task."),
    (("evaluate", "d", "--label", "y"), "Only --file has columns to name and to read: leave out --label."),
    (("evaluate", "d", *RTE, "--data", "glue"), "The suite 'toy' comes with the package: leave out --data."),
    (("predict", "d", "--text", "a", "--column", "x"), "A text has no column: leave out --column."),
    (("predict", "d", "--file", "t.png", "--column", "x"), "Pictures have no columns: leave out --column."),
    (("predict", "d", "--file", "t.csv", "--text-pair", "x"), "A file has columns: leave out --text-pair."),
    (("predict", "d", "--file", "t.csv", "--pair-column", "x"), "No pairs are read: leave out --pair-column."),
    (("predict", "d", "--file", "t.csv", "--out", "a.csv", "--json"), "says what is written: leave out --json."),
    (("serve", "d", "--cache-mb", "9"), "Only --follow loads tasks on request: leave out --cache-mb."),
    (("serve", "d", "--fixed", "--deltas-folder", "."), "no call changes the tasks: leave out --deltas-folder."),
    (("serve", "d", "--fixed", "--token-file", "t"), "no call changes the tasks: leave out --token-file."),
    (("fisher", "--tasks", "rte", "--samples", "3"), "Only --estimator monte-carlo draws labels: leave out --samples."),
    (("fisher", "--tasks", "rte", "--tolerance", "0.2"), "Only --until-stable compares halves of the examples:"),
    (("fisher", "--tasks", "m.yaml", "--suite", "toy"), "A manifest names the files of its tasks: leave out --suite."),
    (("fisher", "records", "--examples", "9"), "A folder of records is read, and nothing is measured:"),
    ((*MASK, "--tasks", "rte", "--seed", "3"), "The importance 'fisher' draws nothing: leave out --seed."),
    (
        (*MASK, "--importance", "magnitude", "--examples", "9"),
        "measured on examples in this way: leave out --examples.",
    ),
    (
        (*MASK, "--importance", "wanda", "--head-seeds", "1"),
        "measured on examples in this way: leave out --head-seeds.",
    ),
    (("study", "table1", "--methods", "head"), "table1 makes no use of this: leave out --methods."),
    (("study", "table2", "--fractions", "0.5"), "table2 makes no use of this: leave out --fractions."),
    (("study", "figure2", "--masks", "random"), "figure2 makes no use of this: leave out --masks."),
    (("study", "figure1", "--head-seeds", "0"), "figure1 makes no use of this: leave out --head-seeds."),
    (("study", "table2", "--mode", "read-only", "--executor", "pool"), "read-only runs nothing: leave out --executor."),
    (("push", "d", "me/d", "--dry-run", "--private"), "--dry-run makes no repository: leave out --private."),
    (("compare", "t.csv", "--protocol", "small"), "t.csv is no folder of records: leave out --protocol."),
    (("runs", "records", "--compare", "a", "b", "--task", "rte"), "takes two ids and shows nothing else:"),
    (("report", "records", "--table", "claims", "--force"), "--table prints a table and writes nothing:"),
]


@pytest.mark.parametrize(("call", "said"), USELESS, ids=[" ".join(call) for call, _ in USELESS])
def test_an_option_without_effect_is_refused(
    cli: Run, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"a cat {i},{i % 2}\n" for i in range(8)))
    (tmp_path / "m.yaml").write_text("method: head\ntasks: [{name: a, train: t.csv}, {name: b, train: t.csv}]")
    changed(tiny_base, "layernorm").save(tmp_path / "d")
    before = sorted(tmp_path.rglob("*"))
    status, text, error = cli(*call)
    assert (status, text) == (1, ""), error
    assert said in error
    assert [line[:7] for line in error.splitlines()] == ["Error: "]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_field_of_a_protocol_that_is_tried_as_an_option(cli: Run) -> None:
    for option, field in (("--no-dropout", "dropout"), ("--products", "products"), ("--max-train", "max_train")):
        status, text, error = cli("train", "--task", "rte", option)
        assert (status, text) == (1, "")
        assert f"There is no {option}: write it as a field" in error
        assert f"--protocol small,{field}=VALUE." in error
    for call in (("train", "--name", "a"), ("runs", "--epochs", "1")):
        assert cli(*call)[0] == 2


def test_a_delta_says_how_long_texts_are_unless_the_user_does(tiny_base: Base) -> None:
    delta = changed(tiny_base, "layernorm")
    own = delta.info.max_length
    lengths = [protocol_of(text, delta).max_length for text in ("small", "small,epochs=1", "small,max_length=9")]
    assert lengths == [own, own, 9]
    assert protocol_of("small", None).max_length == 128


def test_a_delta_to_prune_that_is_not_there(cli: Run) -> None:
    status, _, error = cli("prune", "nowhere", "--sparsity", "0.5")
    assert status == 1
    assert "There is no delta at nowhere; if it is a base model, name the --task" in error


def test_the_package_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["normtune", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("normtune", run_name="__main__")
    assert "Usage: " in capsys.readouterr().out


def test_what_the_environment_says_is_not_refused(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMTUNE_DATA", str(tmp_path))
    status, _, error = cli("train", *RTE, "--method", "nonsense", "--out", tmp_path / "out")
    assert (status, "leave out" in error) == (1, False)


def test_bytes_that_are_no_utf8_and_names_that_are_too_long_are_said_in_a_sentence(
    cli: Run, tiny_base: Base, tmp_path: Path
) -> None:
    changed(tiny_base, "layernorm").save(tmp_path / "d")
    wrong = os.fsdecode(b"caf\xe9")
    for call, said in (
        (("train", "--train", f"{wrong}.csv"), r"The argument 'caf\udce9.csv' is not in UTF-8"),
        (("predict", tmp_path / "d", "--text", wrong), r"The argument 'caf\udce9' is not in UTF-8"),
        (("predict", "x" * 300, "--text", "a"), f"Cannot use {'x' * 100}: File name too long."),
        (("predict", tmp_path / "d", "--text", "a", "--out", f"{tmp_path / ('x' * 300)}.csv"), "File name too long."),
    ):
        status, text, error = cli(*call)
        assert (status, text) == (1, "")
        assert said in error
        assert len(error.splitlines()) == 1


def test_answers_to_a_pipe_are_utf8_whatever_the_system_writes(tiny_base: Base, tmp_path: Path) -> None:
    changed(tiny_base, "layernorm").save(tmp_path / "d")
    (tmp_path / "t.csv").write_text("text\na cat \U0001f600\n", encoding="utf-8")
    code = "from normtune.cli.app import main; main()"
    words = ["predict", str(tmp_path / "d"), "--file", str(tmp_path / "t.csv"), "--device", "cpu"]
    told = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=told, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a cat \U0001f600" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_help_is_whole_in_a_narrow_terminal(cli: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, text, _ = cli(command, "--help")
    assert status == 0
    assert "Usage: " in text
    assert "…" not in text


def test_stopped_while_it_is_loaded_the_program_ends_without_a_word() -> None:
    program = """
import os, signal, sys
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "normtune.cli.app":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Stop())
import runpy
runpy.run_module("normtune", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "normtune", "tasks"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
