"""The three estimators of Fisher information, as log-likelihoods to differentiate.

Each gives numbers, one a pass, whose squared per-example gradients add up to the estimate:

- ``empirical``: log p(y | x) with the true label, the paper's equation 2;
- ``exact``: the expectation over the model's own labels, as the square root of p(y | x) times log p(y | x) for every y,
  and for regression, a Gaussian of unit variance, the prediction itself;
- ``monte-carlo``: log p(y | x) of labels drawn from the model, which converges to ``exact``.

Kunstner et al. (2019, "Limitations of the empirical Fisher approximation") tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from normtune.data.task import Task
from normtune.records.fisher import Estimator


def passes(
    estimator: Estimator, outputs: Tensor, task: Task, labels: Tensor | None, numbers: Sequence[int]
) -> Iterator[Tensor]:
    """What to differentiate, pass by pass.

    Args:
        estimator: Which labels the gradients are taken at.
        outputs: The head's outputs, of shape (B, outputs), with their graph.
        task: Says what they mean.
        labels: The true labels of these examples, of shape (B,), where the estimator needs them.
        numbers: Numbers of these examples in the data, which seed the draws.

    Yields:
        For each pass one number an example, of shape (B,).
    """
    known: Normal | Categorical
    if task.kind == "regression":
        known = Normal(outputs[:, 0] * task.scale + task.center, 1.0, validate_args=False)
    else:
        known = Categorical(logits=outputs, validate_args=False)
    log_prob: Callable[[Tensor], Tensor] = known.log_prob  # torch leaves it untyped
    if estimator.name == "empirical":
        assert labels is not None
        yield log_prob(labels.to(outputs.dtype) if isinstance(known, Normal) else labels)
    elif estimator.name == "monte-carlo":
        for drawn in _drawn(estimator, known, numbers).T:
            yield log_prob(drawn) / estimator.samples**0.5
    elif isinstance(known, Normal):
        yield known.mean
    else:
        roots = known.probs.detach().sqrt()
        for label in range(outputs.shape[1]):
            yield roots[:, label] * known.logits[:, label]


def _drawn(estimator: Estimator, known: Normal | Categorical, numbers: Sequence[int]) -> Tensor:
    """Labels drawn from the model, of shape (B, samples), each example's by a generator of its own."""
    generators = [np.random.default_rng([estimator.seed, number]) for number in numbers]
    if isinstance(known, Normal):
        noise = np.array([own.standard_normal(estimator.samples) for own in generators])
        return known.mean.detach()[:, None] + torch.from_numpy(noise).to(known.mean)
    uniform = torch.from_numpy(np.array([own.random(estimator.samples) for own in generators]))
    below = known.logits.detach().double().exp().cumsum(1)
    return torch.searchsorted(below, uniform.to(below.device)).clamp(max=below.shape[1] - 1)
