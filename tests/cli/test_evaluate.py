"""``normtune evaluate``: the metrics that training showed, and files that are named differently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.deltas.answers import Predictor
from normtune.models.base import Base, load_base
from normtune.records.run import Record
from tests.deltas.banked import FIVE, NUMBER, TWO, changed

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("kind", "labels", "cut"),
    [
        *(("classes", "no yes", 0), ("classes", "no yes perhaps", 0), ("numbers", "1.5 2 4", 0)),
        ("tags", "", 6),  # of these texts all words beyond the limit, which nobody scores
    ],
)
def test_the_metrics_are_those_of_training(
    cli: Run, tiny_folder: Path, tmp_path: Path, kind: str, labels: str, cut: int
) -> None:
    cells, file = labels.split(), tmp_path / ("t.conll" if kind == "tags" else "t.csv")
    if kind == "tags":
        cut_off, whole = ("".join(f"{word} O\n" for _ in range(50)) for word in ("catcat", "cat"))
        file.write_text(f"{cut_off}\n{whole}\ndog O\ncat B-P\n\n" * cut)
    else:
        file.write_text("text,label\n" + "".join(f"the cat {i},{cells[i % len(cells)]}\n" for i in range(12)))
    call = ("train", "--train", file, "--dev", file, "--labels", kind)
    more = ("--model", tiny_folder, "--protocol", "small,epochs=1", "--device", "cpu", "--out", tmp_path / "out")
    status, trained, error = cli(*call, *more)
    assert status == 0, error
    scores = Record.load(tmp_path / "out" / "record.json").scores["dev"]
    status, text, error = cli("evaluate", tmp_path / "out", "--file", file, "--json", "--device", "cpu")
    assert status == 0, error
    assert json.loads(text)["scores"] == pytest.approx(scores, abs=1e-6)
    assert json.loads(text)["truncated"] == cut
    if len(cells) == 2:
        _, text, _ = cli("evaluate", tmp_path / "out", "--file", file)
        assert [f"f1 of yes {scores['f1']:.4f}" in shown for shown in (trained, text)] == [True, True]


def test_a_file_is_scored_by_the_metrics_of_the_suites_task(cli: Run, tiny_base: Base, tmp_path: Path) -> None:
    from normtune.data.glue_tasks import GLUE

    labels = GLUE["cola"].labels
    delta = changed(tiny_base, "layernorm", TWO, task="cola")
    (tmp_path / "t.csv").write_text(f"text,label\na cat,{labels[0]}\na dog,{labels[1]}\n")
    named = delta.info.model_copy(update={"labels": labels})
    type(delta)(named, delta.indices, delta.values, delta.head).save(tmp_path / "d")
    status, text, error = cli("evaluate", tmp_path / "d", "--file", tmp_path / "t.csv", "--json")
    assert status == 0, error
    assert tuple(json.loads(text)["scores"]) == GLUE["cola"].metrics
    status, _, error = cli("evaluate", tmp_path / "d", "--file", tmp_path / "t.csv", "--text", "text,label")
    assert (status, "The delta reads single texts; --text takes one column, got 'text,label'." in error) == (1, True)


@pytest.mark.parametrize("task", ["moods", "rte"])
def test_a_task_of_ones_own_needs_its_file(cli: Run, tiny_base: Base, tmp_path: Path, task: str) -> None:
    changed(tiny_base, "layernorm", FIVE, task=task, columns=("text", "label")).save(tmp_path / "d")
    status, _, error = cli("evaluate", tmp_path / "d", "--suite", "toy")
    assert status == 1
    assert f"The delta answers {task!r}, which is no task of a suite; name a file to score with --file" in error


def test_the_suite_is_the_one_of_the_training(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """GLUE has an RTE too, with other texts."""
    rules = ("--protocol", "small,epochs=1,max_train=32,max_dev=none", "--threads", 1, "--lr", "0.01")
    status, _, error = cli(
        "train", "--suite", "toy", "--task", "rte", "--model", tiny_folder, *rules, "--out", tmp_path / "d"
    )
    assert status == 0, error
    score = json.loads((tmp_path / "d" / "record.json").read_text())["score"]
    status, said, error = cli("evaluate", tmp_path / "d", "--threads", 1, "--json")
    assert status == 0, error
    assert json.loads(said)["scores"]["accuracy"] == score
    status, _, error = cli("evaluate", tmp_path / "d", "--data", tmp_path)
    assert (status, "The suite 'toy' comes with the package" in error) == (1, True)


def test_a_regression_tells_its_error(tiny_base: Base) -> None:
    assert changed(tiny_base, "layernorm", NUMBER).info.as_task.metrics == ("spearman", "pearson", "mse")


def test_the_dtype_is_that_of_the_base(cli: Run, tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    delta = changed(tiny_base, "layernorm", NUMBER)
    delta.save(tmp_path / "d")
    (tmp_path / "t.csv").write_text("text,label\nthe cat,1\na dog,2\nold film,4\n")
    errors = {}
    for dtype in ("float32", "bfloat16"):
        call = ("evaluate", tmp_path / "d", "--file", tmp_path / "t.csv", "--json", "--device", "cpu")
        status, text, error = cli(*call, "--dtype", dtype)
        assert status == 0, error
        errors[dtype] = json.loads(text)["scores"]["mse"]
        with Predictor(load_base(str(tiny_folder), delta.info.head, dtype=dtype), delta) as predictor:
            values = [answer.value or 0.0 for answer in predictor.predict(["the cat", "a dog", "old film"])]
        wanted = sum((own - target) ** 2 for own, target in zip(values, (1, 2, 4), strict=True)) / 3
        assert errors[dtype] == pytest.approx(wanted, rel=1e-6)
    assert errors["float32"] != errors["bfloat16"]
