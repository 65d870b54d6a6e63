"""Sums of squared gradients over examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


class Tally:
    """Sums over examples of squared gradients, in float64.

    Args:
        totals: For these parameters the sum over all entries is kept.
        entries: For these, every entry's own sum.
        parameters: All of them, by name.
    """

    def __init__(self, totals: Iterable[str], entries: Iterable[str], parameters: Mapping[str, Tensor]) -> None:
        self.examples = 0
        self._sums = torch.zeros((), dtype=torch.float64)  # of all that was added, to see at once what is not finite
        self._totals = {name: torch.zeros((), dtype=torch.float64, device=parameters[name].device) for name in totals}
        self.entries = {
            name: torch.zeros(parameters[name].shape, dtype=torch.float64, device=parameters[name].device)
            for name in entries
        }

    def empty(self) -> Tally:
        """A tally like this one, of no examples yet."""
        parameters = {**self._totals, **self.entries}
        return Tally(self._totals, self.entries, parameters)

    def include(self, other: Tally) -> None:
        """Add what another tally of the same parameters holds."""
        self.examples += other.examples
        self._sums = self._sums + other._sums
        for name, total in other._totals.items():
            self._totals[name] += total
        for name, entries in other.entries.items():
            self.entries[name] += entries

    def wants_entries(self, name: str) -> bool:
        """Whether every entry of the parameter called `name` is kept."""
        return name in self.entries

    def add(self, name: str, squares: Tensor) -> None:
        """Add squares of the whole parameter called `name`, in its shape, or, where totals are kept, their sum."""
        total = self._count(squares)
        if name in self.entries:
            self.entries[name] += squares
        else:
            self._totals[name] += total

    def add_rows(self, name: str, rows: Tensor, squares: Tensor) -> None:
        """Add squares of some rows of a table, (N, O); a row may stand there more than once."""
        total = self._count(squares)
        if name in self.entries:
            self.entries[name].index_add_(0, rows, squares.double())
        else:
            self._totals[name] += total

    def _count(self, squares: Tensor) -> Tensor:
        total = squares.sum(dtype=torch.float64)
        self._sums = self._sums.to(total.device) + total
        return total

    def totals(self) -> dict[str, float]:
        """The sum over each parameter's entries."""
        own = {name: entries.sum() for name, entries in self.entries.items()}
        return {name: float(total) for name, total in {**self._totals, **own}.items()}

    @property
    def finite(self) -> bool:
        """Whether every sum is a finite number: squares, being positive, never cancel one that is not."""
        return bool(self._sums.isfinite())


def merged(tallies: Sequence[Tally]) -> Tally:
    """The sums of several tallies of the same parameters together."""
    whole = tallies[0].empty()
    for tally in tallies:
        whole.include(tally)
    return whole
