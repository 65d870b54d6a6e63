"""The record of a measurement, and its entries by parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from normtune.errors import ConfigError, DataError, UnknownNameError
from normtune.importance.fisher import information
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.records.fisher import Estimator, FisherConfig, FisherRecord, SplitHalf, Stability, Tolerance

CONFIG = FisherConfig(
    model="tiny",
    task="rte",
    within="full",
    entries="layernorm",
    estimator=Estimator(name="monte-carlo", samples=3),
    head_seeds=(0, 2),
    examples=40,
    stable=Tolerance(of="mask", fraction=0.2),
)


@pytest.fixture
def record(tiny_base: Base) -> FisherRecord:
    within = select(tiny_base.layout, "layernorm")
    sums = [{name: i + 0.1 * n for n, name in enumerate(within.chosen)} for i in range(2)]
    assert CONFIG.stable is not None
    looks = (SplitHalf(examples=40, agreement=0.5, error=0.1),)
    return FisherRecord(
        id="0123456789abcdef",
        config=CONFIG,
        base_identity=tiny_base.identity,
        selection=within.fingerprint,
        source="glue",
        examples=40,
        available=100,
        identity="fedcba9876543210",
        truncated=1,
        information=information(within, sums),
        stability=Stability(asked=CONFIG.stable, reached=False, examples=40, available=40, looks=looks),
        slow=("a.weight",),
        seconds=1.5,
        machine={"cpu": "one", "threads": 1},
        versions={"torch": "2"},
    )


def test_it_is_read_as_it_was_written(record: FisherRecord, tmp_path: Path) -> None:
    file = tmp_path / "new" / "record.json"
    record.save(file)
    assert FisherRecord.load(file) == record
    assert [path.name for path in file.parent.iterdir()] == ["record.json"]


def test_a_missing_or_damaged_one_is_refused(record: FisherRecord, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    with pytest.raises(DataError, match=r"There is no record at .*record\.json"):
        FisherRecord.load(file)
    record.save(file)
    plain = json.loads(file.read_text())
    without = {key: value for key, value in plain.items() if key != "examples"}
    for text in (file.read_text()[:-20], json.dumps(without), json.dumps({**plain, "exampels": 3}), "[]"):
        file.write_text(text)
        with pytest.raises(DataError, match=r"The record .*record\.json is damaged( at [^:]*)?: ") as caught:
            FisherRecord.load(file)
        assert "\n" not in str(caught.value)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'empirical'"):
        Estimator(name="empircal")
    with pytest.raises(ConfigError, match="at least 1 sample"):
        Estimator(samples=0)


def test_a_row_a_parameter_with_the_mean_over_heads(tiny_base: Base) -> None:
    layout = tiny_base.layout
    norm, dense = "bert.encoder.layer.1.output.LayerNorm.weight", "bert.pooler.dense.bias"
    within = Selection(layout, {dense: None, norm: [3, 5, 7]})  # type: ignore[dict-item]
    found = information(within, [{norm: 1.0, dense: 10.0}, {dense: 20.0, norm: 4.0}])
    assert [row.model_dump() for row in found] == [
        {
            **{"component": "output.LayerNorm", "layer": 1, "sub": "weight", "entries": 3},
            **{"total": 2.5, "by_seed": (1.0, 4.0)},
        },
        {
            **{"component": "pooler.dense", "layer": None, "sub": "bias", "entries": 32},
            **{"total": 15.0, "by_seed": (10.0, 20.0)},
        },
    ]
