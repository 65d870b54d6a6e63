"""Divides one file's examples into train and dev, and notes problems in either."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normtune.data.kind import Kind
from normtune.data.labels import parsed
from normtune.data.task import Split
from normtune.errors import DataError

#: A label that is a plain decimal number.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONG_TEXT = 20_000
SMALL_CLASS = 5


def labels_of(split: Split) -> np.ndarray:
    """The labels of a split that has them."""
    assert split.labels is not None
    return split.labels


def alike(split: Split) -> dict[tuple[Any, ...], list[int]]:
    """The numbers of the examples with the same texts or pictures, by those texts or pictures."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, key in enumerate(zip(*split.columns.values(), strict=True)):
        found.setdefault(key, []).append(index)
    return found


def divide(whole: Split, asks: Kind, fraction: float, seed: int, names: Sequence[str]) -> dict[str, Split]:
    """Splits a file's examples into train and dev, both in the file's order.

    Groups of identical texts are drawn whole, each as one example of its rarest class (`Kind.strata`).

    Raises:
        DataError: If there are too few different texts.
    """
    labels = asks.strata(labels_of(whole)).tolist()
    rarity = Counter(labels)
    groups = list(alike(whole).values())
    kinds = [min((labels[row] for row in rows), key=lambda kind: (rarity[kind], kind)) for rows in groups]
    held = _draw(kinds, fraction, seed)
    # A class that occurs only in groups with contradictory labels can still be missing from train.
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
    """The positions of a stratified, seeded sample: at least one of each kind that has two or more, none of others."""
    from sklearn.model_selection import train_test_split

    sizes = Counter(kinds)
    items = [item for item, kind in enumerate(kinds) if sizes[kind] > 1]
    least = len({kinds[item] for item in items})
    if not items:
        return set()
    # scikit-learn needs at least as many items as kinds on each side, and may still leave out a small kind.
    size = min(max(round(fraction * len(kinds)), least), len(items) - least)
    kept, drawn = train_test_split(items, test_size=size, random_state=seed, stratify=[kinds[item] for item in items])
    last = {kinds[item]: item for item in kept}
    return {*drawn, *(last[kind] for kind in set(last) - {kinds[item] for item in drawn})}


def notes_on(
    asks: Kind, whole: Split, splits: Mapping[str, Split], counts: Mapping[str, int], file: str, fraction: float | None
) -> tuple[str, ...]:
    """Notes on problems in a task's data; `fraction` is the part of the train file that became dev, if any."""
    labels, train, dev = labels_of(whole), splits["train"], splits["dev"]
    torn = sum(len(rows) for rows in alike(whole).values() if np.ptp(labels[rows], axis=0).any())
    seen = alike(train)
    leaked = sum(len(rows) for texts, rows in alike(dev).items() if texts in seen)
    names = list(counts)
    small = [name for name, count in counts.items() if count < SMALL_CLASS]
    absent = [name for name, count in zip(names, asks.counts(labels_of(dev), len(names)), strict=True) if not count]
    kind, columns = whole.kind, [column for split in splits.values() for column in split.columns.values()]
    long = sum(kind == "text" and len(text) > LONG_TEXT for column in columns for text in column)
    seen_as = Counter(map(_as_seen, names))
    twins = [name for name in names if seen_as[_as_seen(name)] > 1]
    lists = [name for name in names if name.startswith("[") and isinstance(parsed(name), list)]
    wanted = len(dev) if fraction is None else fraction * len(whole)
    moved = abs(len(dev) - wanted) > max(1.0, 0.1 * wanted)
    why = "" if fraction is None else f", as they have too few different {whole.kind}s to share"
    told = (
        (torn, f"{file}: {torn} rows share their {kind}s with others that have another label."),
        (leaked, f"Dev rows whose {kind}s are in train too, which flatters the scores: {leaked} of {len(dev)}."),
        (
            moved,
            f"Dev takes {len(dev)} of {len(whole)} rows, not the fraction {fraction or 0:g}, as identical {kind}s stay "
            "together and small classes are shared out.",
        ),
        (small, f"Classes with fewer than {SMALL_CLASS} train rows: {_some(small, names)}."),
        (absent, f"Classes that are in train but not in dev{why}: {_some(absent, names)}."),
        (twins, f"Different classes that look alike: {_some(twins, names)}."),
        (lists, f"Classes that are lists, whose labels --labels several would separate: {_some(lists, names)}."),
        (
            asks.name == "classification"
            and 2 * len(small) > len(names)
            and all(NUMBER.fullmatch(name) for name in names),
            "Most classes are numbers with few rows each: --labels numbers predicts numbers as such.",
        ),
        (long, f"Texts of more than {LONG_TEXT:,} characters, of which a model reads only the start: {long}."),
    )
    return tuple(note for found, note in told if found)


def _as_seen(label: str) -> str:
    """A label as a reader sees it: without case, forms of width, invisible characters and doubled blanks."""
    shown = (sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
    return " ".join("".join(shown).casefold().split())


def _some(labels: Sequence[str], names: Sequence[str]) -> str:
    """How many labels, and the first few of them."""
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{len(labels)} of {len(names)} ({', '.join(map(reprlib.repr, labels[:5]))}{more})"
