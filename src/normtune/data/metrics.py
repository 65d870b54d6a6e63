"""Metrics of predictions, as fractions (never percent). Where one is undefined it is 0, without a warning."""

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


def in_print(value: float) -> str:
    """A metric or a target, to four decimals, or to four digits where those would hide it."""
    return f"{value:.4f}" if value == 0 or not abs(value) < 1e-3 else f"{value:.3e}"


def compute(names: Iterable[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Metrics of predictions against labels.

    Args:
        names: Which ones of `METRICS`; others raise an `UnknownNameError`.
        predictions: Class numbers or, for regression, real numbers, of shape ``(examples,)``; of several labels an
            example whether each applies, of shape ``(examples, labels)``, whose accuracy is that of whole examples.
        labels: What they should have been, of the same shape.

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
            # Of class 1.
            "f1": lambda: f1_score(truths == 1, guesses == 1, zero_division=0.0),
            # Over the classes that occur in the predictions or in the labels; of several labels an example over all.
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
    """Precision, recall and F1 of every class, also of one that does not occur, in the order of their numbers.

    Predictions and labels are class numbers, of shape ``(examples,)``.
    """
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(labels, predictions, labels=list(range(len(names))), zero_division=0.0)
    return [
        ClassScore(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *scores, strict=True)
    ]


def is_constant(column: np.ndarray) -> bool:
    """Whether all values are the same, but for rounding."""
    return bool(np.ptp(column) <= _ROUNDING * np.abs(column).max())
