"""Answers of a delta for texts."""

from __future__ import annotations

from collections.abc import Sequence

from normtune.data.encode import encode
from normtune.deltas.answering import task_of
from normtune.deltas.answers import Prediction as Prediction
from normtune.deltas.answers import Text as Text
from normtune.deltas.answers import examples, predictions
from normtune.deltas.delta import Delta
from normtune.evaluation import logits
from normtune.models.base import Base


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
        encoded = encode(examples(texts, self.task), self._base.need_tokenizer(), self.delta.info.max_length)
        self.truncated += encoded.truncated
        return predictions(list(logits(self._base, encoded)), [self.task] * len(texts))

    def close(self) -> None:
        """Take the delta off; the base is as it was before, to the bit."""
        self._applied.remove()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
