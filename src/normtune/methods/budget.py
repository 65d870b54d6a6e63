"""Methods at one budget of trained entries: each gets the largest size within it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from normtune.errors import ConfigError, SelectionError
from normtune.methods.method import METHODS, Method
from normtune.models.layout import Layout

#: An upper bound on sizes: more entries than any model has.
_LARGEST = 1 << 40


def sized(layout: Layout, names: Iterable[str], entries: int) -> tuple[str, ...]:
    """Fit each method to a budget of trained entries, the head's not counted.

    Returns:
        The names. A method that takes a size gets the largest one within the budget, such as ``lora@2``, or keeps its
        bare name if that is its default size. Methods without a size or with a given one stay; so do expressions.

    Raises:
        ConfigError: If a method exceeds the budget at its smallest size.
        SelectionError: If the model cannot have a method.
    """
    return tuple(_fitted(layout, name, entries, METHODS.get(name)) for name in names)


def _fitted(layout: Layout, name: str, entries: int, method: Method | None) -> str:
    if method is None or not method.option:
        return name
    least = len(method(layout, option=1))

    def fits(size: int) -> bool:
        try:
            return len(method(layout, option=size)) <= min(entries, layout.size)
        except SelectionError:  # more than the model has
            return False

    if _same(layout, method, least):
        return name
    if least > entries:
        raise ConfigError(
            f"A budget of {entries:,} entries is too small for {name}: with 1 for its {method.option} it trains"
            f" {least:,}. Raise --entries, or leave it out."
        )
    high = 2
    while fits(high) and high < _LARGEST:
        high *= 2
    most = bisect_left(range(high), True, high // 2 + 1, key=lambda size: not fits(size)) - 1
    return name if len(method(layout)) == len(method(layout, option=most)) else f"{name}@{most}"


def _same(layout: Layout, method: Method, least: int) -> bool:
    """Whether a method's number does not affect how many entries train."""
    try:
        return len(method(layout, option=2)) == least
    except SelectionError:
        return False
