"""Sums of squared gradients over examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


class Tally:
    """Sums over examples of squared gradients, in float64.

    Args:
        parameters: The parameters, by name.
        entries: The names of those that get a sum for every entry; the others get one over all entries.
    """

    def __init__(self, parameters: Mapping[str, Tensor], entries: Collection[str] = ()) -> None:
        self.examples = 0
        self._all = torch.zeros((), dtype=torch.float64)  # of all that was added, for `finite`
        self._sums = {
            name: torch.zeros(own.shape if name in entries else (), dtype=torch.float64, device=own.device)
            for name, own in parameters.items()
        }
        self.entries = {name: self._sums[name] for name in entries}

    def add(self, name: str, squares: Tensor, rows: Tensor | None = None) -> None:
        """Add squares of the parameter called `name`, in its shape, or in any if only their total is kept.

        For a table, `rows` are the numbers (N,) of the rows that the squares (N, O) belong to, with repeats allowed.
        """
        total = squares.sum(dtype=torch.float64)
        self._all = self._all.to(total.device) + total
        if name not in self.entries:
            self._sums[name] += total
        elif rows is None:
            self._sums[name] += squares
        else:
            self._sums[name].index_add_(0, rows, squares.double())

    def totals(self) -> dict[str, float]:
        """The sum over each parameter's entries."""
        return {name: float(own.sum()) for name, own in self._sums.items()}

    @property
    def finite(self) -> bool:
        """Whether every sum is a finite number: squares, being positive, never cancel one that is not."""
        return bool(self._all.isfinite())


def merged(tallies: Sequence[Tally]) -> Tally:
    """The sums of several tallies of the same parameters together."""
    whole = Tally(tallies[0]._sums, tallies[0].entries)
    for tally in tallies:
        whole.examples += tally.examples
        whole._all = whole._all + tally._all
        for name, own in tally._sums.items():
            whole._sums[name] += own
    return whole
