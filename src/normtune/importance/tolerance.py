"""When an estimate is stable enough, and how it became so: plain values."""

from __future__ import annotations

from typing import Literal

from normtune.config import Strict
from normtune.errors import ConfigError


class Tolerance(Strict):
    """When to stop.

    Attributes:
        of: ``ranking`` of components, or the ``mask`` of the entries asked for, or that of those with the least.
        tolerance: Largest share of pairs, or of the mask, in which two halves may differ, error included.
        fraction: For a mask, its fraction of the entries.
        seed: Seeds the order of the examples.
    """

    of: Literal["ranking", "mask", "least-mask"] = "ranking"
    tolerance: float = 0.1
    fraction: float = 0.1
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If the tolerance or the fraction is not between 0 and 1.
        """
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"A tolerance is a share from 0 to below 1; got {self.tolerance:g}.")
        if not 0 < self.fraction < 1:
            raise ConfigError(
                f"A mask whose stability is watched is a fraction between 0 and 1; got {self.fraction:g}."
            )


class Look(Strict):
    """One comparison of halves.

    Attributes:
        examples: Examples in both halves together.
        agreement: Mean share in which two halves agree.
        error: Its standard error over the ways of halving.
    """

    examples: int
    agreement: float
    error: float


class Stability(Strict):
    """How an estimate became stable.

    Attributes:
        asked: When it was to stop.
        reached: Whether it did, before the examples ran out.
        examples: How many it took.
        available: How many there were.
        looks: Every comparison of halves, in order.
    """

    asked: Tolerance
    reached: bool
    examples: int
    available: int
    looks: tuple[Look, ...]
