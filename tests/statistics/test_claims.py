from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from normtune.statistics.claims import CLAIMS, MARGIN, Evidence

FACTS = Path(__file__).resolve().parents[3] / "shared" / "paper" / "facts.json"


def difference(*means: float, margin: float = MARGIN) -> Evidence:
    values = {f"task {place}": [mean, mean] for place, mean in enumerate(means)}
    return Evidence("a - b", "difference", values, margin)


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((0.0, 0.001, -0.001, 0.0), "confirmed"),
        ((-0.05, -0.06, -0.055, -0.052), "refuted"),
        ((-0.05, 0.05, 0.0, 0.01), "undecided"),
        ((0.0, 0.0), "undecided"),
        ((), "undecided"),
        ((0.80 - 0.81, 0.70 - 0.71, 0.60 - 0.61), "undecided"),  # at the margin but for rounding
    ],
)
def test_a_difference_is_judged_by_its_interval(means, verdict):
    assert difference(*means).verdict == verdict


def test_a_ratio_is_judged_against_one():
    values = {str(place): [math.log(2.0), math.log(2.2)] for place in range(4)}
    measured = Evidence("a / b", "ratio", values)
    assert measured.mean == pytest.approx(math.sqrt(4.4))
    low, high = measured.interval
    assert 1 < low < measured.mean < high
    assert measured.verdict == "confirmed"


def test_a_claim_of_two_parts_needs_both_and_falls_with_either():
    good, bad, unclear = difference(0.0, 0.0, 0.0), difference(-0.5, -0.5, -0.5), difference(-0.5, 0.5, 0.0)

    claim = CLAIMS[2]
    assert claim.parts == ("full", "bitfit")
    assert claim.judged([good, good]) == "confirmed"
    assert claim.judged([good]) == "undecided"
    assert claim.judged([good, unclear]) == "undecided"
    assert claim.judged([unclear, bad]) == "refuted"
    assert claim.judged([]) == "undecided"


def test_the_claims_are_the_papers():
    assert len(CLAIMS) == 8
    if not FACTS.is_file():
        pytest.skip("no facts.json beside the repository")
    known = json.loads(FACTS.read_text())["claims"]
    for claim, text in zip(CLAIMS, known, strict=True):
        assert f"({claim.where})" in text
        assert len({*claim.text.lower().split()} & {*text.lower().split()}) >= 3


@pytest.mark.parametrize(("tasks", "seeds", "mean"), [(0.05, 0.02, 0.08), (0.0, 0.03, 0.02)])
def test_so_many_tasks_decide_four_times_in_five(tasks: float, seeds: float, mean: float) -> None:
    random = np.random.default_rng(0)

    def measured(own: np.ndarray) -> Evidence:
        return Evidence("a - b", "difference", {str(place): [*each] for place, each in enumerate(own)})

    def draw(count: int) -> Evidence:
        return measured(mean + tasks * random.standard_normal((count, 1)) + seeds * random.standard_normal((count, 3)))

    # Three tasks with exactly these mean squares of tasks and of the rest, and no effect that seeds share.
    own = (tasks**2 + seeds**2 / 3) ** 0.5 * np.array([[-1], [0], [1]])
    rest = (2 / 3) ** 0.5 * seeds * (np.eye(3) - np.eye(3)[[1, 2, 0]])
    enough = measured(mean + own + rest).takes()
    assert enough is not None
    assert 5 <= enough <= 40
    decided = [draw(enough).verdict == "confirmed" for _ in range(200)]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.08)


def test_nothing_is_enough_where_the_mean_is_the_bound_or_the_spread_unknown():
    assert difference(0.0, 0.0, 0.0, margin=0.0).takes() is None
    assert difference(0.1, 0.2).takes() is None
    assert Evidence("a - b", "difference", {"a": [0.1], "b": [0.3], "c": [0.2]}).takes() is None


def test_more_tasks_are_needed_than_there_are():
    few = [[3.02, 2.62], [3.04, 2.35], [3.22, 2.28], [3.27, 3.05]]
    measured = Evidence("a - b", "difference", {str(place): each for place, each in enumerate(few)})
    assert measured.verdict == "undecided"
    assert (measured.takes() or 5) > 4


def test_tasks_are_not_enough_where_seeds_push_all_alike():
    """What they share has one degree of freedom fewer than there are seeds, however many tasks there are."""
    random = np.random.default_rng(0)
    shift = np.array([-0.01, 0.0, 0.01])

    def draw(count: int) -> Evidence:
        own = 0.02 + shift + 0.001 * random.standard_normal((count, 3))
        return Evidence("a - b", "difference", {str(place): [*each] for place, each in enumerate(own)})

    assert draw(4).takes() is None
    assert draw(200).verdict == "undecided"


def test_tasks_at_their_floor_are_left_out_of_the_second_judgement():
    values = {"cola": [-0.2, -0.2], "stsb": [0.02, 0.02], "sst2": [0.01, 0.02], "qnli": [0.0, 0.01]}
    measured = Evidence("a - b", "difference", values, MARGIN, floored=("cola",))
    assert (measured.verdict, measured.agreeing) == ("undecided", 3)
    assert (measured.clear.verdict, measured.clear.agreeing, len(measured.clear.values)) == ("confirmed", 3, 3)


def test_rounding_is_on_no_side_of_the_margin():
    at = difference(0.31 - 0.32, 0.5 - 0.51, 0.23 - 0.24)
    assert (at.agreeing, at.verdict, at.takes()) == (0, "undecided", None)


def test_a_part_without_any_information_decides_nothing():
    measured = Evidence("a / b", "ratio", {"a": [690.0], "b": [1.0], "c": [2.0]})
    assert (measured.verdict, measured.mean, measured.interval) == ("undecided", math.inf, (0.0, math.inf))
