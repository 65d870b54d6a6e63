"""Metrics of predictions, as fractions (never percent). Where one is undefined it is 0, without a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from normtune.errors import DataError, UnknownNameError

# scikit-learn and scipy take a second to import, so the functions that need them import them.

Metric = Callable[[np.ndarray, np.ndarray, int], float]

# Below this spread, relative to the largest value, differences are rounding errors.
_ROUNDING = 1e-12

_LARGEST_CLASS = 2**31


@dataclass(frozen=True)
class ClassScore:
    """How well one class is predicted.

    Attributes:
        name: The class.
        precision: Of what was predicted as this class, the fraction that is.
        recall: Of what is this class, the fraction that was predicted as it.
        f1: The harmonic mean of both.
        support: How many examples are this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def compute(names: Iterable[str], predictions: ArrayLike, labels: ArrayLike, *, positive: int = 1) -> dict[str, float]:
    """Metrics of predictions against labels; what cannot be compared is a `DataError`.

    Args:
        names: Which ones; see `METRICS`.
        predictions: Class numbers or, for regression, real numbers; shape ``(examples,)``.
        labels: What they should have been, of the same shape.
        positive: The class number that counts as positive in ``f1``.

    Returns:
        Values by name, in the order of `names`.

    Raises:
        UnknownNameError: If a name is not one of `METRICS`.
    """
    wanted = list(names)
    for name in wanted:
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    guesses, truths = _comparable(predictions, labels)
    return {name: METRICS[name](guesses, truths, positive) for name in wanted}


def classification_report(predictions: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of every class.

    Args:
        predictions: Class numbers; shape ``(examples,)``.
        labels: What they should have been, of the same shape.
        names: The classes' names, in the order of their numbers.

    Returns:
        One score a class, in that order, also for classes that do not occur.

    Raises:
        DataError: If a class number has no name.
    """
    from sklearn.metrics import precision_recall_fscore_support

    guesses, truths = (_class_numbers(column) for column in _comparable(predictions, labels))
    for column in (guesses, truths):
        if column.min() < 0 or column.max() >= len(names):
            worst = column.min() if column.min() < 0 else column.max()
            raise DataError(f"There is a class number {worst}, but the {len(names)} classes are numbered from 0.")
    scores = precision_recall_fscore_support(truths, guesses, labels=list(range(len(names))), zero_division=0.0)
    return [
        ClassScore(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *scores, strict=True)
    ]


def _comparable(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as columns of float64.

    Raises:
        DataError: If they differ in length or are empty.
    """
    guesses, truths = _column(predictions, "predictions"), _column(labels, "labels")
    if len(guesses) != len(truths):
        raise DataError(f"There are {len(guesses)} predictions but {len(truths)} labels.")
    if not len(guesses):
        raise DataError("There are no predictions to score.")
    return guesses, truths


def _column(values: ArrayLike, what: str) -> np.ndarray:
    """`values` as one column of float64, in which class numbers are exact.

    Raises:
        DataError: If they are not numbers, not one column, or not finite.
    """
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"The {what} are not numbers.") from error
    if column.ndim != 1:
        raise DataError(f"The {what} should be one column, but have the shape {column.shape}.")
    if not np.isfinite(column).all():
        broken = int(np.flatnonzero(~np.isfinite(column))[0])
        raise DataError(f"The {what} are not all finite: example {broken} (from 0) has {column[broken]}.")
    return column


def _class_numbers(column: np.ndarray) -> np.ndarray:
    """`column` as integers.

    Raises:
        DataError: If it holds other numbers.
    """
    broken = column[(column != np.rint(column)) | (np.abs(column) > _LARGEST_CLASS)]
    if len(broken):
        raise DataError(f"A class number should be a whole number, but there is {broken[0]}; is this regression?")
    return column.astype(np.int64)


def _constant(column: np.ndarray) -> bool:
    """Whether all values are the same, but for rounding."""
    return bool(np.ptp(column) <= _ROUNDING * np.abs(column).max())


def _accuracy(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    return float((_class_numbers(predictions) == _class_numbers(labels)).mean())


def _f1(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    from sklearn.metrics import f1_score

    guesses, truths = _class_numbers(predictions) == positive, _class_numbers(labels) == positive
    return float(f1_score(truths, guesses, pos_label=True, zero_division=0.0))


def _macro_f1(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    """The mean F1 over the classes that occur in the predictions or in the labels."""
    from sklearn.metrics import f1_score

    return float(f1_score(_class_numbers(labels), _class_numbers(predictions), average="macro", zero_division=0.0))


def _matthews(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    guesses, truths = _class_numbers(predictions), _class_numbers(labels)
    if np.ptp(guesses) == 0 or np.ptp(truths) == 0:
        return 0.0
    return float(matthews_corrcoef(truths, guesses))


def _pearson(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    from scipy.stats import pearsonr

    if _constant(predictions) or _constant(labels):
        return 0.0
    return float(pearsonr(predictions, labels).statistic)


def _spearman(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    from scipy.stats import rankdata

    if _constant(predictions) or _constant(labels):
        return 0.0
    return _pearson(rankdata(predictions), rankdata(labels), positive)


def _mse(predictions: np.ndarray, labels: np.ndarray, positive: int) -> float:
    return float(np.square(predictions - labels).mean())


METRICS: Mapping[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}
