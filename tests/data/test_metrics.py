from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from normtune.data.metrics import METRICS, ClassScore, classification_report, compute, in_print
from normtune.errors import DataError, UnknownNameError

# Slow references, written out from the definitions.


def counts(guesses: Sequence[int], truths: Sequence[int], positive: int) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    pairs = [(guess == positive, truth == positive) for guess, truth in zip(guesses, truths, strict=True)]
    return tuple(pairs.count(case) for case in ((True, True), (True, False), (False, True), (False, False)))  # type: ignore[return-value]


def f1_by_hand(guesses: Sequence[int], truths: Sequence[int], positive: int) -> float:
    hits, wrong, missed, _ = counts(guesses, truths, positive)
    return 2 * hits / (2 * hits + wrong + missed) if hits else 0.0


def matthews_by_hand(guesses: Sequence[int], truths: Sequence[int]) -> float:
    """Gorodkin's R_K: the covariance of one-hot class indicators, over its two variances."""
    classes, size = sorted({*guesses, *truths}), len(guesses)
    right = sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
    guessed, true = ([column.count(k) for k in classes] for column in (list(guesses), list(truths)))
    together = right * size - sum(a * b for a, b in zip(guessed, true, strict=True))
    spread = (size**2 - sum(a * a for a in guessed)) * (size**2 - sum(b * b for b in true))
    return together / math.sqrt(spread) if spread else 0.0


def pearson_by_hand(x: Sequence[float], y: Sequence[float]) -> float:
    dx, dy = [a - sum(x) / len(x) for a in x], [b - sum(y) / len(y) for b in y]
    together = sum(a * b for a, b in zip(dx, dy, strict=True))
    return together / math.sqrt(sum(a * a for a in dx) * sum(b * b for b in dy))


def ranks_by_hand(x: Sequence[float]) -> list[float]:
    """Ranks from 1, ties sharing their mean."""
    return [sum(other < value for other in x) + (x.count(value) + 1) / 2 for value in x]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.83214, "0.8321"),
        (-12.5, "-12.5000"),
        (0.00123, "0.0012"),
        (2.4713e-8, "2.471e-08"),
        (-2e300, "-2.000e+300"),
    ],
)
def test_a_number_in_print(value: float, text: str) -> None:
    assert in_print(value) == text


def test_a_binary_case_worked_out_by_hand() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    guesses, truths = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert compute(["accuracy", "f1", "macro_f1", "matthews"], guesses, truths) == pytest.approx({
        "accuracy": 0.7,
        "f1": 2 * 3 / (2 * 3 + 1 + 2),
        "macro_f1": (6 / 9 + 8 / 11) / 2,
        "matthews": (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
    })


def test_a_regression_worked_out_by_hand() -> None:
    # ranks 1, 2, 3, 4 against 1, 3.5, 3.5, 2: covariance 1.5, variances 5 and 4.5
    found = compute(["pearson", "spearman", "mse"], [1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 5.0, 2.0])
    assert found == pytest.approx({
        "pearson": 3 / math.sqrt(5 * 18),
        "spearman": 1.5 / math.sqrt(5 * 4.5),
        "mse": (1 + 9 + 4 + 4) / 4,
    })


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_classification_against_the_definitions(classes: int, seed: int) -> None:
    draw = random.Random(100 * classes + seed)
    truths = [draw.randrange(classes) for _ in range(40)]
    guesses = [truth if draw.random() < 0.6 else draw.randrange(classes) for truth in truths]
    found = compute(["accuracy", "f1", "macro_f1", "matthews"], guesses, truths)
    present = sorted({*guesses, *truths})
    right = sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
    assert found["accuracy"] == pytest.approx(right / 40)
    assert found["f1"] == pytest.approx(f1_by_hand(guesses, truths, 1))
    assert found["macro_f1"] == pytest.approx(sum(f1_by_hand(guesses, truths, k) for k in present) / len(present))
    assert found["matthews"] == pytest.approx(matthews_by_hand(guesses, truths))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_against_the_definitions(seed: int) -> None:
    draw = random.Random(seed)
    truths = [round(5 * draw.random(), 1) for _ in range(50)]  # rounded, so that there are ties
    guesses = [round(truth + draw.gauss(0, 2), 1) for truth in truths]
    found = compute(["pearson", "spearman", "mse"], guesses, truths)
    assert found["pearson"] == pytest.approx(pearson_by_hand(guesses, truths))
    assert found["spearman"] == pytest.approx(pearson_by_hand(ranks_by_hand(guesses), ranks_by_hand(truths)))
    assert found["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(guesses, truths, strict=True)) / 50)


@pytest.mark.parametrize(
    ("guesses", "truths"),
    [([0, 0, 0], [0, 1, 0]), ([0, 1, 0], [0, 0, 0]), ([0, 0], [0, 0]), ([2, 2], [0, 1]), ([0], [0])],
)
def test_constant_classes(guesses: list[int], truths: list[int]) -> None:
    found = compute(["f1", "matthews", "macro_f1", "accuracy"], guesses, truths)
    assert found["f1"] == 0.0
    assert found["matthews"] == 0.0


@pytest.mark.parametrize(
    ("guesses", "truths"),
    [
        ([1.5, 1.5, 1.5], [0.0, 1.0, 2.0]),
        ([0.0, 1.0, 2.0], [3.0, 3.0, 3.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([2.5], [1.0]),
        ([2.5, 2.5 + 4e-16, 2.5], [0.0, 1.0, 2.0]),  # up to rounding
    ],
)
def test_constant_scores(guesses: list[float], truths: list[float]) -> None:
    assert compute(["pearson", "spearman"], guesses, truths) == {"pearson": 0.0, "spearman": 0.0}


def test_two_examples_have_a_correlation() -> None:
    assert compute(["pearson", "spearman"], [1.0, 2.0], [5.0, 3.0]) == pytest.approx({"pearson": -1, "spearman": -1})


def test_inputs_may_be_arrays_of_any_number_type() -> None:
    guesses, truths = np.array([1, 0, 1], dtype=np.int32), np.array([1.0, 0.0, 0.0], dtype=np.float32)
    assert compute(["accuracy"], guesses, truths) == {"accuracy": pytest.approx(2 / 3)}


def test_values_are_plain_numbers_in_the_order_asked_for() -> None:
    names = ["macro_f1", "accuracy", "mse", "f1", "micro_f1", "matthews", "spearman", "pearson"]
    found = compute(names, [0, 1, 1], [0, 1, 0])
    assert list(found) == names
    assert set(found) == set(METRICS)
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ("guesses", "truths", "message"),
    [
        ([], [], "0 sample"),
        ([1, 0], [1], r"inconsistent numbers of samples: \[2, 1\]"),
        ([1, math.nan], [1, 0], "predictions contains NaN"),
        ([1, 0], [-math.inf, 0], "labels contains infinity"),
        ([[1, 0]], [1, 0], "inconsistent"),
        (["a", "b"], [1, 0], "cannot be scored"),
        ([0.5, 1], [0, 1], "continuous"),
    ],
)
def test_what_cannot_be_scored(guesses: list[float], truths: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute(["accuracy"], guesses, truths)


def test_an_unknown_metric() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        compute(["acuracy"], [1], [1])


def test_a_report() -> None:
    report = classification_report([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 2, 2], ["cat", "dog", "eel", "fox"])
    assert report == [
        ClassScore("cat", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3),
        ClassScore("dog", pytest.approx(1 / 3), 1.0, pytest.approx(1 / 2), 1),
        ClassScore("eel", 0.0, 0.0, 0.0, 2),
        ClassScore("fox", 0.0, 0.0, 0.0, 0),
    ]
    assert type(report[0].precision) is float
    assert type(report[0].support) is int
