"""Expressions, which describe a selection by component, sub-component and layers.

A term is a method's name, or a component's whole name with an optional sub-component and layers::

    layernorm
    output.LayerNorm.bias@3-5
    attention.self.*@4-
    last-layers@2

``*`` matches one part of a name. Layers are counted from 0: ``@3``, ``@1,3,5``, ``@3-5`` (both ends included), ``@4-``
(to the last one) or ``@0,2-4``, and each one named must exist; after ``last-layers@`` the number says how many. Terms
are joined from left to right by ``+`` (union), ``&`` (intersection) and ``-`` (difference); ``&`` and ``-`` need a
space on both sides. An expression that selects nothing is refused, except `head`, which trains the head alone.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from operator import and_, or_, sub

from normtune.errors import ModelError, SelectionError, UnknownNameError
from normtune.methods.method import METHODS
from normtune.methods.selection import Selection, where
from normtune.methods.trainable import Spec, Trainable
from normtune.models.base import NO_BASE, Base
from normtune.models.layout import Layout, Place

_OPERATOR = re.compile(r"\s+([+&-])\s+|\s*(\+)\s*")
_JOINED = {"+": or_, "&": and_, "-": sub}
_LAYERS = re.compile(r"\d{1,30}(-\d{0,30})?(,\d{1,30}(-\d{0,30})?)*", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def tune(base: Base, what: str | Spec, *, seed: int = 0) -> Trainable:
    """Make a model train `what` and its head, and nothing else, until `Trainable.undo`.

    Args:
        base: The base model; its model is changed in place.
        what: A method's name, an expression (see the module), or a selection such as a mask's.
        seed: Seeds what the method draws.

    Returns:
        The trainable; pass its `param_groups` to an optimizer.

    Raises:
        UnknownNameError: If a name is neither a method nor a component of this model.
        SelectionError: If the expression cannot be read, a term selects nothing, or the selection is of another model.
        ModelError: If `base` is not a `Base`, its head fits no kind of task, it is being tuned already or carries a
            delta, or its parameters are sharded.
    """
    if not isinstance(base, Base):
        raise ModelError(NO_BASE.format("tune", type(base).__name__))
    if not isinstance(what, str | Spec):
        raise SelectionError(f"tune takes a method's name, an expression or a selection, not {type(what).__name__}.")
    if seed < 0:
        raise SelectionError(f"A seed is a whole number from 0; got {seed}.")
    _ = base.head  # raises if it fits no kind of task
    if isinstance(what, Spec):
        return Trainable(base, what)
    return Trainable(base, specify(base.layout, what, seed=seed), what)


def specify(layout: Layout, text: str, *, seed: int = 0) -> Spec:
    """The spec of a method's name, with ``@`` and a number if it takes one, or of an expression (see the module).

    Raises:
        UnknownNameError: If a name is neither a method nor a component of this model.
        SelectionError: If the expression cannot be read, or a term selects nothing.
    """
    name, marked, option = text.strip().partition("@")
    method = METHODS.get(name)
    if method is not None and not method.selects and not _OPERATOR.search(text.strip()):
        if marked and not (method.option and _NUMBER.fullmatch(option)):
            after = f"{name}@ takes a number, its {method.option}"
            raise SelectionError(
                f"Cannot read {text.strip()!r}: {after if method.option else f'{name} takes no number'}."
            )
        spec = method(layout, seed=seed, option=int(option) if marked else None)
        if marked and len(spec) > layout.size:
            raise SelectionError(
                f"{text.strip()} would train {len(spec):,} entries, and the whole model has {layout.size:,}: take a"
                f" smaller {method.option}."
            )
        return spec
    return select(layout, text, seed=seed)


def select(layout: Layout, expression: str, *, seed: int = 0) -> Selection:
    """The selection that a method's name or an expression (see the module) describes; `seed` is for `random`.

    Raises:
        UnknownNameError: If a name is neither a method nor a component of this model.
        SelectionError: If the expression cannot be read, or a term selects nothing.
    """
    parts = [part for part in _OPERATOR.split(expression.strip()) if part is not None]
    selection = _term(layout, parts[0], seed)
    for sign, text in zip(parts[1::2], parts[2::2], strict=True):
        selection = _JOINED[sign](selection, _term(layout, text, seed))
    if len(parts) > 1 and not len(selection):
        raise SelectionError(f"{expression.strip()!r} selects nothing. If the head alone is to train, write head.")
    return selection


def _term(layout: Layout, text: str, seed: int) -> Selection:
    name, marked, layers = text.strip().partition("@")
    if not name or (marked and not _LAYERS.fullmatch(layers)):
        raise SelectionError(
            f"Cannot read {text.strip()!r}: write NAME, NAME.bias, NAME@3, NAME@1,3,5, NAME@3-5 or NAME@4-."
        )
    method = METHODS.get(name)
    if method is not None and method.option and layers.isdecimal():
        return _selected(name, method(layout, seed=seed, option=int(layers)))
    selection = _named(layout, name) if method is None else _selected(name, method(layout, seed=seed))
    if marked:
        drawn = method is not None and method.seeded  # what is drawn may miss a layer by chance
        own = sorted({place.layer for place in (layout.body if drawn else selection) if place.layer is not None})
        wanted = _layers(text.strip(), layers, own)
        selection &= where(layout, lambda place: place.layer in wanted)
    return selection


def _selected(name: str, made: Spec) -> Selection:
    if not isinstance(made, Selection):
        why = "is measured on a task" if METHODS[name].measured else "does more than select entries"
        raise SelectionError(f"{name!r} {why}, so it stands alone and not in an expression.")
    return made


def _named(layout: Layout, name: str) -> Selection:
    selection = where(layout, lambda place: _matches(place, name))
    if not len(selection):
        bare = name.removesuffix(" (head)")
        if any(_matches(place, bare) for place in layout.head):
            raise SelectionError(f"{bare!r} is the head, which every method trains; head alone trains nothing else.")
        known = [component.name for component in layout.components if not component.head]
        raise UnknownNameError("method or component", name, [*METHODS, *known])
    return selection


def _matches(place: Place, pattern: str) -> bool:
    """Whether the whole name matches, part by part, so that ``output.LayerNorm`` does not match a longer name."""
    wanted = pattern.split(".")
    return any(
        len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))
        for own in (place.component.split("."), [*place.component.split("."), place.sub])
    )


def _layers(term: str, text: str, own: list[int]) -> set[int]:
    """The layers that `text` names among `own`, those of its term."""
    wanted: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = int(first)
        high = low if not dash else int(last) if last else own[-1] if own else 0
        if last and high < low:
            raise SelectionError(f"{term!r} counts layers down; write {high}-{low}.")
        found = {layer for layer in own if low <= layer <= high}
        if not {low, high} <= found:
            gaps = len(own) < own[-1] - own[0] + 1 if own else True
            there = ", ".join(map(str, own)) or "none" if gaps else f"{own[0]} to {own[-1]}"
            raise SelectionError(f"{term!r} names layers that are not there; there are {there}.")
        wanted |= found
    return wanted
