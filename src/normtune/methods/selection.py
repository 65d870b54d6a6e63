"""A selection: which entries of which pre-trained parameters train, the `Spec` of every method that adds nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from normtune.errors import SelectionError
from normtune.methods.sparse import Placed, Tuning
from normtune.methods.trainable import Spec
from normtune.models.base import Base
from normtune.models.layout import Layout, Place

Indices = np.ndarray  # of int64, sorted, without repeats: positions in a flattened parameter


@dataclass(frozen=True, eq=False)
class Selection(Spec):
    """Entries of the pre-trained parameters of one layout; the head is never among them.

    Attributes:
        layout: The parameters that it selects from.
        chosen: For each parameter that has selected entries, their positions in the flattened parameter, sorted;
            None stands for all of them. Parameters without any are left out.
    """

    layout: Layout
    chosen: Mapping[str, Indices | None]

    def __post_init__(self) -> None:
        """Check that `chosen` fits the layout.

        Raises:
            SelectionError: If a parameter is unknown or of the head, or a position lies outside it.
        """
        tidy = {}
        for name, indices in self.chosen.items():
            place = self.layout.by_name.get(name)
            if place is None or place.head:
                raise SelectionError(f"{name!r} is no pre-trained parameter of this model.")
            indices = _tidy(place, indices)
            if indices is None or indices.size:
                tidy[name] = indices
        ordered = {p.parameter: tidy[p.parameter] for p in self.layout.body if p.parameter in tidy}
        object.__setattr__(self, "chosen", ordered)

    def __len__(self) -> int:
        """Number of selected entries."""
        return sum(self.count(name) for name in self.chosen)

    def __iter__(self) -> Iterator[Place]:
        return (self.layout.by_name[name] for name in self.chosen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Selection({len(self):,} of {self.layout.size:,} entries in {len(self.chosen)} parameters)"

    def count(self, name: str) -> int:
        """Number of selected entries of the parameter called `name`."""
        if name not in self.chosen:
            return 0
        indices = self.chosen[name]
        return self.layout.by_name[name].size if indices is None else int(indices.size)

    def indices(self, name: str) -> Indices:
        """Positions of the selected entries in the flattened parameter called `name`, sorted, int64."""
        if name not in self.chosen:
            return np.empty(0, np.int64)
        indices = self.chosen[name]
        return np.arange(self.layout.by_name[name].size) if indices is None else indices

    def is_whole(self, name: str) -> bool:
        """Whether every entry of the parameter called `name` is selected."""
        return name in self.chosen and self.chosen[name] is None

    @cached_property
    def fingerprint(self) -> str:
        """A hash over layout and positions (hexadecimal SHA-256); equal selections have equal ones."""
        digest = hashlib.sha256(self.layout.fingerprint.encode())
        for name, indices in self.chosen.items():
            digest.update(f"\n{name} ".encode())
            digest.update(b"all" if indices is None else indices.tobytes())
        return digest.hexdigest()

    @property
    def places(self) -> tuple[Place, ...]:
        """The parameters with selected entries."""
        return tuple(self)

    @property
    def added(self) -> int:
        """None is added."""
        return 0

    def put(self, base: Base) -> Tuning:
        """The selected entries as leaves (see `Spec.put`)."""
        return Tuning(base, self)

    def apply(self, base: Base, state: Mapping[str, Tensor]) -> Placed:
        """The values in the base's own parameters (see `Spec.apply`)."""
        return Placed(base, self, state)

    merge = apply

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The selected entries and their values (see `Spec.vectors`)."""
        return {name: (torch.from_numpy(self.indices(name)), values) for name, values in state.items()}

    def describe(self) -> None:
        """Nothing: a delta holds the positions themselves."""

    # Whole parameters are common and large, so that none of these spells out their positions.

    def __or__(self, other: Selection) -> Selection:
        self._check(other)
        both = {**self.chosen, **other.chosen}
        for name in self.chosen.keys() & other.chosen.keys():
            whole = self.is_whole(name) or other.is_whole(name)
            both[name] = None if whole else np.union1d(self.indices(name), other.indices(name))
        return Selection(self.layout, both)

    def __and__(self, other: Selection) -> Selection:
        self._check(other)
        both: dict[str, Indices | None] = {}
        for name in self.chosen.keys() & other.chosen.keys():
            if self.is_whole(name) or other.is_whole(name):
                both[name] = other.chosen[name] if self.is_whole(name) else self.chosen[name]
            else:
                both[name] = np.intersect1d(self.indices(name), other.indices(name), assume_unique=True)
        return Selection(self.layout, both)

    def __sub__(self, other: Selection) -> Selection:
        self._check(other)
        left = {name: indices for name, indices in self.chosen.items() if name not in other.chosen}
        for name in self.chosen.keys() & other.chosen.keys():
            if not other.is_whole(name):
                left[name] = np.setdiff1d(self.indices(name), other.indices(name), assume_unique=True)
        return Selection(self.layout, left)

    def __invert__(self) -> Selection:
        return everything(self.layout) - self

    def _check(self, other: Selection) -> None:
        """Check that both are of one model.

        Raises:
            SelectionError: If they are not.
        """
        if self.layout.fingerprint != other.layout.fingerprint:
            raise SelectionError("The two selections are of different models.")


def _tidy(place: Place, indices: Indices | None) -> Indices | None:
    if indices is None:
        return None
    given = np.asarray(indices, dtype=np.int64)
    ordered = given.ndim == 1 and bool((given[1:] > given[:-1]).all())
    unique = given if ordered else np.unique(given)
    if unique.size and (unique[0] < 0 or unique[-1] >= place.size):
        raise SelectionError(f"A position lies outside {place.parameter!r}, which has {place.size} entries.")
    return None if unique.size == place.size else unique


def everything(layout: Layout) -> Selection:
    """Every pre-trained entry of `layout`."""
    return Selection(layout, {place.parameter: None for place in layout.body})


def nothing(layout: Layout) -> Selection:
    """No entry at all: the head alone trains."""
    return Selection(layout, {})


def where(layout: Layout, keep: Callable[[Place], bool]) -> Selection:
    """The whole of every pre-trained parameter of `layout` for which `keep` holds."""
    return Selection(layout, {place.parameter: None for place in layout.body if keep(place)})


def at(layout: Layout, positions: Iterable[int] | Indices) -> Selection:
    """The entries at `positions`, which count through all pre-trained parameters in the layout's order from 0.

    Raises:
        SelectionError: If a position is not among them.
    """
    flat = np.unique(np.asarray(positions, dtype=np.int64))
    if flat.size and (flat[0] < 0 or flat[-1] >= layout.size):
        raise SelectionError(f"A position lies outside the model's {layout.size} pre-trained entries.")
    starts = np.cumsum([0] + [place.size for place in layout.body])
    bounds = np.searchsorted(flat, starts)
    return Selection(
        layout,
        {
            place.parameter: flat[low:high] - start
            for place, start, low, high in zip(layout.body, starts, bounds, bounds[1:], strict=False)
        },
    )
