"""Ablations in a report: their table, their picture, and a folder that holds nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from normtune.config import protocol
from normtune.records.ablation import AblationConfig, AblationPoint, AblationRecord
from normtune.records.results import read
from normtune.report.ablation import Ablation, table
from normtune.report.page import Report, page
from normtune.report.table import rows_as_markdown
from tests.report import made


def record(**changes: object) -> AblationRecord:
    """One dimension and one part switched off, with two draws each."""
    config = AblationConfig(model="models/tiny", delta="there", task="rte", draws=2, protocol=protocol("small"))
    points = (
        AblationPoint(
            part="layernorm", dimensions=1, per="model", entries=6, scores={"accuracy": 0.5},
            random=({"accuracy": 0.7}, {"accuracy": 0.66}), seconds=1.0,
        ),
        AblationPoint(part="full@1", entries=900, scores={"accuracy": 0.6}, random=({"accuracy": 0.7},) * 2, seconds=1),
    )  # fmt: skip
    fields = {
        "config": config,
        "base_identity": "b" * 64,
        "data": {"dev": "x"},
        "primary": "accuracy",
        "dense": {"accuracy": 0.7},
        "points": points,
        "machine": made.MACHINE,
        "versions": made.VERSIONS,
    }
    return AblationRecord.model_validate({**fields, **changes})


def test_what_is_lost_by_hand() -> None:
    shown = table([record()])
    assert "tiny, rte dev" in shown.groups[0].name
    assert rows_as_markdown(shown).splitlines()[3:] == [
        "| 1 dimension of layernorm | 6 | 50.00 | 20.00 | 2.00 ± 2.83 | 4.00 |",
        "| full@1 | 900 | 60.00 | 10.00 | 0.00 ± 0.00 | 0.00 |",
    ]
    rows = Ablation(record()).flat
    assert rows[1] == ("tiny", "rte", "accuracy", "1 dimension of layernorm", "model", 6, pytest.approx(0.2), 0)
    assert len(rows) == 1 + 2 * 3


def test_a_folder_of_ablations_alone(tmp_path: Path) -> None:
    scores = {"log_likelihood": -3.5, "perplexity": 33.1}
    point = AblationPoint(part="full@1", entries=9, scores={**scores, "log_likelihood": -4.75}, seconds=1)
    record(primary="log_likelihood", dense=scores, points=(point,)).save(tmp_path / "ablate" / "one.json")
    shown = Report(read(tmp_path))
    text = page(shown)
    assert "Only ablations were measured (tiny)" in text
    assert re.findall(r'<section id="(.*?)"', text) == ["findings", "ablation", "how"]
    assert "<dt>model</dt><dd>models/tiny</dd>" in text
    assert 'href="figures/switched-off.svg"' in text
    rows = rows_as_markdown(shown.tables["ablations"])
    assert "log_likelihood: -3.50 as it is" in rows
    assert "| full@1 | 9 | -4.75 | 1.25 | — | — |" in rows
