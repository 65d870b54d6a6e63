"""The three estimators of Fisher information, as log-likelihoods to differentiate.

Each gives one number per example and pass; the squared per-example gradients of these add up to the estimate:

- ``empirical``: log p(y | x) with the true label, the paper's equation 2;
- ``exact``: the expectation over the model's own labels, as the square root of p(y | x) times log p(y | x) for every y,
  and for regression (a Gaussian of unit variance) the prediction itself;
- ``monte-carlo``: log p(y | x) of labels drawn from the model, which converges to ``exact``.

Kunstner et al. (2019, "Limitations of the empirical Fisher approximation") compare them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from normtune.data.task import Task
from normtune.records.fisher import Estimator


def passes(
    estimator: Estimator, outputs: Tensor, task: Task, labels: Tensor | None, numbers: Sequence[int]
) -> Iterator[Tensor]:
    """What to differentiate, pass by pass.

    Args:
        estimator: Which labels the gradients are taken for.
        outputs: The head's outputs, of shape (B, outputs) or (B, words, outputs), with their graph.
        task: Says what the outputs mean.
        labels: The true labels, where the estimator needs them.
        numbers: Numbers of these examples in the data, which seed the draws.

    Yields:
        For each pass one number per example, of shape (B,).
    """
    kind = task.asks
    if estimator.name == "empirical":
        assert labels is not None
        yield kind.log_prob(outputs, labels, task)
    elif estimator.name == "monte-carlo":
        generators = [np.random.default_rng([estimator.seed, number]) for number in numbers]
        for drawn in kind.draw(outputs, task, generators, estimator.samples):
            yield kind.log_prob(outputs, drawn, task) / estimator.samples**0.5
    else:
        yield from kind.expected(outputs, task)
