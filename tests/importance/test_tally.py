from __future__ import annotations

import pytest
import torch

from normtune.importance.tally import Tally, merged


def test_a_tally():
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(4, 2), "c": torch.zeros(4, 2)}
    tally = Tally(parameters, ["a", "c"])
    assert tally.entries.keys() == {"a", "c"}
    tally.add("a", torch.ones(2, 3))
    tally.add("a", torch.full((2, 3), 2.0))
    tally.add("b", torch.ones(4, 2))
    rows, squares_of_rows = torch.tensor([1, 3, 1]), torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    for name in "bc":
        tally.add(name, squares_of_rows, rows)
    assert tally.totals() == {"a": 18.0, "b": 29.0, "c": 21.0}
    assert tally.entries["c"].tolist() == [[0, 0], [6, 8], [0, 0], [3, 4]]
    assert tally.entries["c"].dtype == torch.float64
    assert tally.finite
    for name, value in (("a", torch.nan), ("b", torch.inf)):
        one = Tally(parameters, ["a", "c"])
        one.add(name, torch.tensor(value))
        assert not one.finite
        assert tally.finite
        assert not merged([tally, one, tally]).finite
    one = Tally(parameters, ["a", "c"])
    one.add("c", torch.tensor([[1.0, torch.inf]]), torch.tensor([2]))
    assert not one.finite


def test_sums_are_in_float64():
    tally = Tally({"a": torch.zeros(1000), "b": torch.zeros(1)}, ["b"])
    tally.add("a", torch.full((1000,), 1e-4))
    tally.add("a", torch.tensor([1e8]))
    for value in (1e8, *[1e-2] * 10):
        tally.add("b", torch.tensor([value]))
    assert tally.totals() == pytest.approx({"a": 1e8 + 0.1, "b": 1e8 + 0.1}, rel=1e-12)
