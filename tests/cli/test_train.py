"""``normtune train`` and what follows it, as its users call it, on a tiny model."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.deltas.delta import Delta
from normtune.files import hold
from normtune.records.run import Record

Run = Callable[..., tuple[int, str, str]]


def test_train_evaluate_predict(cli: Run, small: list[str], suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text, _ = cli("train", "--task", "sst2", "--out", out, *small)
    assert status == 0
    assert "accuracy" in text
    files = {".training", "README.md", "delta.safetensors", "record.json"}
    assert {path.name for path in out.iterdir()} == files
    record = Record.load(out / "record.json")
    assert (record.status, record.config.protocol.name, record.data.train) == ("done", "small*", 24)

    status, text, _ = cli("evaluate", out, "--data", suite, "--json")
    assert status == 0
    scored = json.loads(text)
    assert scored["scores"] == record.scores["dev"]
    assert [line["name"] for line in scored["classes"]] == ["negative", "positive"]
    assert sum(line["support"] for line in scored["classes"]) == 24

    status, text, _ = cli("predict", out, "--text", "the cat sat", "--json")
    answer = json.loads(text)
    assert status == 0
    assert answer["label"] in {"negative", "positive"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_predict_from_a_file_into_a_file_and_from_standard_input(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    out = tmp_path / "out"
    cli("train", "--task", "rte", "--out", out, *small)
    rows = [{"text": "the cat sat", "text_pair": 'a "dog", it ran'}, {"text": "a bird", "text_pair": "the mat"}]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, _ = cli("predict", out, "--file", source, "--out", tmp_path / "answers.csv")
    assert status == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert [answer["text_pair"] for answer in answers] == [row["text_pair"] for row in rows]
    assert all(answer["label"] in {"entailment", "not_entailment"} for answer in answers)
    assert all(float(a["p(entailment)"]) + float(a["p(not_entailment)"]) == pytest.approx(1, abs=1e-5) for a in answers)
    status, _, error = cli("predict", out, "--file", source, "--out", tmp_path / "answers.csv")
    assert status == 1
    assert "exists already" in error

    cli("train", "--task", "sst2", "--out", tmp_path / "sst2", *small)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat\na dog ran\n")))
    status, text, _ = cli("predict", tmp_path / "sst2", "--file", "-")
    assert status == 0
    assert len(text.splitlines()) == 3


def test_lists_make_a_table_and_a_folder_a_run(cli: Run, small: list[str], tmp_path: Path) -> None:
    out, store = tmp_path / "many", tmp_path / "records"
    options = [
        "--task",
        "sst2,STS-B",
        "--method",
        "head,output.LayerNorm.bias@0,1",
        "--seed",
        "0,1",
        "--records",
        store,
    ]
    status, text, error = cli("train", *options, "--out", out, *small)
    assert status == 0, error
    assert "output.LayerNorm.bias@0,1" in text
    assert len(list(store.glob("*.json"))) == 8
    assert len(list(out.glob("*/*/*/record.json"))) == 8
    status, text, _ = cli("table", store, "--markdown", "--methods", "head", "--tasks", "STS-B")
    assert status == 0
    assert text.splitlines()[0] == "| method | entries | stsb |"
    assert text.splitlines()[2].startswith("| head | 0 | ")
    for option, name in (("--methods", "full"), ("--tasks", "rtee")):
        status, _, error = cli("table", store, option, name)
        assert (status, error.count("\n"), f"{name!r}" in error) == (1, 1, True)


def test_tasks_of_one_network_train_once_and_leave_a_delta_each(cli: Run, small: list[str], tmp_path: Path) -> None:
    """`hyper-adapter` on several tasks; another method beside it trains each alone."""
    out, store = tmp_path / "many", tmp_path / "records"
    options = ["--task", "stsb,sst2", "--method", "hyper-adapter@2,head", "--records", store, "--out", out, *small]
    status, text, error = cli("train", *options, "--lr", "1e-3,1e-2")
    assert status == 0, error
    assert "hyper-adapter@2:sst2,stsb" in text
    runs = [Record.load(out / task / "hyper-adapter@2" / "seed-0" / "record.json") for task in ("sst2", "stsb")]
    assert [(run.config.task, run.config.method) for run in runs] == [
        ("sst2", "hyper-adapter@2:sst2,stsb"),
        ("stsb", "hyper-adapter@2:sst2,stsb"),
    ]
    one, other = runs  # of one training at one rate: the one whose mean over both tasks is higher
    assert (one.config.rate, one.seconds, one.steps) == (other.config.rate, other.seconds, other.steps)
    assert {run.cost for run in runs} == {"extra layers"}
    assert len(list(store.glob("*.json"))) == 8
    folder = out / "sst2" / "hyper-adapter@2" / "seed-0"
    status, text, error = cli("evaluate", folder, "--data", small[3], "--json")
    assert status == 0, error
    assert json.loads(text)["scores"] == pytest.approx(one.scores["dev"], abs=1e-5)
    status, _, error = cli("train", *options, "--lr", "1e-3,1e-2", "--prune", "0.1")
    assert status == 1
    assert "--prune is for runs that train alone, and hyper-adapter@2 trains these tasks together." in error


def test_what_is_recorded_is_not_run_again(cli: Run, small: list[str], tmp_path: Path) -> None:
    options = ["--task", "sst2", "--method", "head", "--records", tmp_path / "records", *small]
    cli("train", *options)
    _, _, error = cli("train", *options)
    assert "found in the store" in error


def test_rate_search_tries_the_grid(cli: Run, small: list[str], tmp_path: Path) -> None:
    cli("train", "--task", "sst2", "--method", "layernorm", "--lr", "auto", "--records", tmp_path / "records", *small)
    tried = {Record.load(path).config.rate for path in (tmp_path / "records").iterdir()}
    # The protocol's three, and at most two beyond.
    assert 3 <= len(tried) <= 5


@pytest.mark.parametrize("seeds", ["0", "0,1"])
def test_a_finished_search_is_not_run_again(cli: Run, small: list[str], tmp_path: Path, seeds: str) -> None:
    """Whatever its best rate was, and without a store of records."""
    words = ("train", "--task", "sst2", "--method", "head", "--lr", "auto", "--seed", seeds, *small)
    status, first, _ = cli(*words, "--out", tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again, second, error = cli(*words, "--out", tmp_path / "out")
    assert (status, again) == (0, 0)
    assert second == first.replace("Saved to", "Done before, in")
    assert "rate" not in error
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == times
    status, _, error = cli(*words, "--out", tmp_path / "out", "--lr", "0.5")
    assert status == 1
    assert "holds another training" in error


@pytest.mark.parametrize("seeds", ["0", "0,1"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_finished_training_that_lost_its_delta_is_made_again(
    cli: Run, small: list[str], tmp_path: Path, seeds: str, damage: str
) -> None:
    words = ("train", "--task", "sst2", "--method", "head", "--seed", seeds, *small, "--out", tmp_path / "out")
    assert cli(*words)[0] == 0
    file = sorted((tmp_path / "out").rglob("delta.safetensors"))[0]
    before = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(before[:-7])
    status, out, error = cli(*words)
    assert status == 0
    assert f"The delta in {file.parent} is missing or damaged, so it is made again." in error
    assert "Saved to" in out
    assert Delta.load(file).info.method == "head"
    assert "Done before, in" in cli(*words)[1]


def test_dev_has_several_splits_where_the_task_has(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "glue" / "MNLI"
    folder.mkdir(parents=True)
    header = "index promptID pairID genre s1_bp s2_bp s1_p s2_p sentence1 sentence2 label1 gold_label".replace(
        " ", "\t"
    )
    rows = [
        "\t".join([*["-"] * 8, "the cat sat", f"a {w} sat", "-", label])
        for w in ("cat", "dog")
        for label in ("entailment", "neutral", "contradiction")
    ]
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text("\n".join([header, *rows]) + "\n")
    status, _, error = cli(
        "train",
        "--task",
        "mnli",
        "--model",
        tiny_folder,
        "--data",
        tmp_path / "glue",
        "--protocol",
        "paper,epochs=1",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert status == 0, error
    assert set(Record.load(tmp_path / "out" / "record.json").scores) == {"dev", "dev_mismatched"}


BAD = [
    (["--task", "rtee"], r"Unknown GLUE task 'rtee'. Did you mean 'rte'\?"),
    (["--task", "sst2,"], "no comma-separated list"),
    (["--task", "sst2", "--method", "layernrom"], r"Did you mean 'layernorm'\?"),
    (["--task", "sst2", "--method", "output.LayerNrom"], r"Did you mean 'output.LayerNorm'\?"),
    (["--task", "sst2", "--method", "layernorm@9"], "names layers that are not there"),
    (["--task", "sst2", "--lr", "fast"], "different positive numbers, or auto"),
    (["--task", "sst2", "--lr", "-1"], "positive numbers"),
    (["--task", "sst2", "--seed", "0,0"], "different whole numbers"),
    (["--task", "sst2", "--protocol", "tiny"], r"Unknown protocol 'tiny'"),
    (["--task", "sst2", "--precision", "fp8"], "Unknown precision"),
    (["--task", "sst2", "--device", "tpu"], "Unknown device"),
    (["--task", "cola"], "CoLA"),
    ([], "Give either --task"),
    (["--task", "sst2", "--train", "x.csv"], "Give either --task"),
    (["--task", "sst2", "--lr", "1e30", "--method", "full"], r"stopped being finite at step \d+ of 1; try a smaller"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options) or "nothing" for options, _ in BAD])
def test_bad_input_is_one_sentence_and_loses_nothing(
    cli: Run, small: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    import re

    out = tmp_path / "out"
    status, text, error = cli("train", "--out", out, *small, *options)
    assert status == 1
    assert text == ""
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in error
    assert not (out / "delta.safetensors").exists()


def test_an_option_that_does_not_exist_is_refused(cli: Run) -> None:
    status, _, error = cli("train", "--task", "sst2", "--epoch", "3")
    assert status == 2
    assert "No such option" in error


def test_a_folder_in_use_is_left_alone(cli: Run, small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("dear")
    status, _, error = cli("train", "--task", "sst2", "--out", out, *small)
    assert status == 1
    assert "in use" in error
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("SST-2", b"sentence\tlabel\nfine\t1\nbad\t7\n", r"train.tsv.*line 3"),
        ("SST-2", b"sentence\tlabel\nfine\t1\n\t1\n", r"train.tsv.*line 3"),
        ("SST-2", b"sentence\tlabel\nfine\t1\nna\xefve\t1\n", "UTF-8"),
        ("SST-2", b"sentence\tlabel\n", "no examples|no rows|empty"),
    ],
)
def test_damaged_data_names_file_and_line(
    cli: Run, small: list[str], suite: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    import re

    (suite / name / "train.tsv").write_bytes(content)
    status, _, error = cli("train", "--task", "sst2", "--out", tmp_path / "out", *small)
    assert status == 1
    assert re.search(message, error.replace("\n", " "))
    assert not (tmp_path / "out").exists()


def test_missing_data_says_where_it_looked(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    status, _, error = cli("train", "--task", "rte", "--model", tiny_folder, "--data", tmp_path / "none")
    assert status == 1
    assert str(tmp_path / "none") in error


def test_no_space_left_is_one_sentence_and_the_run_continues_later(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, _, error = cli("train", "--task", "sst2", "--out", out, *small)
    assert status == 1
    assert "No space left on device" in error
    assert not (out / "record.json").exists()
    status, _, error = cli("train", "--task", "sst2", "--out", out, *small)
    assert status == 0
    assert "Continuing" not in error  # nothing was kept
    assert (out / "record.json").exists()
    assert not (out / ".unfinished").exists()


def test_a_folder_takes_one_training_at_a_time(cli: Run, small: list[str], tmp_path: Path) -> None:
    out, manifest = tmp_path / "out", tmp_path / "many.yaml"
    (tmp_path / "a.csv").write_text("text,label\n" + "a cat,yes\nthe dog,no\n" * 12)
    manifest.write_text("tasks:\n  - {name: a, train: a.csv}\n")
    own = [option for option in small if option not in small[small.index("--data") : small.index("--data") + 2]]
    with hold(out):
        for given in (["--task", "sst2", *small], ["--train", manifest, *own]):
            status, text, error = cli("train", *given, "--out", out)
            assert (status, text) == (1, "")
            assert f"Another command is writing to {out}" in error
            assert "Continuing" not in error
            assert not [*out.iterdir()]
    assert cli("train", "--task", "sst2", "--out", out, *small)[0] == 0


def test_a_training_goes_on_only_from_what_is_its_own(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normtune.training.loop import Loop

    own, out = Loop._finish_epoch, tmp_path / "out"
    command = ["train", "--task", "sst2", "--out", out, *small]

    def stopped(self: Loop) -> None:
        own(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish_epoch", stopped)
        assert cli(*command)[0] == 130
    (out / ".normtune-0123456789abcdef").write_text("half")
    status, _, error = cli(*command, "--lr", "0.02")
    assert (status, "It is not finished;" in error, "Continuing" in error) == (
        1,
        True,
        False,
    )
    status, _, error = cli(*command)
    assert (status, "Continuing" in error, "starts over" in error) == (0, True, False)
    assert {path.name for path in out.iterdir()} == {".training", "README.md", "delta.safetensors", "record.json"}


def test_a_damaged_checkpoint_is_told_and_the_training_starts_over(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from normtune.training.loop import Loop

    command = ["train", "--task", "sst2", *small, "--out"]
    assert cli(*command, tmp_path / "whole")[0] == 0
    own, out = Loop._finish_epoch, tmp_path / "out"

    def stopped(self: Loop) -> None:
        own(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish_epoch", stopped)
        assert cli(*command, out)[0] == 130
    [file] = (out / ".unfinished" / "unfinished").glob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-2000] + bytes(255 - byte for byte in good[-2000:]))
    assert cli(*command, out)[0] == 0
    assert "is damaged: its content does not match the hash that it carries. The run that it belongs to" in caplog.text
    assert (out / "delta.safetensors").read_bytes() == (tmp_path / "whole" / "delta.safetensors").read_bytes()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_delta_that_is_not_there_or_damaged(cli: Run, tmp_path: Path, command: str) -> None:
    more = ["--text", "a"] if command == "predict" else []
    status, _, error = cli(command, tmp_path / "none", *more)
    assert status == 1
    assert "There is no delta" in error
    (tmp_path / "delta.safetensors").write_bytes(b"\x08")
    status, _, error = cli(command, tmp_path, *more)
    assert status == 1
    assert "truncated or corrupt" in error


def test_predict_refuses_what_does_not_fit(cli: Run, small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli("train", "--task", "sst2", "--out", out, *small)
    for options, message in (
        (["--text", "a", "--text-pair", "b"], "reads single texts"),
        (["--text", "  "], "is empty"),
        ([], "either --text or --file"),
        (["--file", tmp_path / "no.csv"], "no.csv"),
        (["--text", "a", "--out", "answers.xlsx"], "--out writes"),
    ):
        status, text, error = cli("predict", out, *options)
        assert (status, text) == (1, "")
        assert message in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_it_says_how_to_go_on(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from normtune.training.loop import Loop

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish_epoch", lambda self: os.kill(os.getpid(), number))
        status, text, error = cli("train", "--task", "sst2", "--out", tmp_path / "out", *small)
    assert (status, text) == (130, "")
    assert "Repeat the command to continue" in error
    assert signal.getsignal(number) == before
    status, _, _ = cli("train", "--task", "sst2", "--out", tmp_path / "out", *small)
    assert status == 0


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_that_does_not_pay_off_is_said(
    cli: Run, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("normtune.cli.trainings.bfloat16_pays_off", lambda: native)
    products = "small,epochs=1,products=bfloat16"
    status, _, error = cli("train", "--task", "rte", *small, "--protocol", products, "--out", tmp_path / "run")
    assert status == 0, error
    assert ("This processor has no products of bfloat16: float32 ones would be faster." in error) is not native


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--precision", "Unknown precision 'none'. Known: bf16, bfloat16, float16, float32, int8, nf4."),
        ("--memory", "Unknown value of --memory 'none'. Known: low, plain."),
        ("--labels", "Unknown value of --labels 'none'. Known: classes, numbers, several, tags, weighted."),
    ],
)
def test_an_unknown_choice_is_refused_in_a_sentence(
    cli: Run, small: list[str], tmp_path: Path, option: str, said: str
) -> None:
    source = ["--train", "x.csv"] if option == "--labels" else ["--task", "rte", *small]
    status, text, error = cli("train", *source, option, "none", "--out", tmp_path / "run")
    assert (status, text) == (1, "")
    assert error.startswith(f"Error: {said}")
    assert not (tmp_path / "run").exists()
