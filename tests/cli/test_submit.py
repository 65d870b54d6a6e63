"""``normtune submit``, as its users call it, on a tiny model and a small GLUE."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from normtune.models.base import load_base
from normtune.records.submission import SubmissionRecord
from normtune.submission import answers
from tests.submission.suite import SMALL, read_zip, save_deltas, texts, write_suite

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small GLUE with every test file, accepted as the whole one."""
    monkeypatch.setattr(answers, "plan", partial(answers.plan, files=SMALL))
    return write_suite(tmp_path / "glue")


@pytest.fixture(scope="module")
def deltas(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_deltas(load_base(str(tiny_folder)), tmp_path_factory.mktemp("deltas"))


def listed(deltas: dict[str, Path]) -> str:
    return ",".join(map(str, deltas.values()))


def test_submit_and_score(cli: Run, data: Path, deltas: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "submission.zip"
    status, text, _ = cli("submit", "--deltas", listed(deltas), "--data", data, "--out", out, "--device", "cpu")
    assert status == 0
    assert "answered by the model of MNLI" in text
    assert "majority class (not_entailment)" in text
    assert "trial" not in text
    found = read_zip(out)
    assert list(found) == [file.name for file in SMALL]
    record = SubmissionRecord.load(tmp_path / "submission.json")
    assert not record.problems

    status, _, err = cli("submit", "--deltas", listed(deltas), "--data", data, "--out", out)
    assert (status, "exists already" in err) == (1, True)

    (tmp_path / "reply.csv").write_text("task,score\nCoLA,52.5\nMRPC,88.9/84.8\nAX,-1.5\n")
    status, text, _ = cli("submit", "--out", out, "--scores", tmp_path / "reply.csv")
    assert status == 0
    assert "88.9" in text
    scored = SubmissionRecord.load(tmp_path / "submission.json")
    assert scored.scores["MRPC"] == {"f1": 0.889, "accuracy": 0.848}
    status, text, _ = cli("submit", "--out", out, "--scores", tmp_path / "reply.csv", "--json")
    assert json.loads(text)["scores"]["CoLA"] == {"matthews": 0.525}


def test_it_answers_as_predict_does(cli: Run, data: Path, deltas: dict[str, Path], tmp_path: Path) -> None:
    given = f"{deltas['mnli']},{deltas['stsb']}"
    status, text, _ = cli(*(
        "submit",
        "--deltas",
        given,
        "--data",
        data,
        "--out",
        tmp_path / "t.zip",
        "--allow-missing",
        "--json",
    ))
    assert status == 0
    assert [answered["file"] for answered in json.loads(text)["answers"]] == [
        *("STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "WNLI.tsv", "AX.tsv")
    ]
    found = read_zip(tmp_path / "t.zip")
    for title, task in (("MNLI-m", "mnli"), ("MNLI-mm", "mnli"), ("AX", "mnli"), ("STS-B", "stsb")):
        with (tmp_path / f"{title}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "text_pair"), *texts(title)])
        status, text, _ = cli("predict", deltas[task], "--file", tmp_path / f"{title}.csv")
        assert status == 0
        rows = list(csv.DictReader(text.splitlines()))
        wanted = [row.get("label") or f"{min(max(float(row['value']), 0), 5):.3f}" for row in rows]
        if task == "stsb":
            assert [*map(float, found["STS-B.tsv"])] == pytest.approx([*map(float, wanted)], abs=0.0011)
        else:
            assert found[f"{title}.tsv"] == wanted


def test_an_incomplete_submission_is_refused(cli: Run, data: Path, deltas: dict[str, Path], tmp_path: Path) -> None:
    (data / "QQP" / "test.tsv").unlink()
    (data / "diagnostic" / "diagnostic.tsv").unlink()
    (data / "RTE" / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta cat\ta dog\n")
    given = f"{deltas['rte']},{deltas['qqp']}"
    options = ("submit", "--deltas", given, "--data", data, "--out", tmp_path / "s.zip")
    status, out, err = cli(*options)
    problems = (
        f"there is no delta of CoLA, SST-2, MRPC, STS-B, MNLI, QNLI; {data} has no QQP/test.tsv, AX/test.tsv; "
        "RTE/test.tsv has 1 rows where the server wants 6"
    )
    assert (status, out) == (1, "")
    assert err == f"Error: The GLUE server would not take this submission: {problems} (--allow-missing for a trial).\n"
    assert not list(tmp_path.glob("s.*"))
    status, out, _ = cli(*options, "--allow-missing")
    assert status == 0
    assert f"A trial: the GLUE server will not take it, since {problems}." in out
    assert {name: len(rows) for name, rows in read_zip(tmp_path / "s.zip").items()} == {"RTE.tsv": 1, "WNLI.tsv": 146}
    record = SubmissionRecord.load(tmp_path / "s.json")
    assert "; ".join(record.problems) == problems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Give either --deltas"),
        (("--deltas", "a", "--runs", "b"), "Give either --deltas"),
        (("--deltas", "a", "--method", "full"), "--method chooses among"),
        (("--deltas", "a", "--scores", "b"), "--scores records the reply"),
        (("--deltas", "a", "--out", "b.tar"), "A submission is a .zip"),
        (("--deltas", "./nowhere"), "There is no delta at ./nowhere"),
        (("--runs", "nowhere"), "There are no runs on GLUE's tasks"),
        (("--scores", "nowhere.csv"), "There is no record of a submission at submission.json"),
    ],
)
def test_options_that_do_not_fit(
    cli: Run, options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = cli("submit", *options)
    assert (status, message in err) == (1, True), err
    assert not list(tmp_path.iterdir())


def test_nothing_to_answer(cli: Run, deltas: dict[str, Path], tmp_path: Path) -> None:
    options = ("--data", tmp_path, "--out", tmp_path / "s.zip", "--allow-missing")
    status, _, err = cli("submit", "--deltas", deltas["rte"], *options)
    assert (status, "There is nothing to answer" in err) == (1, True)


def test_the_best_runs_of_a_training(cli: Run, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [f"the {word} is {kind}\t{int(kind == 'good')}" for word in ("cat", "dog") for kind in ("good", "bad")]
    for split in ("train", "dev"):
        (data / "SST-2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    options = ("--model", tiny_folder, "--data", data, "--protocol", "small,epochs=1", "--device", "cpu")
    runs = tmp_path / "runs"
    assert cli("train", "--task", "sst2", "--method", "layernorm,head", "--out", runs, *options)[0] == 0
    submit = ("submit", "--runs", runs, "--data", data, "--allow-missing", "--out", tmp_path / "s.zip")
    status, _, err = cli(*submit)
    assert (status, "choose one with --method" in err) == (1, True)
    status, text, _ = cli(*submit, "--method", "head", "--json")
    assert status == 0
    source = json.loads(text)["answers"][0]["source"]
    folder = runs / "sst2" / "head" / "seed-0"
    record = json.loads((folder / "record.json").read_text())
    assert (source["run"], source["seed"], source["dev"]) == (record["id"], 0, record["score"])
    assert source["path"] == str(folder)
    assert len(read_zip(tmp_path / "s.zip")["SST-2.tsv"]) == 4
