from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from normtune.data.glue_tasks import GLUE
from normtune.deltas.delta import Delta
from normtune.errors import DataError, DeltaError
from normtune.models.base import Base
from normtune.submission import answers
from normtune.submission.answers import answer, named, plan
from normtune.submission.archive import write
from normtune.submission.files import FILES, TASKS as ANSWERED
from tests.submission.suite import SMALL, TASKS, Text, make_delta, outputs, read_zip, save_deltas, texts, write_suite


def expected(base: Base, delta: Delta, given: Sequence[Text], words: Sequence[str]) -> list[str]:
    """The answers from single texts, without our batching, deciding or writing."""
    with delta.apply(base):
        found = outputs(base, given, delta.info.max_length)
    if words:
        return [words[int(best)] for best in found.argmax(1)]
    values = found[:, 0].double() * delta.info.scale + delta.info.center
    return [f"{min(max(float(value), 0.0), 5.0):.3f}" for value in values]


def same(found: list[str], wanted: list[str], words: Sequence[str]) -> bool:
    """Whether answers agree: labels to the letter, scores within one of the last digit."""
    if words:
        return found == wanted
    return len(found) == len(wanted) and np.allclose([*map(float, found)], [*map(float, wanted)], atol=0.0011)


def cells(text: str) -> list[str]:
    """The predictions of a file."""
    return [line.split("\t")[1] for line in text.splitlines()[1:]]


def test_a_complete_submission(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    deltas = save_deltas(tiny_base, tmp_path / "deltas")
    loads: list[str] = []

    def base_of(delta: Delta) -> Base:
        loads.append(delta.info.task)
        return tiny_base

    parts, problems = plan(named(map(str, deltas.values())), data, SMALL)
    assert problems == []
    counts: list[int] = []
    found_answers = answer(parts, data, base_of, counts.append)
    assert loads == ["cola"]
    assert sum(counts) == sum(file.rows for file in SMALL if file.model)
    record = write(tmp_path / "glue.zip", found_answers, problems)
    assert not record.problems
    found = read_zip(tmp_path / "glue.zip")
    assert list(found) == [file.name for file in FILES]
    for file in SMALL:
        assert len(found[file.name]) == file.rows
        if file.model is None:
            assert found[file.name] == ["0"] * 146
        else:
            wanted = expected(tiny_base, Delta.load(deltas[file.model]), texts(file.title), file.words)
            assert same(found[file.name], wanted, file.words), file.name
        if file.task == file.model and file.split == "test":
            assert set(file.words) <= {*found[file.name]} or not file.words  # so that swapped labels would be seen
    assert {"0.000", "5.000"} <= {*found["STS-B.tsv"]}


def test_what_is_missing_is_said(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    (data / "QQP" / "test.tsv").unlink()
    (data / "MNLI" / "test_mismatched.tsv").unlink()
    lines = (data / "RTE" / "test.tsv").read_text().splitlines()
    (data / "RTE" / "test.tsv").write_text("\n".join(lines[:-1]))
    deltas = save_deltas(tiny_base, tmp_path / "deltas", ("rte", "mnli"))
    parts, problems = plan(named(map(str, deltas.values())), data, SMALL)
    assert problems == [
        "there is no delta of CoLA, SST-2, MRPC, STS-B, QQP, QNLI",
        f"{data} has no QQP/test.tsv, MNLI/test_mismatched.tsv",
        "RTE/test.tsv has 5 rows where the server wants 6",
    ]
    assert [part.file.title for part in parts] == ["MNLI-m", "RTE", "WNLI", "AX"]
    record = write(tmp_path / "trial.zip", answer(parts, data, lambda _: tiny_base), problems)
    assert record.problems == tuple(problems)
    found = read_zip(tmp_path / "trial.zip")
    assert {name: len(rows) for name, rows in found.items()} == {
        "MNLI-m.tsv": 8,
        "RTE.tsv": 5,
        "WNLI.tsv": 146,
        "AX.tsv": 4,
    }


def test_no_data_and_no_deltas_at_all(tmp_path: Path) -> None:
    _, problems = plan({}, tmp_path)
    assert [problem.split(" CoLA")[0] for problem in problems] == ["there is no delta of", f"{tmp_path} has no"]
    assert "WNLI" not in " ".join(problems)
    assert plan({}, None)[1] == problems[:1]


def test_answers_do_not_depend_on_the_chunks(tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_suite(tmp_path / "glue")
    sources = named(map(str, save_deltas(tiny_base, tmp_path / "deltas", ("qqp", "stsb")).values()))
    parts, _ = plan(sources, data, SMALL)
    whole = answer(parts, data, lambda _: tiny_base)
    monkeypatch.setattr(answers, "CHUNK", 4)
    counts: list[int] = []
    pieces = answer(parts, data, lambda _: tiny_base, counts.append)
    assert counts == [4, 3, 4, 4, 1]
    for part, (one, text), (two, other) in zip(parts, whole, pieces, strict=True):
        assert same(cells(text), cells(other), part.file.words)
        assert one.texts == two.texts


def test_an_empty_question_is_answered(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    (data / "QQP" / "test.tsv").write_text("id\tquestion1\tquestion2\n0\t\tIs it ?\n1\tIs it ?\t\n")
    files = [replace(file, rows=2) for file in FILES if file.task == "qqp"]
    deltas = save_deltas(tiny_base, tmp_path / "deltas", ("qqp",))
    [(_, text)] = answer(plan(named([str(deltas["qqp"])]), data, files)[0], data, lambda _: tiny_base)
    wanted = expected(tiny_base, Delta.load(deltas["qqp"]), [("-", "Is it ?"), ("Is it ?", "-")], ("0", "1"))
    assert cells(text) == wanted


def test_the_deltas_own_limit_of_tokens(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    delta = make_delta(tiny_base, "rte", texts("RTE"), max_length=8)
    file = delta.save(tmp_path / "rte.safetensors")
    parts, _ = plan(named([str(file)]), data, [f for f in SMALL if f.task == "rte"])
    [(answered, text)] = answer(parts, data, lambda _: tiny_base)
    assert answered.truncated == 6
    assert cells(text) == expected(tiny_base, delta, texts("RTE"), GLUE["rte"].labels)


def test_an_output_that_is_not_finite_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    delta = make_delta(tiny_base, "rte", texts("RTE"))
    huge = torch.finfo(torch.float32).max
    broken = replace(delta, head={name: torch.full_like(value, huge) for name, value in delta.head.items()})
    parts, _ = plan(named([str(broken.save(tmp_path / "rte").parent)]), data, [f for f in SMALL if f.task == "rte"])
    with pytest.raises(DeltaError, match="The task 'rte' gives a number that is not finite"):
        answer(parts, data, lambda _: tiny_base)


def test_a_file_that_changed_in_between(tiny_base: Base, tmp_path: Path) -> None:
    data = write_suite(tmp_path / "glue")
    sources = named([str(save_deltas(tiny_base, tmp_path / "deltas", ("rte",))["rte"])])
    parts, _ = plan(sources, data, [f for f in SMALL if f.task == "rte"])
    with (data / "RTE" / "test.tsv").open("a") as file:
        file.write("6\tone\tmore\n")
    with pytest.raises(DataError, match="has 7 texts where there should be 6"):
        answer(parts, data, lambda _: tiny_base)


# The real test files, where there is a copy.

COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("#1 String", "#2 String"),
    "stsb": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}


def read_texts(path: Path, columns: Sequence[str]) -> list[Text]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if len(columns) == 1:
        return [row[columns[0]].strip() for row in rows]
    return [(row[columns[0]].strip(), row[columns[1]].strip()) for row in rows]


@pytest.mark.parametrize(
    "tasks",
    [("stsb",), pytest.param(("cola", "sst2", "mrpc", "qnli", "rte"), marks=pytest.mark.slow)],
    ids="+".join,
)
def test_the_real_test_files(glue: Path, tiny_base: Base, tmp_path: Path, tasks: tuple[str, ...]) -> None:
    real = {file.task: file for file in FILES if file.task in tasks and (glue / file.place).is_file()}
    if not real:
        pytest.skip(f"no test files of {', '.join(tasks)} in {glue}")
    given = {task: read_texts(glue / file.place, COLUMNS[task]) for task, file in real.items()}
    deltas = {task: make_delta(tiny_base, task, given[task][:40], max_length=64) for task in real}
    folders = [str(delta.save(tmp_path / task).parent) for task, delta in deltas.items()]
    parts, problems = plan(named(folders), glue)
    assert not [problem for problem in problems if "rows where" in problem]
    write(tmp_path / "real.zip", answer(parts, glue, lambda _: tiny_base), problems)
    found = read_zip(tmp_path / "real.zip")
    assert set(found) == {"WNLI.tsv", *(file.name for file in real.values())}
    assert found["WNLI.tsv"] == ["0"] * 146
    for task, file in real.items():
        rows = found[file.name]
        assert len(rows) == len(given[task]) == file.rows
        if file.words:
            assert {*rows} == {*file.words}
        else:
            assert all(0 <= float(row) <= 5 and len(row) == 5 for row in rows)
            assert {"0.000", "5.000"} <= {*rows}
        # The rows are in order: 25 texts, each alone, get the same answers.
        some = range(0, file.rows, file.rows // 25)
        wanted = expected(tiny_base, deltas[task], [given[task][i] for i in some], file.words)
        assert same([rows[i] for i in some], wanted, file.words), task


def test_the_tasks_that_need_a_delta() -> None:
    assert ANSWERED == TASKS
