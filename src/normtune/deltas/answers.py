"""What a task answers for texts: labels and probabilities, or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from normtune.config import Strict
from normtune.data.task import Split, Task
from normtune.errors import DataError
from normtune.evaluation import decide, probabilities

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
        return Split.of_texts(str(text) for text in texts)
    return Split.of_texts((text[0] for text in texts), (text[1] for text in texts))


def predictions(outputs: Sequence[np.ndarray], tasks: Sequence[Task]) -> list[Prediction]:
    """What outputs of heads say.

    Args:
        outputs: For each text its head's outputs, a float32 vector.
        tasks: For each text its task.

    Returns:
        One prediction a text.
    """
    alike: dict[int, list[int]] = {}
    for number, task in enumerate(tasks):
        alike.setdefault(len(task.labels), []).append(number)
    answers: dict[int, Prediction] = {}
    for width, numbers in alike.items():
        block = np.stack([outputs[number] for number in numbers])
        some = [tasks[number] for number in numbers]
        answers.update(zip(numbers, _chosen(block, some) if width else _numbers(block, some), strict=True))
    return [answers[number] for number in range(len(tasks))]


def _chosen(outputs: np.ndarray, tasks: Sequence[Task]) -> Iterator[Prediction]:
    shares = probabilities(outputs).tolist()
    for best, row, task in zip(outputs.argmax(axis=1), shares, tasks, strict=True):
        yield Prediction(label=task.labels[int(best)], probabilities=dict(zip(task.labels, row, strict=True)))


def _numbers(outputs: np.ndarray, tasks: Sequence[Task]) -> Iterator[Prediction]:
    for row, task in zip(outputs, tasks, strict=True):
        yield Prediction(value=float(decide(row[None], task)[0]))
