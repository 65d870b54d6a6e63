"""The kinds of tasks: one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from normtune.data.kind import Generators, Kind, KindName, Loss, TaskLike
from normtune.data.labels import several
from normtune.data.tokens import TOKENS
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Categorical, Normal

#: Fields of the kinds without labels.
_UNNAMED: dict[str, Any] = {
    "named": False,
    "dtype": np.float64,
    "strata": lambda labels: np.zeros(len(labels), dtype=np.int64),
    "counts": lambda _, __: np.zeros(0, dtype=np.int64),
    "classes": lambda *_: [],
}

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
    **_UNNAMED,
)

# Several labels an example, each of which applies or not: one sigmoid a label, and binary cross entropy.


def _ones(rows: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Ones where a label applies: of shape (examples, labels)."""
    labels = np.zeros((len(rows), classes), dtype=np.int64)
    for own, numbers in zip(labels, rows, strict=True):
        own[[*numbers]] = 1
    return labels


def _rarest_label(labels: np.ndarray) -> np.ndarray:
    """The rarest label of each example, or the number of labels where none applies."""
    found: np.ndarray = np.where(labels > 0, labels.sum(axis=0), len(labels) + 1).argmin(axis=1)
    found[~labels.any(axis=1)] = labels.shape[1]
    return found


def _commonest(labels: np.ndarray) -> list[np.ndarray]:
    """No label, the commonest, the two commonest, up to all; no other set of the same size is right more often."""
    order = (-labels.mean(axis=0)).argsort(kind="stable")
    return [np.isin(np.arange(len(order)), order[:many]).astype(np.int64) for many in range(len(order) + 1)]


def _binary_entropy(_: TaskLike) -> Loss:
    """The mean over examples and labels, as in transformers."""
    import torch

    return lambda outputs, labels: torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, labels.to(outputs.dtype)
    )


def _labels_log_prob(outputs: Tensor, labels: Tensor, _: TaskLike) -> Tensor:
    import torch

    found: Tensor = (2 * labels - 1) * outputs
    return torch.nn.functional.logsigmoid(found).sum(dim=1)


def _labels_expected(outputs: Tensor, _: TaskLike) -> Iterator[Tensor]:
    # The gradient of log p at label l is (y_l - p_l) dz_l. The labels are independent, so cross terms vanish.
    shares = outputs.detach().sigmoid()
    roots = (shares * (1 - shares)).sqrt()
    for label in range(outputs.shape[1]):
        yield roots[:, label] * outputs[:, label]


def _drawn_labels(outputs: Tensor, _: TaskLike, generators: Generators, samples: int) -> Iterator[Tensor]:
    import torch

    shares = outputs.detach().double().sigmoid().cpu().numpy()
    uniform = np.array([own.random((samples, outputs.shape[1])) for own in generators])
    for number in range(samples):
        yield torch.from_numpy((uniform[:, number] < shares).astype(np.int64)).to(outputs.device)


def _labels(outputs: np.ndarray, decided: Any, task: TaskLike, _: Any) -> dict[str, Any]:
    import torch

    shares = torch.from_numpy(outputs).double().sigmoid().tolist()
    return {
        "labels": [name for name, applies in zip(task.labels, decided, strict=True) if applies],
        "probabilities": dict(zip(task.labels, shares, strict=True)),
    }


_MULTILABEL = Kind(
    name="multilabel",
    problem="multi_label_classification",
    said=lambda labels: f"It answers any of: {', '.join(labels)}.",
    metrics=lambda _: ("micro_f1", "macro_f1", "accuracy"),
    constants=_commonest,
    loss=_binary_entropy,
    log_prob=_labels_log_prob,
    expected=_labels_expected,
    draw=_drawn_labels,
    decide=lambda outputs, _: (outputs > 0).astype(np.int64),  # a probability above one half
    answer=_labels,
    read=several,
    pack=_ones,
    strata=_rarest_label,
    counts=lambda labels, _: labels.sum(axis=0),
)

# The likelihood of the text itself. A text has two outputs: the sum of its tokens' log-likelihoods, and the number of
# these tokens (`normtune.models.language`).


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


_LANGUAGE = Kind(
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
    width=2,
    score=lambda decided, _, __: _per_token(decided),
    models=("AutoModelForCausalLM", "AutoModelForMaskedLM"),
    **_UNNAMED,
)

_ALL = (_CLASSIFICATION, _REGRESSION, _MULTILABEL, TOKENS, _LANGUAGE)
KINDS: Mapping[KindName, Kind] = {kind.name: kind for kind in _ALL}


def kind_of(model: str, problem: str | None) -> Kind:
    """The kind of task that a model answers, from the name of its transformers class and its ``problem_type``."""
    fitting = [kind for kind in KINDS.values() if any(own.removeprefix("AutoModel") in model for own in kind.models)]
    return next((kind for kind in fitting if kind.problem == problem), (*fitting, _CLASSIFICATION)[0])
