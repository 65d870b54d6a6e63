"""Answers of a delta for texts."""

from __future__ import annotations

from collections.abc import Sequence

from normtune.config import Strict
from normtune.deltas.delta import Delta
from normtune.errors import DataError
from normtune.evaluation import decide, logits, probabilities
from normtune.execution.batching import encode
from normtune.models.base import Base
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
        self.task = task_of(delta)
        #: How many of the texts answered so far were longer than the delta's limit and were cut.
        self.truncated = 0

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """The answers for `texts`, in their order.

        Args:
            texts: Texts, or pairs of texts where the task reads pairs.

        Returns:
            One prediction a text.

        Raises:
            DataError: If there are none, one is empty, or pairs are given where the task reads single texts or the
                other way round.
        """
        encoded = encode(self._split(texts), self._base.need_tokenizer(), self.delta.info.max_length)
        self.truncated += encoded.truncated
        outputs = logits(self._base, encoded)
        decided = decide(outputs, self.task)
        if self.task.kind == "regression":
            return [Prediction(value=float(value)) for value in decided]
        labels = self.task.labels
        return [
            Prediction(label=labels[int(best)], probabilities=dict(zip(labels, map(float, row), strict=True)))
            for best, row in zip(decided, probabilities(outputs), strict=True)
        ]

    def close(self) -> None:
        """Take the delta off; the base is as it was before, to the bit."""
        self._applied.remove()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _split(self, texts: Sequence[Text]) -> Split:
        paired = [not isinstance(text, str) for text in texts]
        if any(pair != self.task.pair for pair in paired):
            wanted = "pairs of texts" if self.task.pair else "single texts"
            raise DataError(f"The task {self.task.name!r} reads {wanted}.")
        if not self.task.pair:
            return Split(tuple(str(text) for text in texts))
        return Split(tuple(text[0] for text in texts), tuple(text[1] for text in texts))


def task_of(delta: Delta) -> Task:
    """The task that a delta answers, as far as the delta itself knows it."""
    info = delta.info
    classes = ("accuracy", "macro_f1")
    return Task(
        name=info.task,
        title=info.task,
        kind=info.kind,
        labels=info.labels,
        metrics=("spearman", "pearson") if info.kind == "regression" else classes,
        pair=info.pair,
        center=info.center,
        scale=info.scale,
    )
