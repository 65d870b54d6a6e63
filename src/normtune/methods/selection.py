"""A selection: which entries of which pre-trained parameters train; the `Spec` of most methods that add nothing.

Exactly the selected entries train, whatever the optimizer. The leaf is the packed float32 vector of their values, which
the forward pass puts in place. So weight decay, momentum, clipping and optimizer state never see an entry that is not
selected. A parameter that is selected whole, and is float32 already, trains as itself.

The values are written into the frozen tensor itself, so that a step copies no weight; `Trainable.undo` restores the old
ones. As with any weight that torch trains, differentiating outputs from before a change raises an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normtune.errors import ModelError, SelectionError
from normtune.methods.entries import Entries
from normtune.methods.packed import Cast, Packed
from normtune.methods.trainable import Spec, copy_values, decays
from normtune.models.base import Base
from normtune.models.layout import Layout, Place
from normtune.models.precision import Float32Module

Indices = np.ndarray  # of int64, sorted, without repeats: positions in a flattened parameter


@final
@dataclass(frozen=True, eq=False)
class Selection(Spec):
    """Entries of the pre-trained parameters of one layout; the head is never among them.

    Attributes:
        layout: The parameters that it selects from.
        chosen: For each parameter that has selected entries, their positions in the flattened parameter, sorted;
            None means all of them. Parameters without any are left out.
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

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The selected entries as leaves (see `Spec.put`)."""
        _raise_norms(base.model, self, undo)
        parameters = dict(base.model.named_parameters())
        _refuse_quantised(parameters, self.chosen)
        return {name: _leaf(base.model, parameters[name], indices, undo) for name, indices in self.chosen.items()}

    def decays(self, name: str, _: nn.Parameter) -> bool:
        """Whether the parameter called `name` has weight decay."""
        return decays(self.layout.by_name[name])

    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Write the values into the base's own parameters (see `Spec.apply`)."""
        _raise_norms(base.model, self, undo)
        _refuse_quantised(dict(base.model.named_parameters()), state)
        for name, values in state.items():
            parameter, at = base.model.get_parameter(name), torch.from_numpy(self.indices(name))
            undo.callback(_place, parameter, at, parameter.detach().reshape(-1)[at.to(parameter.device)])
            _place(parameter, at, values)

    merge = apply

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The selected entries and their values (see `Spec.vectors`)."""
        return {name: (torch.from_numpy(self.indices(name)), values) for name, values in state.items()}

    # Whole parameters are common and large, so none of these operators lists their positions.

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
        """Check that both are of one model."""
        if self.layout.fingerprint != other.layout.fingerprint:
            raise SelectionError("The two selections are of different models.")


def _tidy(place: Place, indices: Indices | None) -> Indices | None:
    if indices is None:
        return None
    given = _whole(indices)
    ordered = given.ndim == 1 and bool((given[1:] > given[:-1]).all())
    unique = given if ordered else np.unique(given)
    if unique.size and (unique[0] < 0 or unique[-1] >= place.size):
        raise SelectionError(f"A position lies outside {place.parameter!r}, which has {place.size} entries.")
    return None if unique.size == place.size else unique


def _whole(positions: Any) -> Indices:
    """Positions as integers.

    Raises:
        SelectionError: If they are not integers: numpy would make 0 and 1 of a boolean mask.
    """
    given = np.asarray(positions)
    if given.size and given.dtype.kind not in "iu":
        raise SelectionError(f"Positions are integers, not {given.dtype}; of a mask take np.flatnonzero(mask).")
    return given.astype(np.int64, copy=False)


def in_range(method: str, what: str, number: int, most: int | None = None) -> int:
    """Check the number that a method takes, such as a rank, and return it.

    Raises:
        SelectionError: If it is not 1 to `most`.
    """
    if number < 1 or (most is not None and number > most):
        limit = "or more" if most is None else f"to {most:,}"
        raise SelectionError(f"{method} takes {what} of 1 {limit}; got {number:,}.")
    return number


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
    flat = np.unique(_whole(positions))
    if flat.size and (flat[0] < 0 or flat[-1] >= layout.size):
        raise SelectionError(f"A position lies outside the model's {layout.size} pre-trained entries.")
    starts = np.cumsum([0] + [place.size for place in layout.body])
    bounds = np.searchsorted(flat, starts)
    parts = zip(layout.body, starts, bounds, bounds[1:], strict=False)
    return Selection(layout, {place.parameter: flat[low:high] - start for place, start, low, high in parts})


def _leaf(model: nn.Module, parameter: nn.Parameter, indices: Indices | None, undo: ExitStack) -> nn.Parameter:
    """The leaf of a parameter: itself if it trains whole in float32, otherwise the packed values at `indices`."""
    if indices is None and parameter.dtype == torch.float32:
        undo.callback(copy_values, parameter, parameter.detach().clone())
        return parameter
    holders = list(_holders(model, parameter))
    if indices is None:
        packed = Cast(parameter)
    else:
        # torch rescales the rows of an embedding with `max_norm` in place, which must not reach the frozen tensor.
        rescaled = any(getattr(module, "max_norm", None) is not None for module, _ in holders)
        at = torch.from_numpy(indices).to(parameter.device)
        packed = Packed(parameter, Entries(at, parameter.shape), in_place=not rescaled)
    undo.callback(packed.restore)
    for module, attribute in holders:
        undo.callback(_unpack, module, type(module), dict(module._parameters))
        parametrize.register_parametrization(module, attribute, packed, unsafe=True)
        # A tensor that several modules share has one leaf.
        parametrizations: Any = module.parametrizations
        parametrizations[attribute].original0 = packed.leaf
    return packed.leaf


def _refuse_quantised(parameters: Mapping[str, nn.Parameter], names: Iterable[str]) -> None:
    """Check that entries of these parameters can be set."""
    for name in names:
        if not parameters[name].is_floating_point():
            raise ModelError(
                f"{name} is quantised, so its entries cannot change: load the model in bfloat16 or float32, or train"
                " norms, biases or what is added."
            )


def _place(parameter: nn.Parameter, at: Tensor, values: Tensor) -> None:
    """Write values at positions of a flattened parameter, on whatever device it is now."""
    own, at = parameter.data, at.to(parameter.device)
    if own.is_contiguous():
        own.view(-1)[at] = values.to(own)
    else:  # pictures' weights in memory format channels_last
        own[torch.unravel_index(at, own.shape)] = values.to(own)


def _unpack(module: nn.Module, kind: type[nn.Module], owned: dict[str, nn.Parameter | None]) -> None:
    """Restore a module's class, and its own parameters in place of packed ones.

    torch's `remove_parametrizations` would change the class, which copies of the module share.
    """
    module.__class__ = kind
    module._modules.pop("parametrizations", None)
    # Cleared first: the order of a module's parameters is part of the layout.
    module._parameters.clear()
    module._parameters.update(owned)


def _raise_norms(model: nn.Module, selection: Selection, undo: ExitStack) -> None:
    """Make the selected normalisations of a lower-precision model float32, so that small updates do not vanish."""
    for owner in sorted({place.parameter.rpartition(".")[0] for place in selection if place.norm}):
        module = model.get_submodule(owner)
        if next(module.parameters()).dtype.itemsize < 4:
            undo.callback(Float32Module(module).undo)


def _holders(model: nn.Module, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is parameter:
                yield module, name
