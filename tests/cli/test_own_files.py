"""A user's own files: from a table to answers in two commands, and fifty tables in one."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.deltas.delta import Delta
from normtune.records.run import Record

Run = Callable[..., tuple[int, str, str]]
ODD = (
    'quo"te',
    "comma, here",
    "tab\there",
    "línea",
    "日本語",
    "🙂",
    "ملف",
    "e\u0301",
    "a=b",
    "semi;colon",
    "-dash",
    "#hash",
)


def write(path: Path, classes: int, each: int, columns: tuple[str, str] = ("body", "intent")) -> list[str]:
    """Write a file with `classes` labels, some of them odd, and `each` texts per label."""
    names = [*ODD[:classes], *(f"intent {i}" for i in range(classes - len(ODD)))]
    rows = [(f'please {i} of {name}\nnow, "{j}"', name) for i, name in enumerate(names) for j in range(each)]
    random.Random(0).shuffle(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return names


def test_77_classes_with_odd_characters_in_two_commands(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    names = write(tmp_path / "intents.csv", 77, 4)
    options = [
        "--text",
        "body",
        "--label",
        "intent",
        "--model",
        tiny_folder,
        "--protocol",
        "paper,epochs=1",
        "--device",
        "cpu",
    ]
    status, _, error = cli("train", "--train", tmp_path / "intents.csv", *options, "--out", tmp_path / "out")
    assert status == 0, error
    assert "77 classes" in error
    status, text, _ = cli("predict", tmp_path / "out", "--text", "please 🙂 now", "--json")
    assert status == 0
    assert set(json.loads(text)["probabilities"]) == set(names)
    status, text, _ = cli("evaluate", tmp_path / "out", "--file", tmp_path / "intents.csv", "--json")
    assert status == 0
    assert json.loads(text)["examples"] == 77 * 4
    status, text, _ = cli("predict", tmp_path / "out", "--file", tmp_path / "intents.csv")
    assert status == 0
    answers = list(csv.DictReader(text.splitlines(keepends=True)))
    with (tmp_path / "intents.csv").open(encoding="utf-8", newline="") as file:
        assert [a["text"] for a in answers] == [row["body"] for row in csv.DictReader(file)]


def test_a_number_comes_back_on_its_own_scale(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the " * (i % 9 + 1), "label": 1000.0 + 100 * (i % 9)} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, error = cli(
        *("train", "--train", tmp_path / "t.jsonl", "--labels", "numbers", "--model", tiny_folder, "--method", "full"),
        *("--protocol", "paper,epochs=10", "--out", tmp_path / "out", "--device", "cpu"),
    )
    assert status == 0, error
    status, text, _ = cli("predict", tmp_path / "out", "--text", "the the the", "--json")
    assert 700 < json.loads(text)["value"] < 2200


def test_files_of_ones_own_have_a_protocol_of_their_own(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    call = ("train", "--train", tmp_path / "t.csv", "--model", tiny_folder, "--device", "cpu")
    status, _, error = cli(*call, "--out", tmp_path / "out")
    assert status == 0, error
    rules = Record.load(tmp_path / "out" / "record.json").config.protocol
    assert (rules.name, rules.epochs, rules.dropout, rules.max_train) == ("own", 10, False, None)


def test_a_very_long_text_is_cut_and_counted(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([
            ("text", "label"),
            *[("the cat " * (12_500 if i == 0 else 1), i % 2) for i in range(30)],
        ])
    options = [
        "--model",
        tiny_folder,
        "--protocol",
        "paper,epochs=1,max_length=32",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    status, _, error = cli("train", "--train", tmp_path / "t.csv", *options)
    assert status == 0, error
    assert sum(Record.load(tmp_path / "out" / "record.json").data.truncated.values()) == 1


BAD = [
    ("text,b\nx,1\n", [], "no column 'label'"),
    ("text,label\nx,1\ny,1\n", [], "only one label"),
    ("text,label\nx,1\ny,two\n", ["--labels", "numbers"], "two"),
    ("text,label\n", [], "t.csv"),
    ("", [], "t.csv"),
    ("text,label\nx,1\n,2\n", [], "line 3"),
    ("text,label\nx,1\ny,2\n", ["--dev", "none.csv"], "none.csv"),
]


@pytest.mark.parametrize(("content", "options", "message"), BAD)
def test_bad_files_are_refused_in_one_sentence(
    cli: Run, tiny_folder: Path, tmp_path: Path, content: str, options: list[str], message: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    status, text, error = cli(
        "train", "--train", tmp_path / "t.csv", "--model", tiny_folder, "--out", tmp_path / "o", *options
    )
    assert (status, text) == (1, "")
    assert len([line for line in error.splitlines() if line.startswith("Error: ")]) == 1
    assert message in error
    assert not (tmp_path / "o").exists()


def test_a_table_from_a_spreadsheet_is_read_and_what_was_guessed_is_said(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i};the cat {i};{i % 7},5\r\n" for i in range(24))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(f";text;label\r\n{rows}".encode("cp1252")))
    call = ("train", "--train", tmp_path / "t.csv.gz", "--labels", "numbers", "--model", tiny_folder)
    status, text, error = cli(*call, "--protocol", "small,epochs=1", "--device", "cpu")
    assert status == 0, error
    assert text.startswith("t dev: ")
    out = Path("runs/t-layernorm")
    said = "".join(line for line in error.splitlines() if "━" not in line)
    for guess in ("separated by ';'", "left out, as it only counts", "commas in 'label' are decimal: 0,5 is 0.5."):
        assert guess in said
    for command in ("evaluate", "predict"):
        status, text, error = cli(command, out, "--file", tmp_path / "t.csv.gz")
        assert status == 0, error
        assert "separated by ';'" in error
    assert len(text.splitlines()) == 25


def test_a_table_is_read_as_it_is_said_and_what_is_left_out_is_counted(
    cli: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    rows = "".join(f"the cât {i}~{('ja', 'nein')[i % 2]}\n" for i in range(8))
    (tmp_path / "t.csv").write_bytes(f"text~label\n{rows}~ja\n a dog~\n".encode("cp850"))
    (tmp_path / "m.yaml").write_text("tasks: [{name: a, train: t.csv}, {name: b, train: t.csv, read: decimal=x}]")
    how = ("--model", tiny_folder, "--protocol", "small,epochs=1", "--device", "cpu")
    read = ("--read", "delimiter=~,encoding=cp850,skip-bad-rows")
    call = ("train", "--train", tmp_path / "t.csv", *how, "--out", tmp_path / "out")
    status, _, error = cli(*call, "--read", "delimiter=~,encoding=cp850")
    assert status == 1
    assert "line 10: the column 'text' is empty (2 bad rows in all: lines 10, 11)" in error
    assert "leave them out with --read skip-bad-rows" in error
    status, _, error = cli(*call, *read)
    assert status == 0, error
    assert "2 bad rows are left out: lines 10, 11." in error
    assert Record.load(tmp_path / "out" / "record.json").data.dropped == {"train": 2}
    file, out = ("--file", tmp_path / "t.csv", *read), tmp_path / "out"
    status, text, error = cli("evaluate", out, *file, "--json")
    assert (status, json.loads(text)["examples"], "2 bad rows" in error) == (0, 8, True)
    status, text, error = cli("predict", out, "--file", tmp_path / "t.csv", "--read", "delimiter=~,encoding=cp850")
    assert (status, "line 10: a text is empty; --read skip-bad-rows leaves such rows out." in error) == (1, True)
    status, text, error = cli("predict", out, *file)
    assert (status, "1 bad row is left out: line 10." in error) == (0, True)
    assert [row["text"] for row in csv.DictReader(text.splitlines())] == [*(f"the cât {i}" for i in range(8)), " a dog"]
    status, _, error = cli("train", "--train", tmp_path / "m.yaml", *how, *read)
    assert (status, "Unknown decimal sign 'x'" in error) == (1, True)
    (tmp_path / "m.yaml").write_text("tasks: [{name: a, train: t.csv, dev: t.csv}]")
    status, _, error = cli("train", "--train", tmp_path / "m.yaml", *how, *read, "--out", tmp_path / "many")
    assert status == 0, error
    assert Record.load(tmp_path / "many" / "a" / "record.json").data.dropped == {"train": 2, "dev": 2}


def test_another_training_is_replaced_once_the_new_one_is_finished(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    train = ("train", "--train", tmp_path / "t.csv", "--model", tiny_folder, "--protocol", "small,epochs=1")
    call = (*train, "--device", "cpu", "--out", tmp_path / "out", "--lr", "0.01", "--method")
    out = tmp_path / "out"

    def there() -> list[str]:
        return sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())

    own = [".training", "README.md", "delta.safetensors", "record.json"]
    assert cli(*call, "head")[0] == 0
    first = Record.load(out / "record.json")
    (out / "mine.txt").write_text("dear")
    status, _, error = cli(*call, "layernorm")
    assert (status, "choose another place, or replace it with --overwrite" in error) == (1, True)
    assert Record.load(out / "record.json") == first
    # A training that fails replaces nothing.
    status, _, error = cli(*call, "layernorm", "--precision", "fp16", "--overwrite")
    assert status == 1, error
    assert Record.load(out / "record.json") == first
    # A table of trainings replaces one training, and one training the table.
    cells = [f"t/{method}/seed-0/{name}" for method in ("head", "layernorm") for name in own]
    for methods, files in (("head,layernorm", [".training", *cells]), ("layernorm", own)):
        status, _, error = cli(*call, methods, "--overwrite")
        assert status == 0, error
        assert there() == sorted(["mine.txt", *files])
    status, text, error = cli(*call, "layernorm", "--overwrite")
    assert (status, "Done before, in" in text, there()) == (0, True, sorted(["mine.txt", *own]))
    # Files that normtune did not make are not replaced.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("dear")
    status, _, error = cli(*call[:-5], "--out", tmp_path / "other", "--method", "head", "--overwrite")
    assert (status, "is in use" in error) == (1, True)


def test_what_lies_inside_and_is_another_training_is_not_replaced(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    path, out = manifest(tmp_path, tiny_folder, 4, broken=True), tmp_path / "out"
    given = ("--device", "cpu", "--protocol", "own,epochs=1")
    one = ("train", "--train", tmp_path / "t.csv", "--model", tiny_folder, *given, "--method", "head")
    # A manifest with a failed task keeps its folder.
    assert cli("train", "--train", path, "--device", "cpu", "--out", out)[0] == 1
    trained = sorted(out.rglob("record.json"))
    assert len(trained) == 3
    for more in ((), ("--overwrite",)):
        status, _, error = cli(*one, "--out", out, *more)
        assert (status, "is in use" in error) == (1, True), error
    assert sorted(out.rglob("record.json")) == trained
    # A training inside another's folder stays apart, and a manifest does not take a training's folder.
    nest = tmp_path / "nest"
    assert cli(*one, "--out", nest)[0] == cli(*one, "--lr", "0.02", "--out", nest / "inner")[0] == 0
    assert cli(*one, "--lr", "0.03", "--out", nest, "--overwrite")[0] == 0
    assert (nest / "inner" / "record.json").is_file()
    status, _, error = cli("train", "--train", path, "--device", "cpu", "--out", nest)
    assert (status, "holds another training" in error) == (1, True)
    # Nor does a manifest replace a training that lies where the result of one of its tasks goes.
    beside = tmp_path / "beside"
    assert cli(*one, "--out", beside / "task-00")[0] == 0
    before = (beside / "task-00" / "record.json").read_bytes()
    (beside / "task-01" / ".unfinished").mkdir(parents=True)
    (beside / "task-01" / ".unfinished" / "training").write_text("another")
    (beside / "task-01" / ".unfinished" / "state.safetensors").write_bytes(b"state")
    status, text, _ = cli("train", "--train", path, "--device", "cpu", "--out", beside)
    assert (status, text.count("holds a training of its own")) == (1, 2)
    assert (beside / "task-00" / "record.json").read_bytes() == before
    assert (beside / "task-01" / ".unfinished" / "state.safetensors").is_file()
    assert (beside / "task-03" / "record.json").is_file()


def test_what_another_training_was_begun_over_is_told(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    given = ("--model", tiny_folder, "--device", "cpu", "--protocol", "own,epochs=1", "--out", tmp_path / "out")
    one = ("train", "--train", tmp_path / "t.csv", *given, "--method", "head")
    assert cli(*one)[0] == 0
    assert cli(*one[:-1], "layernorm", "--lr", "1e30", "--overwrite")[0] == 1
    status, _, error = cli(*one)
    assert (status, "another was begun over it and is not finished: repeat this one with --overwrite" in error) == (
        1,
        True,
    )
    status, _, error = cli(*one, "--overwrite")
    assert status == 0, error
    assert cli(*one)[0] == 0


def test_a_very_long_label_is_shortened_on_the_terminal(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    names = ("short", "long" * 1250)
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"the cat {i},{names[i % 2]}\n" for i in range(8)))
    call = ("train", "--train", tmp_path / "t.csv", "--dev", tmp_path / "t.csv", "--model", tiny_folder)
    status, _, error = cli(*call, "--protocol", "small,epochs=1", "--out", tmp_path / "out", "--device", "cpu")
    assert status == 0, error
    assert "2 classes: longlong" in error
    assert "long" * 20 not in error
    assert Delta.load(tmp_path / "out").info.labels == names[::-1]


def test_duplicates_across_train_and_dev_are_warned_of(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("t.csv", "d.csv"):
        (tmp_path / name).write_text("text,label\n" + "".join(f"the cat {i},{i % 2}\n" for i in range(12)))
    options = [
        "--dev",
        tmp_path / "d.csv",
        "--model",
        tiny_folder,
        "--protocol",
        "paper,epochs=1",
        "--out",
        tmp_path / "o",
        "--device",
        "cpu",
    ]
    status, _, error = cli("train", "--train", tmp_path / "t.csv", *options)
    assert status == 0
    assert any("12" in line and line.startswith("Note: ") for line in error.splitlines())


def manifest(folder: Path, model: Path, tasks: int, broken: bool) -> Path:
    """A manifest of generated tasks; `broken` damages the third one's file."""
    lines = [f"model: {model}", "epochs: 1", "tasks:"]
    for i in range(tasks):
        write(folder / f"{i}.csv", 2 + i % 5, 8)
        lines += [f"- name: task-{i:02}", f"  train: {i}.csv", "  text: body", "  label: intent"]
    if broken:
        (folder / "2.csv").write_bytes(b"body,intent\n\xff\xc3\xa9,1\n")
    (folder / "tasks.yaml").write_text("\n".join(lines))
    return folder / "tasks.yaml"


def test_a_broken_file_is_listed_and_the_others_are_trained(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    path = manifest(tmp_path, tiny_folder, 4, broken=True)
    status, text, error = cli("train", "--train", path, "--out", tmp_path / "out", "--device", "cpu")
    assert status == 1
    assert "1 of 4 tasks failed: task-02" in error
    assert f"task-02: {tmp_path / '2.csv'}, line 2: not UTF-8" in text
    assert sorted(p.parent.name for p in (tmp_path / "out").glob("*/record.json")) == ["task-00", "task-01", "task-03"]
    write(tmp_path / "2.csv", 3, 8)
    before = {p: p.read_bytes() for p in (tmp_path / "out").glob("*/record.json")}
    status, text, _ = cli("train", "--train", path, "--out", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert text.count("done before") == 3
    assert all(p.read_bytes() == content for p, content in before.items())


def test_only_classes_are_counted_as_such(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("text,label\n" + "".join(f"the cat {i},{i}.5\n" for i in range(20)))
    tasks = "[{name: one, train: n.csv, kind: regression}]"
    (tmp_path / "m.yaml").write_text(f"model: {tiny_folder}\nepochs: 1\nlr: 0.001\ntasks: {tasks}")
    call = ("train", "--train", tmp_path / "m.yaml", "--out", tmp_path / "out", "--device", "cpu")
    status, text, error = cli(*call, "--lr", "1e-3")  # the manifest's rate, written differently
    assert status == 0, error
    [row] = [line.split() for line in text.splitlines() if line.split()[:1] == ["one"]]
    assert (len(row), row[1], row[3]) == (4, "spearman", "18")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: []", "does not fit at tasks: it is empty."),
        ("tasks: {a: b}", "does not fit at tasks: it should be a list."),
        ("tasks:\n- {name: a, train: a.csv, txt: body}", "Unknown key of a task 'txt'. Did you mean 'text'?"),
        (
            "tasks:\n- {name: a, train: a.csv, labels: several}",
            "a 'kind' in place of 'labels': classification, regression",
        ),
        ("task:\n- {name: a, train: a.csv}", "Unknown key of a manifest 'task'. Did you mean 'tasks'?"),
        ("tasks:\n- {name: a}", "does not fit at tasks.0.train: it is missing."),
        ("seed: many\ntasks:\n- {name: a, train: a.csv}", "does not fit at seed: it should be a whole number."),
        ("tasks:\n- {name: a, train: a.csv}\n- {name: a, train: b.csv}", "names a task twice: a"),
        ("tasks: [", "no YAML"),
        ("tasks:\n- {name: a, train: a.csv}\ntasks:\n- {name: b, train: b.csv}", "'tasks' stands twice"),
        ("tasks:\n- {name: a, train: a.csv, text: b, text: c}", "'text' stands twice"),
        ("- 1", "does not fit"),
        ("method: layernrom\ntasks:\n- {name: a, train: a.csv}", "layernorm"),
    ],
)
def test_a_manifest_that_does_not_fit(cli: Run, tiny_folder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(f"model: {tiny_folder}\n{content}" if content[0] != "-" else content)
    status, _, error = cli("train", "--train", tmp_path / "m.yaml", "--out", tmp_path / "out")
    assert status == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_task_of_a_manifest_is_done_only_where_it_is_the_run_asked_for(
    cli: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    path, out = manifest(tmp_path, tiny_folder, 2, broken=False), tmp_path / "out"
    call = ("train", "--train", path, "--out", out, "--device", "cpu", "--threads", "1")

    def trained(*more: str) -> tuple[str, list[Record]]:
        status, text, error = cli(*call, *more)
        assert status == 0, error
        assert not (out / ".unfinished").exists()
        return text, [Record.load(out / f"task-0{i}" / "record.json") for i in range(2)]

    _, before = trained()
    text, again = trained()
    assert (text.count("done before"), again) == (2, before)
    write(tmp_path / "1.csv", 2, 9)
    text, other = trained()
    assert text.count("done before") == 1
    assert (other[0], other[1].outputs, before[1].outputs) == (before[0], 2, 3)
    # Options set what the manifest leaves open; what it sets stays.
    text, other = trained("--method", "head", "--lr", "0.03", "--protocol", "small,max_train=8", "--seed", "3")
    assert "done before" not in text
    for record in other:
        assert (record.config.method, record.config.rate, record.config.seed) == ("head", 0.03, 3)
        assert (record.config.protocol.epochs, record.data.train) == (1, 8)
    # A search is known by its records.
    search = ("--lr", "auto", "--method", "head")
    _, found = trained(*search)
    text, again = trained(*search)
    assert (text.count("done before"), again) == (2, found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train", "m.yaml", "--dev", "d.csv"), "A manifest names the files of its tasks: leave out --dev."),
        (("--train", "m.yaml", "--suite", "toy"), "A manifest names the files of its tasks: leave out --suite."),
        (("--train", "m.yaml", "--seed", "0,1"), "by one method and at one seed"),
        (("--train", "m.yaml", "--method", "head,full"), "by one method and at one seed"),
        (("--task", "rte", "--labels", "weighted"), "columns of a suite's task are known: leave out --labels."),
        (("--task", "rte", "--text", "a,b", "--label", "y"), "are known: leave out --label, --text."),
        (("--train", "t.csv", "--suite", "toy"), "A file of your own is in no suite: leave out --suite."),
        (("--train", "t.csv", "--data", "glue"), "A file of your own is in no suite: leave out --data."),
        (("--train", "t.csv", "--text", "a,b,c"), "--text takes one column, or two"),
        (("--train", "n.yaml"), "The name of a task has letters"),
        (("--train", "l.yaml"), "The name of a task has at most 100 bytes"),
        (("--train", "t.csv", "--out", "x" * 300), "File name too long"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_trained(
    cli: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    for file, name in (("m", "a"), ("n", "../mine"), ("l", "x" * 300)):
        (tmp_path / f"{file}.yaml").write_text(f"tasks:\n- {{name: {name}, train: t.csv}}")
    status, text, error = cli("train", "--model", tiny_folder, "--device", "cpu", *options)
    assert (status, text) == (1, "")
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("Error: ")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.yaml", "m.yaml", "n.yaml", "t.csv"]


def test_pairs_have_two_columns_and_rare_classes_may_weigh_more(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"the cat {i},a dog {i},{'no' if i % 4 else 'yes'}\n" for i in range(24))
    (tmp_path / "pairs.csv").write_text(f"premise,hypothesis,label\n{rows}")
    call = ("train", "--train", tmp_path / "pairs.csv", "--text", "premise, hypothesis", "--labels", "weighted")
    status, text, error = cli(*call, "--model", tiny_folder, "--protocol", "small,epochs=1", "--out", tmp_path / "out")
    assert status == 0, error
    assert text.startswith("pairs dev: ")
    info = Delta.load(tmp_path / "out").info
    assert (info.pair, info.columns) == (True, ("premise", "hypothesis", "label"))
    status, text, error = cli("evaluate", tmp_path / "out", "--file", tmp_path / "pairs.csv", "--json")
    assert status == 0, error
    assert json.loads(text)["examples"] == 24


@pytest.mark.parametrize("yaml", ["seed: 2020-13-45", "seed: !!timestamp abc", "seed: !!bool abc", "seed: 0b"])
def test_a_manifest_that_no_value_can_be_made_of_is_no_yaml(cli: Run, tmp_path: Path, yaml: str) -> None:
    (tmp_path / "m.yaml").write_text(f"{yaml}\ntasks: [{{name: a, train: x}}]")
    status, _, error = cli("train", "--train", tmp_path / "m.yaml")
    assert status == 1
    assert "is no YAML" in error or "does not fit" in error


def test_a_folder_left_between_record_and_clean_up_is_no_other_trainings(
    cli: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path / "t.csv", 2, 8, ("text", "label"))
    out = tmp_path / "out"
    call = (
        "train",
        "--train",
        tmp_path / "t.csv",
        "--model",
        tiny_folder,
        "--protocol",
        "paper,epochs=1",
        "--device",
        "cpu",
    )
    assert cli(*call, "--lr", "0.01", "--out", out)[0] == 0
    before = (out / "record.json").read_bytes()
    (out / ".unfinished").mkdir()
    status, text, error = cli(*call, "--lr", "0.05", "--out", out)
    assert (status, text) == (1, "")
    assert "holds another training" in error
    # The same training counts as done and is not repeated.
    status, _, error = cli(*call, "--lr", "0.01", "--out", out)
    assert status == 0, error
    assert (out / "record.json").read_bytes() == before
    assert not (out / ".unfinished").exists()


@pytest.mark.slow
def test_fifty_tasks_survive_a_kill(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    path = manifest(tmp_path, tiny_folder, 50, broken=True)
    call = ["train", "--train", str(path), "--out", str(tmp_path / "out"), "--device", "cpu", "--threads", "1"]
    code = "from normtune.cli.app import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *call], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    done = tmp_path / "out"
    deadline = time.monotonic() + 120
    while len(list(done.glob("*/record.json"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = {p: p.read_bytes() for p in done.glob("*/record.json")}
    assert 10 <= len(first) < 49
    status, text, _ = cli(*call)
    assert status == 1
    assert text.count("done before") == len(first)
    assert len(list(done.glob("*/record.json"))) == 49
    assert all(p.read_bytes() == content for p, content in first.items())
    assert not list(done.glob("*/.unfinished/records"))
