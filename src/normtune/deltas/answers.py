"""Answers for texts: labels and probabilities, or numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from normtune.config import Strict
from normtune.data.task import Split, Task
from normtune.deltas.delta import Delta
from normtune.errors import DataError
from normtune.evaluation import decide, logits, probabilities
from normtune.models.base import Base

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

    @classmethod
    def of(cls, outputs: np.ndarray, task: Task) -> Prediction:
        """The answer of `task` that the outputs of its head, a float32 vector, stand for.

        Raises:
            AnswerError: If an output is not finite.
        """
        (best,) = decide(outputs[None], task)
        if task.kind == "regression":
            return cls(value=float(best))
        shares = probabilities(outputs[None])[0].tolist()
        return cls(label=task.labels[best], probabilities=dict(zip(task.labels, shares, strict=True)))


class Predictor:
    """A base model that carries a delta and answers.

    Use it as a context manager, or call `close`, to take the delta off again.

    Args:
        base: The delta's base model; it carries the delta until `close`.
        delta: The delta.

    Raises:
        DeltaError: If `base` is another model, or carries a delta already.
    """

    def __init__(self, base: Base, delta: Delta) -> None:
        self._base, self.delta = base, delta
        self._applied = delta.apply(base)
        self.task = delta.info.as_task
        #: How many of the texts answered so far were cut to the delta's limit of tokens.
        self.truncated = 0

    def predict(self, texts: Sequence[Text], places: Sequence[str] = ()) -> list[Prediction]:
        """The answers for `texts`, in their order.

        Args:
            texts: Texts, or pairs of texts where the task reads pairs.
            places: Where each of them is, for messages.

        Returns:
            One prediction a text.

        Raises:
            DataError: If there are no texts, one is empty, or the task reads pairs and these are none (or the reverse).
        """
        split = replace(examples(listed(texts), self.task), places=places)
        encoded = self._base.encode(split, self.delta.info.max_length)
        self.truncated += encoded.truncated
        return [Prediction.of(outputs, self.task) for outputs in logits(self._base, encoded)]

    def close(self) -> None:
        """Take the delta off; the base is as it was before, to the bit."""
        self._applied.remove()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def examples(texts: Sequence[Text], task: Task) -> Split:
    """Texts as examples of `task`.

    Raises:
        DataError: If the task reads pairs and these are none, or the reverse.
    """
    for text in texts:
        if not (_is_pair(text) if task.pair else isinstance(text, str)):
            wanted = "pairs of texts" if task.pair else "single texts"
            raise DataError(f"The task {task.name!r} reads {wanted}, not {reprlib.repr(text)}.")
    if not task.pair:
        return Split.of_texts(str(text) for text in texts)
    return Split.of_texts((text[0] for text in texts), (text[1] for text in texts))


def _is_pair(text: object) -> bool:
    return isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text)


def listed(texts: Iterable[Text]) -> list[Text]:
    """Several texts as a list.

    Raises:
        DataError: If it is a single text, or none.
    """
    if texts is None or isinstance(texts, str):
        raise DataError(f"Give a list of texts, such as ['a text'], not {reprlib.repr(texts)}.")
    return list(texts)
