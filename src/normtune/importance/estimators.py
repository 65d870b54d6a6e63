"""The three estimators of Fisher information, as log-likelihoods to differentiate.

Each gives numbers, one a pass, whose squared per-example gradients add up to the estimate:

- ``empirical``: log p(y | x) with the true label, the paper's equation 2;
- ``exact``: the expectation over the model's own labels, as the square root of p(y | x) times log p(y | x) for every y,
  and for regression, a Gaussian of unit variance, the prediction itself;
- ``monte-carlo``: log p(y | x) of labels drawn from the model, which converges to ``exact``.

Kunstner et al. (2019, "Limitations of the empirical Fisher approximation") tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

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
    if task.kind == "regression":
        predicted = outputs[:, 0] * task.scale + task.center
        yield from _numbers(estimator, predicted, labels, numbers)
        return
    log_p = outputs.log_softmax(1)
    if estimator.name == "empirical":
        assert labels is not None
        yield log_p.gather(1, labels[:, None])[:, 0]
    elif estimator.name == "exact":
        roots = log_p.detach().exp().sqrt()
        for label in range(outputs.shape[1]):
            yield roots[:, label] * log_p[:, label]
    else:
        drawn = _labels(estimator, log_p.detach(), numbers)
        for pick in drawn.T:
            yield log_p.gather(1, pick[:, None])[:, 0] / estimator.samples**0.5


def _numbers(
    estimator: Estimator, predicted: Tensor, labels: Tensor | None, numbers: Sequence[int]
) -> Iterator[Tensor]:
    if estimator.name == "exact":
        yield predicted
    elif estimator.name == "empirical":
        assert labels is not None
        yield -((labels.to(predicted.dtype) - predicted) ** 2) / 2
    else:
        noise = np.array([
            np.random.default_rng([estimator.seed, n]).standard_normal(estimator.samples) for n in numbers
        ])
        for column in torch.from_numpy(noise).to(predicted).T:
            # d/dw of -(y - f)^2 / 2 is (y - f) df/dw, and y - f is the noise itself.
            yield column * predicted / estimator.samples**0.5


def _labels(estimator: Estimator, log_p: Tensor, numbers: Sequence[int]) -> Tensor:
    """Labels drawn from the model, of shape (B, samples), by inverting the distribution function."""
    uniform = np.array([np.random.default_rng([estimator.seed, n]).random(estimator.samples) for n in numbers])
    below = log_p.double().exp().cumsum(1)
    drawn = torch.searchsorted(below, torch.from_numpy(uniform).to(below.device))
    return drawn.clamp(max=log_p.shape[1] - 1)
