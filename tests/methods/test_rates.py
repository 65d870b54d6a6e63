"""Grids of learning rates: one for each method and size, and read from the records as the docs say."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from normtune.methods.expression import select, specify
from normtune.methods.method import grid, width_of
from normtune.methods.selection import nothing
from normtune.models.base import skeleton
from normtune.records.aggregate import by_rate
from normtune.records.results import Store
from tests.conftest import TEXT_METHODS as METHODS

RUNS = Path(__file__).parents[2] / "results" / "runs"
MEASURED = ("head", "full", "bitfit", "layernorm", "random")


@pytest.mark.parametrize("width", [384, 768, 1024])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_four_rates_at_every_width(method: str, width: int) -> None:
    layout = skeleton("minilm")
    rates = grid(method, specify(layout, method), width)
    assert len(set(rates)) == 4
    assert rates[0] == sorted(rates[:3])[1]


def test_the_papers_grids_at_the_papers_width() -> None:
    layout = skeleton("minilm")
    assert sorted(grid("full", select(layout, "full"), 1024)) == [1e-5, 2e-5, 3e-5, 5e-5]
    assert sorted(grid("layernorm", select(layout, "layernorm"), 1024)) == [1e-4, 4e-4, 7e-4, 1e-3]
    assert sorted(grid("head", nothing(layout), 1024)) == [1e-4, 4e-4, 7e-4, 1e-3]


def test_an_expression_takes_the_grid_of_its_size() -> None:
    layout = skeleton("minilm")
    for expression, like in (("attention.output.dense", "full"), ("output.LayerNorm.bias@3-", "layernorm")):
        assert grid(expression, select(layout, expression), 384) == grid(like, select(layout, like), 384)
    assert grid("last-layers@3", select(layout, "last-layers@3"), 384) == grid("full", select(layout, "full"), 384)
    whole = "random@0-5 + attention.self.query"  # not random entries alone
    assert grid(whole, select(layout, whole), 384) == grid("full", select(layout, "full"), 384)
    assert width_of(layout) == 384


@pytest.mark.parametrize("method", MEASURED)
def test_the_narrow_grid_is_the_best_window_of_the_measured_rates(method: str) -> None:
    [scores] = by_rate(Store(RUNS), ["stsb"], [method]).values()
    assert len(scores) >= 5
    rates = list(scores)
    windows = [tuple(rates[i : i + 3]) for i in range(len(rates) - 2)]
    best = max(windows, key=lambda window: mean(scores[rate] for rate in window))
    assert tuple(sorted(METHODS[method].narrow[:3])) == best
    assert max(scores, key=scores.__getitem__) not in {rates[0], rates[-1]}
