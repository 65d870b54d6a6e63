from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from normtune.statistics.claims import CLAIMS, MARGIN, Measured

FACTS = Path(__file__).resolve().parents[3] / "shared" / "paper" / "facts.json"


def difference(*means: float, margin: float = MARGIN) -> Measured:
    values = {f"task {place}": [mean, mean] for place, mean in enumerate(means)}
    return Measured("a - b", "difference", values, margin)


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((0.0, 0.001, -0.001, 0.0), "confirmed"),
        ((-0.05, -0.06, -0.055, -0.052), "refuted"),
        ((-0.05, 0.05, 0.0, 0.01), "undecided"),
        ((0.0, 0.0), "undecided"),
        ((), "undecided"),
    ],
)
def test_a_difference_is_judged_by_its_interval(means, verdict):
    assert difference(*means).verdict == verdict


def test_a_ratio_is_judged_against_one():
    values = {str(place): [math.log(2.0), math.log(2.2)] for place in range(4)}
    measured = Measured("a / b", "ratio", values)
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


def test_what_it_takes_is_that_of_a_z_test():
    # By hand: task means 0.00, 0.02, 0.04, 0.06 and seeds 0.01 to both sides, so that a seed's variance is 0.0002, a
    # task's (0.0066667 - 0.0001) / 10, and the mean 0.03 lies 0.03 from its bound: (0.03 / 2.80)^2 = 0.00011468.
    values = {str(place): [x - 0.01, x + 0.01] for place, x in enumerate((0.0, 0.02, 0.04, 0.06))}
    tasks, seeds = Measured("a - b", "difference", values).takes()
    assert tasks == math.ceil(0.00066667 / 0.00011468) == 6
    assert seeds is None  # four tasks that differ so much decide nothing, whatever their seeds
    # Tasks alike: the seeds' variance is 0.0008, the mean 0.01; 4 (0.01 / 2.80)^2 = 0.00005097.
    alike = {name: [-0.01, 0.03] for name in values}
    assert Measured("a - b", "difference", alike).takes() == (math.ceil(0.0004 / 0.00001274), 16)
    assert math.ceil(0.0008 / 0.00005097) == 16


def test_so_many_tasks_decide_four_times_in_five():
    random = np.random.default_rng(0)

    def draw(tasks):
        return 0.03 + 0.05 * random.standard_normal((tasks, 1)) + 0.02 * random.standard_normal((tasks, 3))

    tasks, _ = Measured("a - b", "difference", {str(i): [*each] for i, each in enumerate(draw(20_000))}).takes()
    assert tasks is not None
    means = np.array([draw(tasks).mean() for _ in range(4000)])
    error = math.sqrt((0.05**2 + 0.02**2 / 3) / tasks)
    assert np.mean(means > 1.96 * error) == pytest.approx(0.8, abs=0.03)


def test_nothing_is_enough_where_the_mean_is_the_bound_or_the_spread_unknown():
    assert difference(0.0, 0.0, 0.0, margin=0.0).takes() == (None, None)
    assert difference(0.1, 0.2).takes() == (None, None)
    assert Measured("a - b", "difference", {"a": [0.1], "b": [0.3], "c": [0.2]}).takes() == (None, None)


def test_tasks_at_their_floor_are_left_out_of_the_second_judgement():
    values = {"cola": [-0.2, -0.2], "stsb": [0.02, 0.02], "sst2": [0.01, 0.02], "qnli": [0.0, 0.01]}
    measured = Measured("a - b", "difference", values, MARGIN, floored=("cola",))
    assert (measured.verdict, measured.agreeing) == ("undecided", 3)
    assert (measured.clear.verdict, measured.clear.agreeing, len(measured.clear.values)) == ("confirmed", 3, 3)
