"""Metrics of predictions, as fractions (never percent). An undefined metric is 0, without a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from normtune.errors import DataError, known

METRICS = ("accuracy", "f1", "macro_f1", "micro_f1", "matthews", "pearson", "spearman", "mse")

# Below this spread, relative to the largest value, differences are rounding errors.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ClassScore:
    """How well one class is predicted.

    Attributes:
        name: The class.
        precision: The fraction of the examples predicted as this class that are of it.
        recall: The fraction of the examples of this class that are predicted as it.
        f1: The harmonic mean of both.
        support: How many examples are of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def in_print(value: float) -> str:
    """A metric or a target as text: to four decimals or, below 0.001 and from 1e15 on, four digits (``1.234e-05``)."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e15 else f"{value:.3e}"


def compute(names: Iterable[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Metrics of predictions against labels.

    Args:
        names: Names from `METRICS`; others raise an `UnknownNameError`.
        predictions: Class numbers or, for regression, real numbers, of shape ``(examples,)``; for several labels an
            example, whether each applies, of shape ``(examples, labels)``: accuracy then counts wholly right examples.
        labels: The true values, of the same shape.

    Returns:
        Values by name, in the order of `names`.

    Raises:
        DataError: If predictions and labels cannot be compared.
    """
    # scikit-learn and scipy take a second to import.
    from scipy.stats import pearsonr, rankdata
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error
    from sklearn.utils.validation import check_array, check_consistent_length

    wanted = [known("metric", name, METRICS) for name in names]
    try:
        guesses = check_array(predictions, dtype=np.float64, ensure_2d=False, input_name="predictions")
        truths = check_array(labels, dtype=np.float64, ensure_2d=False, input_name="labels")
        check_consistent_length(guesses, truths)
        constant = is_constant(guesses) or is_constant(truths)
        scorers: dict[str, Callable[[], float]] = {
            "accuracy": lambda: accuracy_score(truths, guesses),
            # For class 1 only.
            "f1": lambda: f1_score(truths == 1, guesses == 1, zero_division=0.0),
            # Over the classes that occur in predictions or labels; for several labels an example, over all labels.
            "macro_f1": lambda: f1_score(truths, guesses, average="macro", zero_division=0.0),
            "micro_f1": lambda: f1_score(truths, guesses, average="micro", zero_division=0.0),
            "matthews": lambda: 0.0 if constant else matthews_corrcoef(truths, guesses),
            "pearson": lambda: 0.0 if constant else pearsonr(guesses, truths).statistic,
            "spearman": lambda: 0.0 if constant else pearsonr(rankdata(guesses), rankdata(truths)).statistic,
            "mse": lambda: mean_squared_error(truths, guesses),
        }
        return {name: float(scorers[name]()) for name in wanted}
    except ValueError as error:
        raise DataError(f"The predictions cannot be scored: {str(error).splitlines()[0]}") from error


def classification_report(predictions: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of every class, also of those that do not occur, in class order.

    Predictions and labels are class numbers, of shape ``(examples,)``.
    """
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(labels, predictions, labels=list(range(len(names))), zero_division=0.0)
    return [
        ClassScore(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *scores, strict=True)
    ]


def is_constant(column: np.ndarray) -> bool:
    """Whether all values are the same, up to rounding."""
    return bool(np.ptp(column) <= _ROUNDING * np.abs(column).max())
