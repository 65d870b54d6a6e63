"""Scores: one number for every entry of a set of candidates, which a mask is taken from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from normtune.errors import SelectionError
from normtune.methods.selection import Selection


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each of some entries matters, by whatever importance.

    Attributes:
        within: The candidates.
        values: For each parameter with candidates one number each, float64, in the order of `within.indices`.
    """

    within: Selection
    values: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Check that there is one finite number for every candidate; they cannot be written to afterwards.

        Raises:
            SelectionError: If a parameter's are missing, too many or too few, or not finite, or nobody asked for them.
        """
        names = self.within.chosen.keys()
        for name in names - self.values.keys():
            raise SelectionError(f"{name!r} has candidates but no scores.")
        for name in self.values.keys() - names:
            raise SelectionError(f"{name!r} has scores but no candidates.")
        tidy = {name: _tidy(name, self.values[name], self.within.count(name)) for name in names}
        object.__setattr__(self, "values", tidy)

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.within)

    @property
    def total(self) -> float:
        """The sum over all candidates."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sum([values.sum() for values in self.values.values()]))

    def normalised(self) -> Scores:
        """Divided by their own sum over all candidates, so that they add up to 1.

        Raises:
            SelectionError: If that sum is zero, negative or not finite.
        """
        total = self.total
        if not 0 < total < np.inf:
            raise SelectionError(f"Scores that add up to {total:g} cannot be divided by their sum.")
        return Scores(self.within, {name: values / total for name, values in self.values.items()})

    def restrict(self, within: Selection) -> Scores:
        """The scores of fewer candidates.

        Args:
            within: Which, all of them among the present ones.

        Returns:
            Their scores, as they are.

        Raises:
            SelectionError: If one of them has no score, or they are of another model.
        """
        beyond = len(within - self.within)
        if beyond:
            raise SelectionError(f"{beyond:,} of the {len(within):,} candidates have no score.")
        return Scores(within, {name: self._of(name, within) for name in within.chosen})

    def _of(self, name: str, within: Selection) -> np.ndarray:
        values = self.values[name]
        if within.count(name) == values.size:
            return values
        wanted = within.indices(name)
        whole = self.within.is_whole(name)
        return values[wanted if whole else np.searchsorted(self.within.indices(name), wanted)]

    def __add__(self, other: Scores) -> Scores:
        """Sums of two scores of the same candidates.

        Raises:
            SelectionError: If the candidates differ.
        """
        if self.within != other.within:
            raise SelectionError("Scores of different candidates cannot be added.")
        return Scores(self.within, {name: values + other.values[name] for name, values in self.values.items()})

    def __neg__(self) -> Scores:
        """The other way round, so that the top is what had the least."""
        return Scores(self.within, {name: -values for name, values in self.values.items()})

    def __repr__(self) -> str:
        return f"Scores({len(self):,} candidates in {len(self.values)} parameters)"


def _tidy(name: str, values: np.ndarray, count: int) -> np.ndarray:
    tidy = np.asarray(values, np.float64).view()
    if tidy.shape != (count,):
        raise SelectionError(f"The scores of {name!r} have the shape {tidy.shape}, its candidates ({count},).")
    if not np.isfinite(tidy).all():
        first = int(np.flatnonzero(~np.isfinite(tidy))[0])
        raise SelectionError(f"The scores of {name!r} are not finite: number {first} of {count:,} is {tidy[first]}.")
    tidy.flags.writeable = False
    return tidy
