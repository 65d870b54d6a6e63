"""Change over whole components: equation 1 summed over layers and sub-components, and averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal, get_args

from normtune.config import Sub
from normtune.errors import DataError, UnknownNameError
from normtune.records.run import Change

Measure = Literal["mean", "relative", "l0", "l1"]

#: What each measure is, in words.
MEASURES: Mapping[Measure, str] = {
    "mean": "mean |change|",
    "relative": "mean |change| / mean |pre-trained|",
    "l0": "entries changed (L0)",
    "l1": "sum of |change| (L1)",
}


@dataclass(frozen=True)
class Total:
    """The change of any set of entries, as sums, so that totals of parts add up to the total of the whole.

    Attributes:
        entries: How many entries.
        l0: How many of them differ.
        l1: The sum of |fine-tuned - pre-trained|.
        scale: The sum of |pre-trained|, or None where it cannot be told: a part that did not move at all has a relative
            change of zero, whatever it was before.
    """

    entries: int = 0
    l0: int = 0
    l1: float = 0.0
    scale: float | None = 0.0

    def __add__(self, other: Total) -> Total:
        known = self.scale is not None and other.scale is not None
        return Total(
            self.entries + other.entries,
            self.l0 + other.l0,
            self.l1 + other.l1,
            (self.scale or 0.0) + (other.scale or 0.0) if known else None,
        )

    def value(self, measure: Measure) -> float | None:
        """The total by `measure`; None where there is no such number, or it cannot be told."""
        if measure == "mean":
            return self.l1 / self.entries if self.entries else None
        if measure == "relative":
            return self._relative()
        return float(self.l0) if measure == "l0" else self.l1

    def _relative(self) -> float | None:
        if self.scale is None:
            return 0.0 if self.l1 == 0 else None
        return self.l1 / self.scale if self.scale else None


def total(changes: Iterable[Change]) -> Total:
    """The change of all these parameters together."""
    return sum(map(_total, changes), Total())


def _total(change: Change) -> Total:
    if change.relative is None:  # as it is defined: the pre-trained values are all zero
        scale: float | None = 0.0
    else:
        scale = change.l1 / change.relative if change.relative else None
    return Total(change.entries, change.l0, change.l1, scale)


@dataclass(frozen=True)
class Average:
    """A value over seeds.

    Attributes:
        mean: The mean, or None where the value of any seed is missing.
        spread: The sample standard deviation, or None with one seed.
    """

    mean: float | None
    spread: float | None = None


def average(values: Sequence[float | None]) -> Average:
    """Mean and spread of `values`; a gap among them is never averaged over."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Average(None)
    return Average(mean(known), stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Movement:
    """How far each component moved, in each layer and as a whole.

    Attributes:
        measure: By what measure.
        seeds: Over how many runs the values are averaged.
        layers: Numbers of the layers, ascending.
        inside: The components of the layers, in the model's order.
        outside: The components outside the layers, likewise.
        cells: By component and layer; a layer without the component is missing.
        whole: By component, all of its layers together.
    """

    measure: Measure
    seeds: int
    layers: tuple[int, ...]
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    cells: dict[tuple[str, int], Average]
    whole: dict[str, Average]


def movement(runs: Sequence[Sequence[Change]], measure: str = "mean", sub: Sub | None = None) -> Movement:
    """Aggregate the changes of runs that differ in their seed only.

    Within a run a mean runs over all entries of what is aggregated, so that a weight counts for more than its bias; a
    relative change is one such mean over another; L0 and L1 are sums.

    Args:
        runs: Each run's changes, as its record has them.
        measure: ``mean`` (equation 1), ``relative``, ``l0`` or ``l1``.
        sub: Only this sub-component, or None for both together.

    Returns:
        The movement.

    Raises:
        UnknownNameError: If there is no such measure.
        DataError: If a run has no changes, or the runs changed different parameters.
    """
    chosen = as_measure(measure)
    grids = [_grid(run, sub) for run in runs]
    if not grids or not all(grids):
        raise DataError(f"A run has no changes{f' of any {sub}' if sub else ''}.")
    if any(grid.keys() != grids[0].keys() for grid in grids):
        raise DataError("These runs changed different parameters, so that their changes cannot be averaged.")
    spots = [*grids[0]]
    names = tuple(dict.fromkeys(name for name, _ in spots))
    inside = tuple(name for name in names if any(spot == name and layer is not None for spot, layer in spots))

    def over_seeds(name: str, layers: Iterable[int | None]) -> Average:
        here = [*layers]
        return average([sum((grid[name, layer] for layer in here), Total()).value(chosen) for grid in grids])

    return Movement(
        measure=chosen,
        seeds=len(runs),
        layers=tuple(sorted({layer for _, layer in spots if layer is not None})),
        inside=inside,
        outside=tuple(name for name in names if name not in inside),
        cells={(name, layer): over_seeds(name, [layer]) for name, layer in spots if layer is not None},
        whole={name: over_seeds(name, [layer for spot, layer in spots if spot == name]) for name in names},
    )


def as_measure(name: str) -> Measure:
    """The measure called `name`.

    Raises:
        UnknownNameError: If there is none.
    """
    for measure in get_args(Measure):
        if measure == name:
            return measure  # type: ignore[no-any-return]
    raise UnknownNameError("measure", name, MEASURES)


def ranks(values: Mapping[str, float | None]) -> dict[str, int]:
    """The place of each name by its value, from 1 for the largest; equal values share a place, gaps have none."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: 1 + sum(other > value for other in known.values()) for name, value in known.items()}


def _grid(changes: Iterable[Change], sub: Sub | None) -> dict[tuple[str, int | None], Total]:
    grid: dict[tuple[str, int | None], Total] = {}
    for change in changes:
        if sub in {None, change.sub}:
            spot = change.component, change.layer
            grid[spot] = grid.get(spot, Total()) + _total(change)
    return grid
