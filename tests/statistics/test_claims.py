from __future__ import annotations

import json
import math
from pathlib import Path

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
