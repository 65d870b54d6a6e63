"""What a task answers for texts: labels and probabilities, or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normtune.config import Strict
from normtune.errors import DataError
from normtune.evaluation import decide, probabilities
from normtune.tasks.task import Split, Task

#: A text, or a text and its pair.
Text = str | tuple[str, str]


class Prediction(Strict):
    """The answer for one text.

    Attributes:
        label: The most probable label, or None for regression.
        probabilities: Probability by label, or None for regression.
        value: The number, or None for classification.
    """

    label: str | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None


def examples(texts: Sequence[Text], task: Task) -> Split:
    """Texts as examples of `task`.

    Raises:
        DataError: If pairs are given where the task reads single texts, or the other way round.
    """
    if any((not isinstance(text, str)) != task.pair for text in texts):
        wanted = "pairs of texts" if task.pair else "single texts"
        raise DataError(f"The task {task.name!r} reads {wanted}.")
    if not task.pair:
        return Split(tuple(str(text) for text in texts))
    return Split(tuple(text[0] for text in texts), tuple(text[1] for text in texts))


def predictions(outputs: np.ndarray, task: Task) -> list[Prediction]:
    """What the head's outputs, float32 of shape (examples, outputs), say of `task`: one prediction an example."""
    decided = decide(outputs, task)
    if task.kind == "regression":
        return [Prediction(value=float(value)) for value in decided]
    labels = task.labels
    return [
        Prediction(label=labels[int(best)], probabilities=dict(zip(labels, map(float, row), strict=True)))
        for best, row in zip(decided, probabilities(outputs), strict=True)
    ]
