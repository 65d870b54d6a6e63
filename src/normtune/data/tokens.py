"""A tag for each word (IOB2), to mark spans such as names: softmax and cross entropy over the words.

A word's outputs are those of its first piece, as in Devlin et al. (2019, section 5.3). Outputs are of shape (B, words,
tags), and zero where a text has fewer words; labels there are `NONE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normtune.data.kind import Generators, Kind, Loss, TaskLike
from normtune.data.labels import tags
from normtune.data.metrics import ClassScore

if TYPE_CHECKING:
    from torch import Tensor

#: The label where there is no word, or the word was cut off.
NONE = -100

#: The type of a span, its first word, and the word after its last.
Span = tuple[str, int, int]


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans that tags mark, in their order, as conlleval and the default mode of seqeval count them.

    A span begins at ``B-TYPE``, and at an ``I-TYPE`` that does not continue a span of this type.
    """
    found: list[Span] = []
    begun: tuple[str, int] | None = None
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if begun is not None and (prefix != "I" or kind != begun[0]):
            found.append((*begun, place))
            begun = None
        if begun is None and prefix != "O":
            begun = kind, place
    return found


def _pack(rows: Sequence[Sequence[int]], _: int) -> np.ndarray:
    labels = np.full((len(rows), max(map(len, rows))), NONE, dtype=np.int64)
    for own, numbers in zip(labels, rows, strict=True):
        own[: len(numbers)] = numbers
    return labels


def _rarest(labels: np.ndarray) -> np.ndarray:
    """The rarest tag of each text."""
    counts = np.bincount(labels[labels >= 0])
    return np.array([min(own[own >= 0], key=lambda tag: (counts[tag], tag)) for own in labels])


def _log_prob(outputs: Tensor, labels: Tensor, _: TaskLike) -> Tensor:
    labels = labels[:, : outputs.shape[1]]
    each = outputs.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (each * (labels >= 0)).sum(dim=1)


def _loss(_: TaskLike) -> Loss:
    """The mean over the words of the batch."""
    import torch

    return lambda outputs, labels: torch.nn.functional.cross_entropy(
        outputs.flatten(0, 1), labels[:, : outputs.shape[1]].flatten(), ignore_index=NONE
    )


def _expected(outputs: Tensor, _: TaskLike) -> Iterator[Tensor]:
    # The tags of the words are independent given the text, so the expectations of single words add up.
    log_p = outputs.log_softmax(-1)
    roots = log_p.detach().exp().sqrt()
    for word in range(outputs.shape[1]):
        for tag in range(outputs.shape[2]):
            yield roots[:, word, tag] * log_p[:, word, tag]


def _drawn(outputs: Tensor, _: TaskLike, generators: Generators, samples: int) -> Iterator[Tensor]:
    import torch

    below = outputs.detach().double().softmax(-1).cumsum(-1)
    # Word by word, so that what is drawn for a word does not depend on how many follow.
    uniform = torch.from_numpy(np.array([own.random((outputs.shape[1], samples)) for own in generators]))
    drawn = torch.searchsorted(below, uniform.to(below.device)).clamp(max=outputs.shape[2] - 1)
    yield from drawn.permute(2, 0, 1)


def _marked(numbers: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> set[tuple[int, Span]]:
    """The spans of all texts, each with the number of its text; words without a label are left out."""
    known = [own[: len(numbers[row])] for row, own in enumerate(labels)]
    found = (
        (row, span)
        for row, own in enumerate(known)
        for span in spans([names[tag] for tag in numbers[row][: len(own)][own >= 0]])
    )
    return set(found)


def _f1(hits: int, guessed: int, true: int) -> tuple[float, float, float]:
    """Precision, recall and F1; zero where one is undefined."""
    return hits / guessed if guessed else 0.0, hits / true if true else 0.0, 2 * hits / ((guessed + true) or 1)


def _score(decided: np.ndarray, labels: np.ndarray, task: TaskLike) -> dict[str, float]:
    guessed, true = _marked(decided, labels, task.labels), _marked(labels, labels, task.labels)
    precision, recall, f1 = _f1(len(guessed & true), len(guessed), len(true))
    known = labels[:, : decided.shape[1]] >= 0
    right = (decided == labels[:, : decided.shape[1]])[known]
    every = {"span_f1": f1, "span_precision": precision, "span_recall": recall, "accuracy": float(right.mean())}
    return {name: every[name] for name in task.metrics}


def _classes(decided: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[ClassScore]:
    """The scores of each type of span."""
    guessed, true = _marked(decided, labels, names), _marked(labels, labels, names)
    found = []
    for kind in sorted({name.partition("-")[2] for name in names} - {""}):
        mine, theirs = ({span for span in spans if span[1][0] == kind} for spans in (guessed, true))
        found.append(ClassScore(kind, *_f1(len(mine & theirs), len(mine), len(theirs)), len(theirs)))
    return found


def _answer(_: np.ndarray, decided: Any, task: TaskLike, text: str) -> dict[str, Any]:
    words, marked = text.split(), spans([task.labels[tag] for tag in decided])
    return {
        "spans": [
            {"type": kind, "start": start, "end": end, "text": " ".join(words[start:end])}
            for kind, start, end in marked
        ]
    }


TOKENS = Kind(
    name="tokens",
    problem=None,
    said=lambda labels: f"It marks spans: {', '.join(sorted({name.partition('-')[2] for name in labels} - {''}))}.",
    metrics=lambda _: ("span_f1", "span_precision", "span_recall", "accuracy"),
    constants=lambda labels: [*np.unique(labels[labels >= 0])],
    loss=_loss,
    log_prob=_log_prob,
    expected=_expected,
    draw=_drawn,
    decide=lambda outputs, _: np.asarray(outputs.argmax(axis=-1)),
    answer=_answer,
    read=tags,
    pack=_pack,
    strata=_rarest,
    counts=lambda labels, classes: np.bincount(labels[labels >= 0], minlength=classes),
    score=_score,
    classes=_classes,
    models=("AutoModelForTokenClassification",),
    words=True,
)
