from __future__ import annotations

import json

import pytest

from normtune.importance.ranking import component_means, ranking
from normtune.records.fisher import Estimator
from normtune.records.results import Results, read
from normtune.records.submission import Answered, SubmissionRecord
from normtune.report.cells import DEV, PRINTED, Cells
from normtune.report.methods import methods_table
from normtune.report.page import facts
from normtune.report.table import Entry, Group, Table, as_markdown
from normtune.report.tables import data_table, table1, table2, table3, table4
from normtune.statistics import published
from tests.report import made


def test_table1_adds_each_tasks_shares(folder, cells):
    sums = dict.fromkeys(published.RANKING, 0.0)
    for file in (folder / "fisher").glob("*.json"):
        rows = [row for row in json.loads(file.read_text())["information"] if row["layer"] is not None]
        means = {}
        for name in sums:
            own = [row for row in rows if row["component"] == name]
            means[name] = sum(row["total"] for row in own) / sum(row["entries"] for row in own)
        for name, mean in means.items():
            sums[name] += mean / sum(means.values())
    ours = ranking({task: component_means(each.information) for task, each in cells.fisher.items()})
    assert list(ours) == sorted(sums, key=lambda name: -sums[name]) == list(published.RANKING)
    assert ours == pytest.approx(sums, abs=1e-12)
    rows = table1(cells).rows
    assert [(row[0].text, row[1].text, row[2].text) for row in rows[:2]] == [
        ("output.LayerNorm", "1", "1"),
        ("attention.output.LayerNorm", "2", "2"),
    ]


def test_table2_has_ours_and_the_papers(cells):
    table = table2(cells)
    ours, theirs = table.groups
    names = [row[0].text for row in ours.rows]
    assert names == ["Full", "BitFit", "LayerNorm", "Random", "Head only", "One answer for all"]
    assert theirs.other
    assert table.header == ("method", "% of full", "CoLA", "MRPC", "STS-B", "RTE")
    assert [row[2].text for row in theirs.rows] == ["65.54", "63.64", "64.12", "58.51"]
    assert [row[1].text for row in theirs.rows] == ["100%", "0.082%", "0.015%", "0.015%"]
    place = table.header.index("RTE")
    assert "seed 0:" in ours.rows[0][place].tip
    assert any("Not run here" in note and "QQP" in note for note in table.notes)


def test_a_partial_cell_says_how_many_seeds_it_has(tmp_path):
    made.results(tmp_path, tasks=["rte"], measured=())
    gone = next(run for run in read(tmp_path).runs if (run.config.method, run.config.seed) == ("random", 2))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    for table in (made_of(Cells(read(tmp_path))) for made_of in (table2, methods_table)):
        row = next(row for row in table.rows if row[0].text == "Random")
        cell = row[next(place for place, name in enumerate(table.header) if name.startswith("RTE"))]
        assert (cell.kind, str(cell)) == ("missing", "2 of 3")


def test_table3_waits_for_the_server(cells, tmp_path):
    assert not table3(cells).filled
    answer = Answered(file="RTE.tsv", rows=3000, wanted=3000, sha256="a")
    record = SubmissionRecord(file="s.zip", sha256="b", made="now", answers=(answer,), versions={})
    made.results(tmp_path, methods={"head": 0.0}, tasks=["rte"], measured=())
    record.save(tmp_path / "submission.json")
    assert "1 submission made" in " ".join(table3(Cells(read(tmp_path))).notes)
    scored = record.model_copy(update={"scores": {"RTE": {"accuracy": 0.661}}, "scored": "now"})
    scored.save(tmp_path / "submission.json")
    table = table3(Cells(read(tmp_path)))
    assert table.rows[0][table.header.index("RTE")].text == "66.1"


def test_table4_is_the_papers(cells):
    assert [row[:2] for row in table4(cells).rows[:2]] == [
        (Entry("CoLA"), Entry("Matthews correlation")),
        (Entry("MRPC"), Entry("F1")),
    ]


def test_the_floors_are_those_of_a_constant_answer(cells):
    from normtune.data.metrics import compute

    for column in PRINTED:
        if column.task in {"rte", "mrpc"}:
            examples, answer = DEV[column.title]
            labels = [1] * answer + [0] * (examples - answer)
            metric = made.METRICS[column.task]
            import numpy as np

            known = compute([metric], np.ones(len(labels), dtype=int), np.array(labels))[metric]
            assert cells.floor(column) == pytest.approx(known)
        if column.task == "qqp":
            assert cells.floor(column) is None


def test_tables_are_written_for_others_to_read():
    rows = ((Entry("a_b & 5 %\nof it"), Entry("1.0", spread="0.1"), Entry("\N{MINUS SIGN}2")),)
    table = Table("t", "Title.", ("name", "x", "y"), (Group("all", rows),), "Caption.", ("A note.",))
    markdown = as_markdown(table)
    assert "| a_b & 5 % of it | 1.0 ± 0.1 | \N{MINUS SIGN}2 |" in markdown
    assert "A note." in markdown


def test_everything_chosen_is_stated(cells):
    said = dict(facts(cells))
    protocol = cells.results.runs[0].config.protocol
    assert said["protocol"] == "small"
    assert said["max train"] == "2,000"
    assert len(said) >= len(type(protocol).model_fields)
    rte = next(row for row in data_table(cells).rows if row[0].text == "RTE")
    assert [entry.text for entry in rte[2:6]] == ["2,000 of 5,000", "277", "3", "2,000 of 5,000"]


def test_what_a_method_adds_is_no_part_of_the_pre_trained_model():
    plain = made.record("rte", "head", 0)
    added = made.record("rte", "lora", 0, counts=plain.counts.model_copy(update={"total": 20_566, "selected": 500}))
    for runs in ((plain, added), (added, plain)):
        assert dict(facts(Cells(Results(runs, ()))))["entries of the pre-trained model"] == "20,000"


def test_an_estimator_that_is_not_the_empirical_one_is_named():
    drawn = made.fisher("rte")
    drawn = drawn.model_copy(
        update={"config": drawn.config.model_copy(update={"estimator": Estimator(name="monte-carlo")})}
    )
    (row,) = data_table(Cells(Results((), (drawn,)))).rows
    assert row[5].text == "2,000, monte-carlo"
