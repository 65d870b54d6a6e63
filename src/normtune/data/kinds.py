"""The kinds of tasks: one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from normtune.data.kind import Generators, Kind, KindName, Loss, TaskLike
from normtune.data.language import LANGUAGE
from normtune.data.multilabel import MULTILABEL
from normtune.data.tokens import TOKENS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Categorical, Normal

# One label of several.


def _categorical(outputs: Tensor) -> Categorical:
    from torch.distributions import Categorical

    return Categorical(logits=outputs, validate_args=False)


def _entropy(task: TaskLike) -> Loss:
    """Cross entropy with the task's class weights."""
    import torch

    weights = None if task.weights is None else torch.tensor(task.weights)

    def entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(outputs.device, outputs.dtype)
        return torch.nn.functional.cross_entropy(outputs, labels, weight=weight)

    return entropy


def _classes_expected(outputs: Tensor, _: TaskLike) -> Iterator[Tensor]:
    known = _categorical(outputs)
    roots = known.probs.detach().sqrt()
    for label in range(outputs.shape[1]):
        yield roots[:, label] * known.logits[:, label]


def _drawn_classes(outputs: Tensor, _: TaskLike, generators: Generators, samples: int) -> Iterator[Tensor]:
    import torch

    uniform = torch.from_numpy(np.array([own.random(samples) for own in generators]))
    below = _categorical(outputs).logits.detach().double().exp().cumsum(1)
    yield from torch.searchsorted(below, uniform.to(below.device)).clamp(max=below.shape[1] - 1).T


def _label(outputs: np.ndarray, decided: Any, task: TaskLike, _: Any) -> dict[str, Any]:
    import torch

    shares = torch.from_numpy(outputs).double().softmax(0).tolist()
    return {"label": task.labels[decided], "probabilities": dict(zip(task.labels, shares, strict=True))}


_CLASSIFICATION = Kind(
    name="classification",
    problem="single_label_classification",
    said=lambda labels: f"It answers one of: {', '.join(labels)}.",
    metrics=lambda labels: ("accuracy", "macro_f1", *(("f1", "matthews") if len(labels) == 2 else ())),
    constants=lambda labels: [*np.unique(labels)],
    loss=_entropy,
    log_prob=lambda outputs, labels, _: _categorical(outputs).log_prob(labels),
    expected=_classes_expected,
    draw=_drawn_classes,
    decide=lambda outputs, _: np.asarray(outputs.argmax(axis=1)),
    answer=_label,
    weighted=True,
)

# One number: a Gaussian of unit variance on the target's own scale.


def _normal(outputs: Tensor, task: TaskLike) -> Normal:
    from torch.distributions import Normal

    return Normal(outputs[:, 0] * task.scale + task.center, 1.0, validate_args=False)


def _squared(task: TaskLike) -> Loss:
    """The mean squared error on standardised targets, or on raw targets if the task has no scale."""
    import torch

    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(outputs[:, 0], ((labels - task.center) / task.scale).to(outputs.dtype))

    return squared


def _drawn_numbers(outputs: Tensor, task: TaskLike, generators: Generators, samples: int) -> Iterator[Tensor]:
    import torch

    mean = _normal(outputs, task).mean.detach()
    noise = torch.from_numpy(np.array([own.standard_normal(samples) for own in generators]))
    yield from (mean[:, None] + noise.to(mean)).T


_REGRESSION = Kind(
    name="regression",
    problem="regression",
    said=lambda _: "It answers a number.",
    metrics=lambda _: ("spearman", "pearson", "mse"),
    constants=lambda labels: [labels.mean()],
    loss=_squared,
    log_prob=lambda outputs, labels, task: _normal(outputs, task).log_prob(labels.to(outputs.dtype)),
    expected=lambda outputs, task: iter([_normal(outputs, task).mean]),
    draw=_drawn_numbers,
    decide=lambda outputs, task: outputs[:, 0].astype(np.float64) * task.scale + task.center,
    answer=lambda _, decided, *__: {"value": float(decided)},
    named=False,
    dtype=np.float64,
    strata=lambda labels: np.zeros(len(labels), dtype=np.int64),
    counts=lambda _, __: np.zeros(0, dtype=np.int64),
    classes=lambda *_: [],
)

_ALL = (_CLASSIFICATION, _REGRESSION, MULTILABEL, TOKENS, LANGUAGE)
KINDS: Mapping[KindName, Kind] = {kind.name: kind for kind in _ALL}


def kind_of(model: str, problem: str | None) -> Kind:
    """The kind of task that a model answers, from the name of its transformers class and its ``problem_type``."""
    fitting = [kind for kind in KINDS.values() if any(own.removeprefix("AutoModel") in model for own in kind.models)]
    return next((kind for kind in fitting if kind.problem == problem), (*fitting, _CLASSIFICATION)[0])
