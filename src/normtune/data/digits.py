"""The embedded suite of pictures: scikit-learn's digits, 8 by 8 pixels, as they are and turned; nothing is fetched."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from normtune.data.images import Picture
from normtune.data.task import PICTURE, Split, Task, TaskData

#: One digit in this many is a dev example.
_DEV_EVERY = 5

_ABOUT = "Which digit is this?"
_TEN, _METRICS = tuple("0123456789"), ("accuracy", "macro_f1")
DIGITS: dict[str, Task] = {
    "digits": Task("digits", "Digits", "classification", _TEN, _METRICS, PICTURE, _ABOUT),
    "turned": Task("turned", "Turned", "classification", _TEN, _METRICS, PICTURE, f"{_ABOUT} It lies on its side."),
    "odd": Task("odd", "Odd", "classification", ("even", "odd"), _METRICS, PICTURE, "Is this digit odd?"),
}


def load_digits(name: str, _: Path | None = None) -> TaskData:
    """Load a task, a key of `DIGITS`: 1,437 training and 360 dev examples, the same ones for all tasks."""
    grey, numbers = _digits()
    grey = np.rot90(grey, axes=(1, 2)).copy() if name == "turned" else grey
    labels = numbers % 2 if name == "odd" else numbers
    pictures = np.empty(len(grey), dtype=object)
    pictures[:] = [Picture(f"digit {number}", pixels) for number, pixels in enumerate(grey)]
    order = np.random.default_rng(0xD161).permutation(len(grey))
    size = len(grey) // _DEV_EVERY + 1
    parts = {"train": np.sort(order[size:]), "dev": np.sort(order[:size])}
    splits = {part: Split({"picture": tuple(pictures[at])}, labels[at]) for part, at in parts.items()}
    return TaskData(DIGITS[name], splits, "scikit-learn's digits")


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The pictures, uint8 of shape (1797, 8, 8), and the digits that they show, int64."""
    from sklearn.datasets import load_digits as stored

    found = stored()
    return np.round(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)
