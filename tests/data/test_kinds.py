from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from normtune.data.kind import KindName
from normtune.data.kinds import KINDS, kind_of
from normtune.data.task import Task
from normtune.deltas.answers import Prediction
from normtune.errors import AnswerError
from normtune.evaluation import decide, score_outputs

TWO = Task("two", "Two", "classification", ("no", "yes"), ("accuracy", "f1"), weights=(3.0, 1.0))
NUMBER = Task("number", "Number", "regression", (), ("mse",), center=2.0, scale=3.0)


def test_every_kind_has_the_name_that_tasks_give_it():
    assert [*KINDS] == [kind.name for kind in KINDS.values()] == [*get_args(KindName)]


@pytest.mark.parametrize(
    ("model", "problem", "kind"),
    [
        ("BertForSequenceClassification", None, "classification"),
        ("BertForSequenceClassification", "regression", "regression"),
        ("BertForSequenceClassification", "multi_label_classification", "multilabel"),
        ("DeiTForImageClassificationWithTeacher", "single_label_classification", "classification"),
        ("Whatever", None, "classification"),
    ],
)
def test_a_model_tells_its_kind(model, problem, kind):
    assert kind_of(model, problem).name == kind


def test_a_class_is_the_largest_output():
    outputs = np.array([[0.0, np.log(3.0)], [1.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    assert decide(outputs, TWO).tolist() == [1, 0, 0]
    assert score_outputs(outputs, np.array([1, 1, 0]), TWO) == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})
    answer = Prediction.of(outputs[0], TWO)
    assert (answer.label, answer.value) == ("yes", None)
    assert answer.probabilities == pytest.approx({"no": 0.25, "yes": 0.75})
    # -log of 3/4 and of 1/4, weighted by 1 and by 3.
    loss = TWO.asks.loss(TWO)(torch.tensor([[0.0, np.log(3.0)]] * 2), torch.tensor([1, 0]))
    assert float(loss) == pytest.approx((np.log(4 / 3) + 3 * np.log(4)) / 4)


def test_a_number_is_on_its_targets_scale():
    outputs = np.array([[1.0], [-1.0]], dtype=np.float32)
    assert decide(outputs, NUMBER).tolist() == [5.0, -1.0]
    assert score_outputs(outputs, np.array([4.0, -1.0]), NUMBER) == {"mse": 0.5}
    assert Prediction.of(outputs[0], NUMBER) == Prediction(value=5.0)
    loss = NUMBER.asks.loss(NUMBER)(torch.tensor([[1.0], [-1.0]]), torch.tensor([8.0, 2.0]))
    assert float(loss) == pytest.approx(((1 - 2) ** 2 + (-1 - 0) ** 2) / 2)


def best(task: Task, labels: np.ndarray) -> float | None:
    """The best score of one constant answer, by the first metric."""
    guesses = (np.broadcast_to(answer, labels.shape) for answer in task.asks.constants(labels))
    return max((task.asks.score(guess, labels, task)[task.metrics[0]] for guess in guesses), default=None)


def test_one_answer_for_all_is_the_one_that_scores_most():
    few = np.array([0, 0, 0, 1])
    assert best(TWO, few) == 0.75
    # All yes: a precision of 1/4 and a recall of 1. All no has no F1.
    assert best(Task("f", "F", "classification", ("no", "yes"), ("f1",)), few) == pytest.approx(2 * 0.25 / 1.25)
    assert best(NUMBER, np.array([1.0, 3.0])) == 1.0
    several = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
    topics = Task("topics", "Topics", "multilabel", ("a", "b", "c"), ("micro_f1",))
    # The first alone: 3 of 4 right, 3 of 5 found; the first two: 5 of 8 right, all found.
    assert best(topics, several) == pytest.approx(max(2 * 3 / (4 + 5), 2 * 5 / (8 + 5)))
    assert best(Task("text", "Text", "language", (), ("perplexity",)), np.zeros(2)) is None


@pytest.mark.parametrize("task", [TWO, NUMBER])
def test_outputs_that_are_not_finite_are_no_answer(task):
    for value in (np.nan, np.inf):
        with pytest.raises(AnswerError, match="not finite"):
            decide(np.full((1, task.outputs), value, dtype=np.float32), task)
