"""Valid tolerances, and stability that survives a file."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from normtune.errors import ConfigError
from normtune.records.fisher import SplitHalf, Stability, Tolerance


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_share_below_one(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="A tolerance is a share from 0 to below 1; got"):
        Tolerance(tolerance=tolerance)


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, float("nan")])
def test_a_mask_of_nothing_or_everything_is_always_stable_and_not_watched(fraction: float) -> None:
    with pytest.raises(ConfigError, match="a fraction between 0 and 1; got"):
        Tolerance(of="mask", fraction=fraction)


def test_what_can_be_watched_is_named() -> None:
    assert [Tolerance(of=of).of for of in ("ranking", "mask", "least-mask")] == ["ranking", "mask", "least-mask"]
    assert Tolerance(tolerance=0.0).tolerance == 0.0
    with pytest.raises(ValidationError):
        Tolerance(of="figure")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Tolerance(tolerence=0.2)  # type: ignore[call-arg]


def test_it_survives_a_file() -> None:
    looks = (SplitHalf(examples=64, agreement=0.8, error=0.02), SplitHalf(examples=100, agreement=1 / 3, error=1e-17))
    known = Stability(asked=Tolerance(of="mask", seed=4), reached=False, examples=100, available=100, looks=looks)
    assert Stability.model_validate_json(known.model_dump_json()) == known
