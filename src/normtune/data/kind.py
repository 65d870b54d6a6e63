"""A kind of task as one value: its head, loss, labels and metrics, and how outputs become answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from normtune.data.labels import Labels, one
from normtune.data.metrics import ClassScore, classification_report, compute
from normtune.data.reading import Reading
from normtune.data.table import Rows

if TYPE_CHECKING:
    from torch import Tensor

KindName = Literal["classification", "regression", "multilabel", "tokens", "language"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class TaskLike(Protocol):
    """The part of a `normtune.data.task.Task` that a kind uses."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of their numbers."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics to report."""

    @property
    def center(self) -> float:
        """The number that is subtracted from a target before training."""

    @property
    def scale(self) -> float:
        """The number that the difference is divided by."""

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each class in the loss."""


#: A loss from float32 outputs and labels.
Loss = Callable[["Tensor", "Tensor"], "Tensor"]
#: A generator of random numbers for each example.
Generators = Sequence[np.random.Generator]


def score(decided: np.ndarray, labels: np.ndarray, task: TaskLike) -> dict[str, float]:
    """All of a task's metrics of its predictions, by name."""
    return compute(task.metrics, decided, labels)


@dataclass(frozen=True)
class Kind:
    """A kind of task; `normtune.data.kinds.KINDS` holds them all.

    Below, outputs are those of a batch, of shape (B, outputs), and the first axis of labels is the examples. Only the
    functions that compute import torch, so that records and reports can be read without it.

    Attributes:
        name: Its name in tasks and deltas.
        problem: Its ``problem_type`` in transformers, or None where the model's class determines it.
        said: What a model with these labels answers, as a sentence.
        metrics: The metrics of a task in the user's own files, from its labels; the primary one first.
        constants: The answers that may score best if every example gets the same one, from the labels.
        loss: The mean loss of a batch.
        log_prob: log p(labels | x) of each example, of shape (B,).
        expected: Yields a tensor of shape (B,) for each backward pass; their squared gradients add up to the expected
            squared gradient of log p(y | x) over labels y from the model's own distribution.
        draw: Yields that many batches of labels, drawn from the model with each example's own generator.
        decide: Predictions in the form of labels.
        answer: The fields of a `normtune.deltas.answers.Prediction` of one example, from its outputs, its decision,
            the task and its text.
        named: Whether the head has an output for each label; otherwise the task has no labels.
        width: How many outputs the head has if not `named`.
        dtype: Type of the labels.
        read: Reads each row's labels from the column of this name.
        pack: The labels of a split, from each example's class numbers and the number of classes.
        strata: Each example's stratum, of shape (examples,); each part of a divided file has its share of each stratum.
        counts: How often each class occurs, given the labels and the number of classes.
        score: All metrics of the predictions, given the labels.
        classes: How well each class is predicted, given the predictions, the labels and their names.
        weighted: Whether classes can have weights.
        words: Whether there is an output for each word of a text, rather than one for the whole.
        models: The transformers classes that load models of this kind; the first that knows the configuration is used.
    """

    name: KindName
    problem: ProblemType | None
    said: Callable[[Sequence[str]], str]
    metrics: Callable[[Sequence[str]], tuple[str, ...]]
    constants: Callable[[np.ndarray], Sequence[Any]]
    loss: Callable[[TaskLike], Loss]
    log_prob: Callable[[Tensor, Tensor, TaskLike], Tensor]
    expected: Callable[[Tensor, TaskLike], Iterator[Tensor]]
    draw: Callable[[Tensor, TaskLike, Generators, int], Iterator[Tensor]]
    decide: Callable[[np.ndarray, TaskLike], np.ndarray]
    answer: Callable[[np.ndarray, Any, TaskLike, Any], dict[str, Any]]
    named: bool = True
    width: int = 1
    dtype: type[np.generic] = np.int64
    read: Callable[[Rows, str, Reading], Labels] = one
    pack: Callable[[Sequence[Sequence[int]], int], np.ndarray] = lambda rows, _: np.array([own[0] for own in rows])
    strata: Callable[[np.ndarray], np.ndarray] = np.asarray
    counts: Callable[[np.ndarray, int], np.ndarray] = lambda labels, classes: np.bincount(labels, minlength=classes)
    score: Callable[[np.ndarray, np.ndarray, TaskLike], dict[str, float]] = score
    classes: Callable[[np.ndarray, np.ndarray, Sequence[str]], list[ClassScore]] = classification_report
    weighted: bool = False
    words: bool = False
    models: tuple[str, ...] = ("AutoModelForSequenceClassification", "AutoModelForImageClassification")

    def outputs(self, labels: Sequence[str]) -> int:
        """Width of the head."""
        return len(labels) if self.named else self.width
