from __future__ import annotations

from normtune.records.results import read
from normtune.report.cells import Cells
from normtune.report.comparisons import ours_table, theirs_table
from normtune.report.evidence import claims_table, evidence
from normtune.report.tables import findings
from normtune.statistics.claims import CLAIMS
from tests.report import made


def test_every_part_of_every_claim_is_measured(cells):
    measured = evidence(cells)
    assert {part for claim in CLAIMS for part in claim.parts} == {*measured}
    assert measured["bias"].mean is not None
    assert abs(measured["bias"].mean - 3) < 1e-9  # 12 x 10 entries over 1 x 40
    assert abs(measured["change"].mean - 2) < 0.01
    assert (len(measured["first"].values), measured["first"].seeds) == (8, 3)
    table = claims_table(cells)
    assert [row[3].text for row in table.rows if row[0].text][:2] == ["confirmed", "confirmed"]


def test_claims_without_runs_are_named_alone(tmp_path):
    made.results(tmp_path, methods={"layernorm": 0.0, "random": 0.0}, tasks=["rte"], measured=())
    table = claims_table(Cells(read(tmp_path)))
    assert [(row[0].text, row[3].text) for row in table.rows if row[0].text] == [("3", "undecided"), ("4", "undecided")]
    assert table.notes[0].endswith("claims: 1, 2, 5, 6, 7, 8.")


def test_tasks_that_lack_a_run_take_no_part(tmp_path):
    made.results(tmp_path, measured=())
    gone = next(r for r in read(tmp_path).runs if (r.config.method, r.config.task) == ("random", "rte"))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    cells = Cells(read(tmp_path))
    random = evidence(cells)["random"]
    assert (len(random.values), random.left_out) == (3, ("RTE",))
    table = ours_table(cells)
    assert {row[2].text for row in table.rows} == {"3"}
    assert table.notes[0] == "Left out, since a compared method lacks runs there: RTE."
    gone = next(r for r in read(tmp_path).runs if (r.config.method, r.config.task) == ("full", "cola"))
    (tmp_path / "runs" / f"{gone.id}.json").unlink()
    change = evidence(Cells(read(tmp_path)))["change"]
    assert (len(change.values), change.left_out) == (3, ("CoLA",))
    for run in read(tmp_path).runs:
        if (run.config.method, run.config.task) == ("full", "cola"):
            (tmp_path / "runs" / f"{run.id}.json").unlink()
    assert evidence(Cells(read(tmp_path)))["change"].left_out == ("CoLA",)


def test_tasks_at_their_floor_are_judged_apart(tmp_path):
    # MRPC's 0.85 is less than five points above F1 for saying yes to all; the others are clear of their floors.
    made.results(tmp_path, methods={"full": -0.03, "bitfit": -0.03, "layernorm": -0.03, "random": -0.05}, measured=())
    cells = Cells(read(tmp_path))
    assert evidence(cells)["full"].floored == ("mrpc",)
    rows = claims_table(cells).rows
    apart = [place for place, row in enumerate(rows) if "clear of their floor" in row[1].text]
    assert [rows[place - 1][7].text.split()[2] for place in apart] == ["4", "4"]
    assert [rows[place][7].text.split()[2] for place in apart] == ["3", "3"]


def test_a_sample_of_the_dev_set_has_the_floor_of_the_whole(tmp_path):
    made.results(tmp_path, methods={"full": 0.0, "layernorm": -0.2, "random": -0.2}, measured=())
    half = {"dev": 130}
    for old in read(tmp_path).runs:
        if old.config.task == "rte":
            old.model_copy(update={"data": old.data.model_copy(update=half)}).save(tmp_path / "runs" / f"{old.id}.json")
    cells = Cells(read(tmp_path))
    (rte,) = [column for column in cells.ran if column.task == "rte"]
    assert cells.floor(rte) is None  # unknown for these texts
    assert "rte" in evidence(cells)["random"].floored


def test_a_method_with_other_tasks_does_not_end_the_tests(tmp_path):
    made.results(tmp_path, methods={"layernorm": 0.0, "random": -0.1}, measured=())
    made.results(tmp_path, methods={"lora": 0.1}, tasks=["stsb", "mrpc", "rte"], measured=())
    made.results(tmp_path, methods={"red": 0.1}, tasks=["stsb", "mrpc", "cola"], measured=())
    made.results(tmp_path, methods={"ia3": 0.1}, tasks=["stsb", "mrpc"], measured=())
    table = ours_table(Cells(read(tmp_path)))
    assert {row[2].text for row in table.rows} == {"3"}
    assert len(table.rows) == 2
    assert table.notes[0] == "Left out, since fewer than 3 tasks have all its runs: ia3."
    assert table.notes[2] == "Left out, since it shares too few tasks with the others: red."


def test_the_papers_scores_give_its_p():
    table = theirs_table()
    assert [(row[0].text[:6], row[6].text) for row in table.groups[0].rows[1:]] == [
        ("BitFit", "0.0391"),
        ("Random", "0.0078"),
    ]
    assert [row[9].text for row in table.rows if row[0].text.startswith("BitFit")][::2] == [
        "0.56599",
        "0.62703",
        "0.54773",
    ]
    text = " ".join(table.notes)
    assert "cannot tell even random from layernorm (p = 0.45" in text


def test_what_strikes_is_said_first(cells, tmp_path):
    said = findings(cells)
    assert "protocol small" in said[0]
    assert "RTE (Head only)" in said[1]
    made.fisher("rte").save(tmp_path / "fisher" / "a.json")
    assert "Only Fisher information" in findings(Cells(read(tmp_path)))[0]


def test_a_part_of_the_layers_is_not_halved(tmp_path):
    """Layers 1 and up, or weights of the upper layers alone, would give sides of different sizes."""
    whole = made.fisher("rte")
    for within, kept in (
        ("layernorm@1-", lambda row: row.layer != 0),
        ("output.LayerNorm.bias + output.LayerNorm.weight@1-", lambda row: row.sub == "bias" or row.layer != 0),
    ):
        rows = tuple(row for row in whole.information if row.component == "output.LayerNorm" and kept(row))
        config = whole.config.model_copy(update={"within": within})
        whole.model_copy(update={"config": config, "information": rows}).save(tmp_path / "fisher" / "a.json")
        assert not {"layers", "bias"} & {*evidence(Cells(read(tmp_path)))}
