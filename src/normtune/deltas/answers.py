"""Answers for texts or pictures: labels and probabilities, or numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from normtune.config import Strict
from normtune.data.images import Picture
from normtune.data.task import PAIR, PICTURE, SENTENCE, TEXT, Split, Task
from normtune.deltas.delta import Delta
from normtune.errors import DataError
from normtune.evaluation import decide, logits
from normtune.models.base import Base

#: A text, a text and its pair, or a picture.
Text = str | tuple[str, str] | Picture


class Span(Strict):
    """Words of a text that belong together.

    Attributes:
        type: What they are.
        start: Position of the first word, from 0.
        end: Position after the last word.
        text: The words.
    """

    type: str
    start: int
    end: int
    text: str


class Prediction(Strict):
    """The answer for one text or picture.

    Attributes:
        label: The most probable label, where exactly one of several applies.
        labels: The labels that apply, where any number may.
        spans: The marked spans, where words have tags.
        probabilities: Probability by label, where a text as a whole has labels.
        value: The number, for regression.
        log_likelihood: For a language model, the mean over the text's tokens.
        perplexity: For a language model, the perplexity of the text.
    """

    label: str | None = None
    labels: list[str] | None = Field(default=None, exclude_if=lambda value: value is None)
    spans: list[Span] | None = Field(default=None, exclude_if=lambda value: value is None)
    probabilities: dict[str, float] | None = None
    value: float | None = None
    log_likelihood: float | None = Field(default=None, exclude_if=lambda value: value is None)
    perplexity: float | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def of(cls, outputs: np.ndarray, task: Task, text: Text = "") -> Prediction:
        """The answer of `task` from the outputs of its head: a float32 vector, or one for each tagged word.

        Raises:
            AnswerError: If an output is not finite.
        """
        (best,) = decide(outputs[None], task)
        return cls(**task.asks.answer(outputs, best, task, text))


class Predictor:
    """A base model that carries a delta and answers.

    Use it as a context manager, or call `close`, to take the delta off again.

    Args:
        base: The delta's base model; it carries the delta until `close`.
        delta: The delta.

    Raises:
        DeltaError: If `base` is another model, or carries a delta already.
        ModelError: If `base` is a wrapped language model.
    """

    def __init__(self, base: Base, delta: Delta) -> None:
        base.need_answers()
        self._base, self.delta = base, delta
        self._applied = delta.apply(base)
        self.task = delta.info.as_task
        #: How many of the texts answered so far were cut to the delta's limit of tokens.
        self.truncated = 0

    def predict(self, texts: Sequence[Text], places: Sequence[str] = ()) -> list[Prediction]:
        """The answers for `texts` (pairs or pictures where the task reads those), in their order.

        `places` say where each text comes from, for messages.

        Raises:
            DataError: If there are no texts, one is empty or unreadable, or the task reads another kind of input.
        """
        texts = listed(texts)
        split = replace(examples(texts, self.task), places=places)
        encoded = self._base.encode(split, self.delta.info.max_length)
        self.truncated += encoded.truncated
        outputs = map(encoded.own, logits(self._base, encoded), range(len(encoded)))
        return [Prediction.of(own, self.task, text) for own, text in zip(outputs, texts, strict=True)]

    def close(self) -> None:
        """Take the delta off; the base is as it was before, to the bit."""
        self._applied.remove()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def examples(texts: Sequence[Text], task: Task) -> Split:
    """Texts or pictures as examples of `task`.

    Raises:
        DataError: If the task reads another kind of input.
    """
    wanted, fits = _WANTED.get(task.inputs, _WANTED[TEXT])
    for text in texts:
        if not fits(text):
            raise DataError(f"The task {task.name!r} reads {wanted}, not {reprlib.repr(text)}.")
    if task.inputs == PICTURE:
        return Split({"picture": tuple(texts)})
    if task.inputs == SENTENCE:
        return Split({"sentence": tuple(map(str, texts))})
    if not task.pair:
        return Split.of_texts(str(text) for text in texts)
    pairs = [text for text in texts if isinstance(text, tuple | list)]
    return Split.of_texts((first for first, _ in pairs), (second for _, second in pairs))


def _is_pair(text: object) -> bool:
    return isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text)


#: By inputs of a task, what it reads and a check for it. A string is never a path: it may come from a stranger.
_WANTED: dict[tuple[str, ...], tuple[str, Callable[[object], bool]]] = {
    TEXT: ("single texts", lambda text: isinstance(text, str)),
    SENTENCE: ("texts with a blank between words", lambda text: isinstance(text, str)),
    PAIR: ("pairs of texts", _is_pair),
    PICTURE: ("pictures", lambda text: isinstance(text, Picture)),
}


def listed(texts: Iterable[Text]) -> list[Text]:
    """Several texts as a list.

    Raises:
        DataError: If it is a single text or picture, or None.
    """
    if texts is None or isinstance(texts, str | Picture):
        raise DataError(f"Give a list of texts, such as ['a text'], not {reprlib.repr(texts)}.")
    return list(texts)
