"""How far each component moved in a fine-tuning: the paper's equation 1, over whole components and over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

import numpy as np

from normtune.config import Sub
from normtune.errors import DataError, known
from normtune.records.run import Change

if TYPE_CHECKING:
    from torch import Tensor

    from normtune.models.layout import Place

Measure = Literal["mean", "relative", "l0", "l1"]

#: What each measure is, in words.
MEASURES: Mapping[Measure, str] = {
    "mean": "mean |change|",
    "relative": "mean |change| / mean |pre-trained|",
    "l0": "entries changed (L0)",
    "l1": "sum of |change| (L1)",
}


def changes(places: Iterable[Place], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Change]:
    """Equation 1: how far each parameter's selected entries moved, in the model's order, the head left out.

    `before` and `after` hold their pre-trained and their fine-tuned values, packed, by parameter name. Sums are in
    float64.
    """

    def change(place: Place) -> Change:
        old, new = before[place.parameter].double(), after[place.parameter].double()
        moved = (new - old).abs()
        mean, scale = float(moved.mean()), float(old.abs().mean())
        return Change(
            component=place.component,
            layer=place.layer,
            sub=place.sub,
            entries=moved.numel(),
            mean=mean,
            relative=mean / scale if scale else None,
            l0=int((moved != 0).sum()),
            l1=float(moved.sum()),
        )

    return [*map(change, places)]


#: A component and the number of its layer, or None outside the layers.
Spot = tuple[str, int | None]


@dataclass(frozen=True)
class Average:
    """A value over seeds.

    Attributes:
        mean: The mean, or None if the value of any seed is missing.
        spread: The sample standard deviation, or None with one seed.
    """

    mean: float | None
    spread: float | None = None


def average(values: Sequence[float | None]) -> Average:
    """Mean and spread of `values`; both None if a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Average(None)
    return Average(mean(known), stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Movement:
    """How far each component moved, in each layer and as a whole.

    Attributes:
        layers: Numbers of the layers, ascending.
        inside: The components of the layers, in the model's order.
        outside: The components outside the layers, likewise.
        cells: By component and layer; a layer without the component is missing.
        whole: By component, all of its layers together.
    """

    measure: Measure
    layers: tuple[int, ...]
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    cells: dict[tuple[str, int], Average]
    whole: dict[str, Average]


def movement(runs: Sequence[Sequence[Change]], measure: str = "mean", sub: Sub | None = None) -> Movement:
    """Aggregate the changes of runs that differ in their seed only.

    Within a run, a mean is over all entries of what is aggregated, so that a weight counts for more than its bias; a
    relative change is the ratio of two such means; L0 and L1 are sums.

    Args:
        runs: Each run's changes, as in its record.
        measure: ``mean`` (equation 1), ``relative``, ``l0`` or ``l1``.
        sub: Only this sub-component, or None for both together.

    Raises:
        UnknownNameError: If there is no such measure.
        DataError: If a run has no changes, or the runs changed different parameters.
    """
    chosen = known("measure", measure, MEASURES)
    grids = [_grid(run, sub) for run in runs]
    if not grids or not all(grids):
        raise DataError(f"A run has no changes{f' of any {sub}' if sub else ''}.")
    spots = [*grids[0]]
    if any(grid.keys() != {*spots} for grid in grids):
        raise DataError("These runs changed different parameters, so that their changes cannot be averaged.")
    names = tuple(dict.fromkeys(name for name, _ in spots))
    inside = tuple(name for name in names if any(spot == name and layer is not None for spot, layer in spots))

    def over_seeds(here: Sequence[Spot]) -> Average:
        return average([_value(np.sum([grid[spot] for spot in here], axis=0), chosen) for grid in grids])

    return Movement(
        measure=chosen,
        layers=tuple(sorted({layer for _, layer in spots if layer is not None})),
        inside=inside,
        outside=tuple(name for name in names if name not in inside),
        cells={(name, layer): over_seeds([(name, layer)]) for name, layer in spots if layer is not None},
        whole={name: over_seeds([spot for spot in spots if spot[0] == name]) for name in names},
    )


def ranks(values: Mapping[str, float | None]) -> dict[str, int]:
    """The rank of each name by its value, from 1 for the largest; equal values share a rank, missing ones have none."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: 1 + sum(other > value for other in known.values()) for name, value in known.items()}


def _grid(changes: Iterable[Change], sub: Sub | None) -> dict[Spot, np.ndarray]:
    grid: dict[Spot, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for change in changes:
        if sub in {None, change.sub}:
            grid[change.component, change.layer] += _sums(change)
    return grid


def _sums(change: Change) -> np.ndarray:
    """Entries, how many of them changed, and the sums of |change| and of |pre-trained|; they add up over parts.

    The last is nan where it is unknown: a part that did not move at all has a relative change of zero, whatever its
    pre-trained values.
    """
    scale = change.l1 / change.relative if change.relative else np.nan
    if change.relative is None:  # by definition the pre-trained values are all zero
        scale = 0.0
    return np.array([change.entries, change.l0, change.l1, scale])


def _value(sums: np.ndarray, measure: Measure) -> float | None:
    """The `measure` of sums from `_sums`; None where it is undefined or unknown."""
    entries, l0, l1, scale = sums.tolist()
    if measure == "relative":
        still = np.isnan(scale) and l1 == 0
        return 0.0 if still else l1 / scale if scale > 0 else None
    return float({"mean": l1 / entries, "l0": l0, "l1": l1}[measure])
