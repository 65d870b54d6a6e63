from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from normtune.errors import SelectionError
from normtune.importance.scores import Scores
from normtune.methods.selection import Selection, at, nothing
from tests.methods.test_selection import ENTRIES, LAYOUT, select

numbers = st.floats(-1e6, 1e6)


def scored(values, layout=LAYOUT):
    """Scores from a mapping of (parameter, position) to a number."""
    selection = select(values)
    return Scores(
        selection,
        {p.parameter: np.array([values[p.parameter, i] for i in selection.indices(p.parameter)]) for p in selection},
    )


def entries_of(scores):
    """The number of each (parameter, position): the inverse of `scored`."""
    return {
        (p.parameter, int(i)): float(v)
        for p in scores.within
        for i, v in zip(scores.within.indices(p.parameter), scores.values[p.parameter], strict=True)
    }


tables = st.dictionaries(st.sampled_from(ENTRIES), numbers)


@given(tables)
def test_arithmetic_is_entry_by_entry(table):
    scores = scored(table)
    assert entries_of(scores) == table
    assert len(scores) == len(table)
    assert entries_of(-scores) == {entry: -value for entry, value in table.items()}
    assert entries_of(scores + scores) == {entry: 2 * value for entry, value in table.items()}
    assert entries_of(scores) == table


@given(tables.map(lambda table: {entry: abs(value) + 1e-9 for entry, value in table.items()}).filter(bool))
def test_normalised_they_add_up_to_one_over_the_candidates(table):
    whole = sum(table.values())
    normalised = entries_of(scored(table).normalised())
    assert normalised == {entry: pytest.approx(value / whole, rel=1e-12) for entry, value in table.items()}


def flat(*values):
    return Scores(Selection(LAYOUT, {"a.bias": None}), {"a.bias": np.array(values)})


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (flat(0.0, 0.0, 0.0), "0"),
        (flat(1.0, 1.0, -3.0), "-1"),
        (flat(1e308, 1e308, 1e308), "inf"),
        (flat(-1e308, -1e308, -1e308), "-inf"),
        (Scores(nothing(LAYOUT), {}), "0"),
    ],
)
def test_a_sum_that_cannot_be_divided_by_is_refused(scores, said):
    with pytest.raises(SelectionError, match=re.escape(f"Scores that add up to {said} cannot be divided")):
        scores.normalised()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"a.bias": np.ones(3)}, "'b.weight' has candidates but no scores."),
        ({"a.bias": np.ones(3), "b.weight": np.ones(1), "c.weight": np.ones(8)}, "'c.weight' has scores but no cand"),
        ({"a.bias": np.ones(2), "b.weight": np.ones(1)}, "scores of 'a.bias' have the shape (2,), its candidates (3,)"),
        ({"a.bias": np.ones((1, 3)), "b.weight": np.ones(1)}, "scores of 'a.bias' have the shape (1, 3)"),
        ({"a.bias": np.array([1, np.nan, 1]), "b.weight": np.ones(1)}, "'a.bias' are not finite: number 1 of 3 is nan"),
        ({"a.bias": np.ones(3), "b.weight": np.array([np.inf])}, "'b.weight' are not finite: number 0 of 1 is inf"),
    ],
)
def test_every_candidate_has_one_finite_score(values, said):
    with pytest.raises(SelectionError, match=re.escape(said)):
        Scores(Selection(LAYOUT, {"a.bias": None, "b.weight": None}), values)


def test_they_are_float64_and_cannot_be_written_to():
    given_values = np.ones(3, np.float32)
    scores = Scores(Selection(LAYOUT, {"a.bias": None}), {"a.bias": given_values})
    assert scores.values["a.bias"].dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        scores.values["a.bias"][0] = 2
    mine = np.ones(3)
    Scores(Selection(LAYOUT, {"a.bias": None}), {"a.bias": mine})
    mine[0] = 2  # the caller's own array stays writable


def test_scores_of_different_candidates_do_not_mix():
    other = Scores(at(LAYOUT, [0]), {"a.weight": np.ones(1)})
    with pytest.raises(SelectionError, match="different candidates cannot be added"):
        flat(1.0, 2.0, 3.0) + other
