"""What ``normtune fisher`` shows, from records made up by hand."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest

from normtune.cli.fisher import show
from normtune.cli.render import Form, console
from normtune.config import Sub
from normtune.records.fisher import Estimator, FisherConfig, FisherRecord, Information, SplitHalf, Stability, Tolerance

#: Mean Fisher information by component.
MEANS = {"query": 3.0, "output.dense": 1.0, "output.LayerNorm": 6.0}


def record(task: str, means: dict[str, tuple[float, ...]] | dict[str, float] = MEANS, **changes: Any) -> FisherRecord:
    """A record with these means, the same in the weight (9 entries) and the bias (3) of each of two layers."""
    subs: tuple[tuple[Sub, int], ...] = (("weight", 9), ("bias", 3))
    rows = [
        Information(
            component=name,
            layer=layer,
            sub=sub,
            entries=size,
            total=float(np.mean(mean)) * size,
            by_seed=tuple(float(own) * size for own in np.atleast_1d(mean)),
        )
        for name, mean in means.items()
        for layer in range(2)
        for sub, size in subs
    ]
    heads = len(rows[0].by_seed)
    config = FisherConfig(model="/models/tiny", task=task, head_seeds=tuple(range(heads)), estimator=Estimator())
    return FisherRecord.model_validate({
        **{"id": f"id-{task}", "config": config, "base_identity": "b", "selection": "s", "source": "glue"},
        **{"examples": 1200, "available": 34567, "identity": "i", "truncated": 0, "information": tuple(rows)},
        **{"seconds": 1.0, "machine": {}, "versions": {}, **changes},
    })


def printed(form: Form, *records: FisherRecord) -> str:
    with redirect_stdout(io.StringIO()) as out:
        show(records, form)
    return out.getvalue()


def text(*records: FisherRecord) -> str:
    return printed("text", *records)


def in_markdown(records: list[FisherRecord]) -> str:
    return printed("markdown", *records)


def plain(records: list[FisherRecord]) -> Any:
    return json.loads(printed("json", *records))


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 100)


def body(shown_text: str) -> list[list[str]]:
    return [line.split() for line in shown_text.splitlines() if line.strip()[:1].isdigit()]


def test_the_table() -> None:
    other = {"query": 0.0001, "output.dense": 1.0, "output.LayerNorm": 1.0}
    found = text(record("rte"), record("intents", other))
    assert "components of tiny, empirical: share of each task, in %" in found
    assert body(found) == [
        ["1", "output.LayerNorm", "1.100", "60.0", "50.0"],
        ["2", "output.dense", "0.600", "10.0", "50.0"],
        ["3", "query", "0.300", "30.0", "<0.1"],
    ]
    assert "Examples: RTE 1,200 of 34,567, intents 1,200 of 34,567." in found
    assert "order alike" not in found
    assert "Still changing" not in found


def test_markdown_says_the_same() -> None:
    lines = in_markdown([record("rte")]).splitlines()
    assert lines[:3] == [
        "|  | component | sum | rte |",
        "| --- | --- | ---: | ---: |",
        "| 1 | output.LayerNorm | 0.600 | 60.0 |",
    ]
    assert lines[5:] == ["", "Examples: RTE 1,200 of 34,567."]


def test_a_component_that_a_task_lacks_is_left_blank() -> None:
    one, other = record("rte"), record("sst2", {"query": 1.0, "extra": 1.0})
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:]]
        for cells in (line.strip("| ").split("|") for line in in_markdown([one, other]).splitlines()[2:6])
    }
    assert rows["extra"] == ["0.500", "", "50.0"]
    assert rows["query"] == ["0.800", "30.0", "50.0"]


def test_long_names_are_folded_and_numbers_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    means = {"decoder." + "x" * 70: 1.0, "y": 3.0}
    found = text(*(record(f"task{n}", means) for n in range(5)))
    assert max(map(len, found.splitlines())) <= 80
    assert "…" not in found
    assert found.count("75.0") == found.count("25.0") == 5
    assert found.count("x") >= 70


def test_how_much_it_depends_on_the_head() -> None:
    two = {"query": (3.0, 1.0), "output.dense": (1.0, 2.0), "output.LayerNorm": (6.0, 6.0)}
    found = record("rte", two)
    assert "Pairs of components that two of the 2 heads order alike: RTE 67 %." in text(found)
    assert plain([found])["tasks"]["rte"]["between_heads"] == pytest.approx(2 / 3)


def test_what_did_not_become_stable_is_named() -> None:
    def known(reached: bool) -> Stability:
        looks = (SplitHalf(examples=64, agreement=0.5, error=0.1),)
        return Stability(asked=Tolerance(), reached=reached, examples=64, available=64, looks=looks)

    records = [record("rte", stability=known(False)), record("cola", stability=known(True)), record("sst2")]
    assert "Still changing when the examples ran out: RTE." in in_markdown(records)
    assert "Still changing" not in in_markdown(records[1:])
    tasks = plain(records)["tasks"]
    assert tasks["rte"]["stability"]["looks"] == [{"examples": 64, "agreement": 0.5, "error": 0.1}]
    assert tasks["sst2"]["stability"] is None


def test_what_is_slow_is_said() -> None:
    found = in_markdown([record("rte"), record("sst2", slow=("a.weight", "b.weight"))])
    assert "2 parameters had to be computed example by example, such as a.weight." in found
    assert "example by example" not in in_markdown([record("rte")])


def test_plain() -> None:
    found = plain([record("rte"), record("sst2", {"query": 1.0, "output.dense": 0.0, "output.LayerNorm": 0.0})])
    assert found["ranking"] == pytest.approx({"query": 1.3, "output.LayerNorm": 0.6, "output.dense": 0.1})
    assert found["tasks"]["rte"]["mean"] == MEANS
    assert {key: found["tasks"]["rte"][key] for key in ("id", "examples", "available")} == {
        "id": "id-rte",
        "examples": 1200,
        "available": 34567,
    }


def test_csv_has_a_row_a_task_and_component() -> None:
    rows = list(csv.DictReader(io.StringIO(printed("csv", record("rte"), record("sst2")))))
    assert [(row["task"], row["component"]) for row in rows] == [(t, n) for t in ("rte", "sst2") for n in MEANS]
    assert [float(row["share"]) for row in rows[:3]] == pytest.approx([0.3, 0.1, 0.6])
