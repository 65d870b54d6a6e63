"""Dividing one file's examples into train and dev."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from normtune.data.kind import Kind
from normtune.data.task import Split
from normtune.errors import DataError

#: A label that is a plain decimal number.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def labels_of(split: Split) -> np.ndarray:
    """The labels of a split that has them."""
    assert split.labels is not None
    return split.labels


def alike(split: Split) -> dict[tuple[Any, ...], list[int]]:
    """The numbers of the examples that have the same texts or pictures, by these."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, key in enumerate(zip(*split.columns.values(), strict=True)):
        found.setdefault(key, []).append(index)
    return found


def divide(whole: Split, asks: Kind, fraction: float, seed: int, names: Sequence[str]) -> dict[str, Split]:
    """Splits a file's examples into train and dev, both in the file's order.

    What is drawn are groups of identical texts, each as one of its rarest class; `Kind.strata` says what classes are.

    Raises:
        DataError: If there are too few different texts.
    """
    labels = asks.strata(labels_of(whole)).tolist()
    rarity = Counter(labels)
    groups = list(alike(whole).values())
    kinds = [min((labels[row] for row in rows), key=lambda kind: (rarity[kind], kind)) for rows in groups]
    held = _draw(kinds, fraction, seed)
    # A class that occurs only beside contradictory labels can still be missing from train.
    there = {labels[row] for group, rows in enumerate(groups) if group not in held for row in rows}
    for group in sorted(held):
        if not there.issuperset(found := {labels[row] for row in groups[group]}):
            there |= found
            held.remove(group)
    if not held:
        few = f"every class has a single {whole.kind}" if names else f"there is a single {whole.kind}"
        hint = " (is this regression?)" if names and all(NUMBER.fullmatch(label) for label in names) else ""
        raise DataError(f"No dev split can be made of {len(whole)} rows, as {few}{hint}; give a dev file.")
    dev = {row for group in held for row in groups[group]}
    return {"train": whole.take([row for row in range(len(whole)) if row not in dev]), "dev": whole.take(sorted(dev))}


def _draw(kinds: Sequence[int], fraction: float, seed: int) -> set[int]:
    """The positions of a stratified, seeded sample, with one of every kind that has two or more, and none of others."""
    from sklearn.model_selection import train_test_split

    sizes = Counter(kinds)
    items = [item for item, kind in enumerate(kinds) if sizes[kind] > 1]
    least = len({kinds[item] for item in items})
    if not items:
        return set()
    # scikit-learn wants as many items as kinds on either side, and still may leave a small kind out.
    size = min(max(round(fraction * len(kinds)), least), len(items) - least)
    kept, drawn = train_test_split(items, test_size=size, random_state=seed, stratify=[kinds[item] for item in items])
    last = {kinds[item]: item for item in kept}
    return {*drawn, *(last[kind] for kind in set(last) - {kinds[item] for item in drawn})}
