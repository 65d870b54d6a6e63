"""Scores from tables and records, and one value a task."""

from __future__ import annotations

import numpy as np
import pytest

from normtune.data.rows import READERS
from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.statistics.published import METHODS, TASKS, scores
from normtune.statistics.scores import ScoreTable, from_records, from_rows, grouped, same_task
from tests.records.test_aggregate import record


def read(text: str, **options: object) -> ScoreTable:
    return from_rows(READERS[".csv"]("the stream", text.encode()), **options)


def test_a_row_a_task_a_column_a_method():
    found = read("dataset,a,b\nRTE, 0.5 ,0.25\nMRPC,0.75,1\n")
    assert (found.methods, found.tasks, found.percent) == (("a", "b"), ("RTE", "MRPC"), False)
    assert found.of("b").tolist() == [0.25, 1.0]
    assert found.notes == ()
    found = read("dataset;a\nRTE;0.5\n")
    assert (found.tasks, found.notes) == (("RTE",), ("the stream is separated by ';', as its header is.",))


def test_seeds_are_averaged_and_differences_stay_paired():
    found = read("seed,a,Task,b\n0,0.5,x,0.25\n1,0.75,x,0.25\n0,0.5,y,0.5\n")
    assert found.seeds == (("0", "1"), ("0",))
    assert found.of("a").tolist() == [0.625, 0.5]
    assert [d.tolist() for d in found.differences("a", "b")] == [[0.375], [0.0]]  # seeds differ: a mean per task


def test_a_seed_is_the_same_one_on_every_task_in_whatever_order_rows_stand():
    found = read("seed,a,task,b\n1,0.5,x,0.25\n0,0.75,x,0.25\n0,0.5,y,0.5\n1,1,y,0.5\n")
    assert [d.tolist() for d in found.differences("a", "b")] == [[0.5, 0.25], [0.0, 0.5]]


def test_percents_are_seen_by_a_score_beyond_one():
    assert read("t,a,b\nx,50,25\ny,-3,0\n").of("a").tolist() == [0.5, -0.03]
    assert read("t,a,b\nx,50,25\ny,0,0\n").percent
    assert not read("t,a,b\nx,-1,1\n").percent


def test_columns_and_rows_are_chosen():
    text = "task,a,metric,b\nx,0.1,f1,0.2\ny,0.3,f1,0.4\n"
    found = read(text, methods=["b", "a"], tasks=["y"])
    assert (found.methods, found.tasks, found.of("b").tolist()) == (("b", "a"), ("y",), [0.4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,a,b\nx,0.1,\n", "line 2: the score of b is missing"),
        ("task,a,b\nx,0.1,good\n", "line 2: 'good' in the column 'b' is no number; choose columns with --methods"),
        ("task,a,b\nx,0.1,nan\n", "no finite number"),
        ("task,a,b\nx,0.1,0.2\nx,0.1,0.3\n", "line 3: x stands twice; several runs of a task need a column 'seed'"),
        ("task,seed,a,b\nx,1,0.1,0.2\nx,1,0.1,0.3\n", "line 3: x with seed 1 stands twice"),
        ("task,seed,a,b\nx,,0.1,0.2\n", "line 2: the row of x has no seed"),
        ("task,a,b\n,0.1,0.2\n", "line 2: the row names no task"),
        ("task,a,\nx,0.1,0.2\n", "a column has no name"),
        ("seed,a,b\n0,0.1,0.2\n", "has no column that names the tasks before 'seed'; call it 'task'"),
        ("task a b\nx 0.1 0.2\n", "no column of scores beside 'task a b'"),
        ("task,a,b\nx,50,51\ny,0.5,0.6\n", "y are within 1 in size"),
        ("task,a,b\nx,500,51\n", "a score of 500"),
    ],
)
def test_bad_tables_are_refused_with_a_sentence(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_unknown_names():
    text = "task,a,b\nx,0.1,0.2\n"
    for options, kind in (({"methods": ["c"]}, "method"), ({"tasks": ["y"]}, "task")):
        with pytest.raises(UnknownNameError, match=f"Unknown {kind}"):
            read(text, **options)
    with pytest.raises(UnknownNameError, match="Unknown method 'c'"):
        read(text).of("c")


def test_rows_of_one_task_are_known_by_their_names():
    assert same_task(TASKS) == {"MNLI": ("MNLI-m", "MNLI-mm")}
    assert same_task(["mnli_matched", "mnli_mismatched", "rte"]) == {"mnli": ("mnli_matched", "mnli_mismatched")}
    assert same_task(["mnli", "mnli-mm", "foo-m", "gramm"]) == {"mnli": ("mnli", "mnli-mm")}
    pooled = same_task(scores("pooled").tasks)
    assert len(pooled) == 8
    assert pooled["MNLI"] == ("MNLI-m dev", "MNLI-mm dev", "MNLI-m test", "MNLI-mm test")


def test_one_value_a_task_is_the_mean_seed_by_seed():
    text = "task,seed,a,b\nx-m,0,0.1,0.2\nx-m,1,0.3,0.4\ny,0,0.5,0.6\nx-mm,1,0.5,0.6\nx-mm,0,0.3,0.4\n"
    found = grouped(read(text), {"x": ("x-m", "x-mm")})
    assert found.tasks == ("x", "y")
    assert np.allclose(found.values[0], [[0.2, 0.3], [0.4, 0.5]])


def test_groups_that_cannot_be():
    table = read("task,seed,a\nx,0,0.1\ny,1,0.2\nz,0,0.2\n")
    with pytest.raises(ConfigError, match="different seeds"):
        grouped(table, {"xy": ("x", "y")})
    with pytest.raises(ConfigError, match="x is in two groups"):
        grouped(table, {"xz": ("x", "z"), "zx": ("x", "z")})
    with pytest.raises(UnknownNameError, match="Unknown task 'w'"):
        grouped(table, {"xw": ("x", "w")})


def test_the_papers_scores():
    table = scores("dev")
    assert (table.methods, len(table), len(scores("pooled"))) == (METHODS, 9, 18)
    assert table.of("random")[-1] == 0.8391


def test_records_give_the_scores_of_the_table():
    runs = [
        record(m, t, s, 1e-2, s / 10 + k / 100) for k, m in enumerate("ab") for t in ("rte", "cola") for s in (0, 1)
    ]
    runs += [record("a", "rte", 0, 1e-3, 0.9), record("b", "rte", 2, 1e-2, 0.9)]
    found = from_records(runs)
    assert (found.methods, found.tasks, found.seeds) == (("a", "b"), ("rte", "cola"), (("0", "1"), ("0", "1")))
    assert np.allclose(found.values[0], [[0, 0.01], [0.1, 0.11]])
    assert found.notes == ("On rte 2 of 3 seeds are used: those that every method has.",)
    assert from_records(runs, methods=["b", "a"], tasks=["cola"]).methods == ("b", "a")


def test_mnli_gives_two_rows():
    runs = [
        record(m, "mnli", 0, 1e-2, 0.5).model_copy(
            update={"scores": {"dev": {"accuracy": 0.5}, "dev_mismatched": {"accuracy": 0.6}}}
        )
        for m in "ab"
    ]
    found = from_records(runs)
    assert found.tasks == ("mnli-m", "mnli-mm")
    assert found.of("a").tolist() == [0.5, 0.6]


def test_records_with_gaps_are_refused():
    runs = [record("a", "rte", 0, 1e-2, 0.5), record("a", "cola", 0, 1e-2, 0.5), record("b", "rte", 1, 1e-2, 0.5)]
    with pytest.raises(DataError, match="no run of b on cola; leave out what is missing"):
        from_records(runs)
    with pytest.raises(DataError, match="no seed in common on rte"):
        from_records(runs, tasks=["rte"])
    with pytest.raises(UnknownNameError, match="Unknown method 'c'"):
        from_records(runs, methods=["a", "c"])


def test_records_of_methods_that_are_not_asked_for_do_no_harm():
    runs = [record(m, t, 0, 1e-2, 0.5) for m in "abc" for t in ("rte", "cola")]
    runs.append(runs[-1].model_copy(update={"id": "other", "trains": "other"}))  # two runs of c on cola
    assert from_records(runs, methods=["a", "b"]).tasks == ("rte", "cola")
    assert from_records(runs, tasks=["rte"]).methods == ("a", "b", "c")
    with pytest.raises(ConfigError, match="Two runs of c on cola"):
        from_records(runs)
