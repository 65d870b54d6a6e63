"""What a model answers, and how well."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from normtune.data.encode import Encoded, by_length, by_tokens
from normtune.data.task import Task
from normtune.errors import AnswerError
from normtune.fast.prefix import HiddenStates
from normtune.fast.ways import Ways, choose
from normtune.models.base import Base
from normtune.modes import kept_modes

#: Examples a batch when nothing is trained.
EVAL_BATCH = 64

#: The number of tokens from which preparing a model for faster evaluation pays off.
_WORTH = 2048


def logits(
    base: Base,
    encoded: Encoded,
    batch_size: int | None = None,
    *,
    ways: Ways | None = None,
    states: HiddenStates | None = None,
) -> np.ndarray:
    """The head's outputs for every example, in their order, with dropout off.

    Args:
        base: The model, with the head of the task.
        encoded: The examples.
        batch_size: Examples a batch; batches are formed by length, so the same set gives the same batches. By default
            `ways` determines the batches.
        ways: How the model is computed; their context must be on already. By default the fastest ways that fit.
        states: Hidden states of the examples at the end of a frozen prefix, to go on from.

    Returns:
        Float32, of shape (examples, outputs) or, where each word is answered, (examples, most words, outputs).
    """
    if ways is None:
        ways = choose(base, plain=batch_size is not None or int(encoded.lengths.sum()) < _WORTH)
        with ways.context():
            return logits(base, encoded, batch_size, ways=ways, states=states)
    model = base.model
    if batch_size is None and ways.tokens is not None:
        batches = by_tokens(encoded.lengths, ways.tokens)
    else:
        batches = by_length(encoded.lengths, batch_size or EVAL_BATCH)
    results = np.zeros((len(encoded), *encoded.words, base.head.outputs), dtype=np.float32)
    with torch.inference_mode(), kept_modes(model):
        model.eval()
        for indices in batches:
            if states is not None:
                output: Tensor = states.logits(model, indices, base.device)
            else:
                output = model(**encoded.batch(indices, base.device)).logits
            answered = encoded.answered(output, indices)
            results[indices, : answered.shape[1]] = answered.float().cpu().numpy()
    return results


def decide(outputs: np.ndarray, task: Task) -> np.ndarray:
    """Predictions from the head's outputs, in the form of labels: class numbers, or numbers on the targets' own scale.

    Raises:
        AnswerError: If an output is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        decided = task.asks.decide(outputs, task)
    if not (np.isfinite(outputs).all() and np.isfinite(decided).all()):
        raise AnswerError(f"The task {task.name!r} gives a number that is not finite: its values are too large.")
    return decided


def score_outputs(outputs: np.ndarray, labels: np.ndarray, task: Task) -> dict[str, float]:
    """All the task's metrics from the head's outputs, of shape (examples, outputs), and the true labels.

    Numbers that differ by float32's rounding only, as batches of other lengths give, are one number and no ranking.
    """
    if task.kind == "regression" and np.ptp(outputs) <= 1e-6 * np.abs(outputs).max():
        outputs = np.full_like(outputs, outputs.flat[0])
    return task.asks.score(decide(outputs, task), labels, task)


def score(base: Base, encoded: Encoded, task: Task) -> dict[str, float]:
    """All the task's metrics on examples with labels, as the model with its head answers them now."""
    assert encoded.labels is not None
    return score_outputs(logits(base, encoded), encoded.labels.numpy(), task)
