"""Language modelling: the likelihood of the text itself, without labels.

A text has two outputs: the sum of its tokens' log-likelihoods, and the number of these tokens
(`normtune.models.language`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from normtune.data.kind import Kind, Loss, TaskLike
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def _unlikely(_: TaskLike) -> Loss:
    """The mean negative log-likelihood of the tokens of a batch, as in transformers."""

    def unlikely(outputs: Tensor, _: Tensor) -> Tensor:
        return -outputs[:, 0].sum() / outputs[:, 1].sum()

    return unlikely


def _no_labels(*_: object) -> NoReturn:
    raise ConfigError("A language model has no labels of its own to draw; take the empirical Fisher information.")


def _per_token(decided: np.ndarray) -> dict[str, float]:
    """The mean log-likelihood of the tokens of some texts, and their perplexity, at most exp(700)."""
    mean = float(decided[..., 0].sum() / decided[..., 1].sum())
    return {"log_likelihood": mean, "perplexity": float(np.exp(min(-mean, 700.0)))}


LANGUAGE = Kind(
    name="language",
    problem=None,
    said=lambda _: "It is a language model, which gives the likelihood of texts.",
    metrics=lambda _: ("log_likelihood", "perplexity"),
    constants=lambda _: [],
    loss=_unlikely,
    log_prob=lambda outputs, _, __: outputs[:, 0],
    expected=_no_labels,
    draw=_no_labels,
    decide=lambda outputs, _: outputs.astype(np.float64),
    answer=lambda _, decided, *__: _per_token(decided),
    named=False,
    width=2,
    dtype=np.float64,
    strata=lambda labels: np.zeros(len(labels), dtype=np.int64),
    counts=lambda _, __: np.zeros(0, dtype=np.int64),
    score=lambda decided, _, __: _per_token(decided),
    classes=lambda *_: [],
    models=("AutoModelForCausalLM", "AutoModelForMaskedLM"),
)
