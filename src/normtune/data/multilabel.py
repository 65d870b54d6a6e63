"""Several labels an example, each of which applies or not: one sigmoid a label, and binary cross entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normtune.data.kind import Generators, Kind, Loss, TaskLike
from normtune.data.labels import several

if TYPE_CHECKING:
    from torch import Tensor


def _pack(rows: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Ones where a label applies: of shape (examples, labels)."""
    labels = np.zeros((len(rows), classes), dtype=np.int64)
    for own, numbers in zip(labels, rows, strict=True):
        own[[*numbers]] = 1
    return labels


def _rarest(labels: np.ndarray) -> np.ndarray:
    """The rarest label of each example, or the number of labels where none applies."""
    found: np.ndarray = np.where(labels > 0, labels.sum(axis=0), len(labels) + 1).argmin(axis=1)
    found[~labels.any(axis=1)] = labels.shape[1]
    return found


def _constants(labels: np.ndarray) -> list[np.ndarray]:
    """No label, the commonest, the two commonest, up to all; no other set of the same size is right more often."""
    order = (-labels.mean(axis=0)).argsort(kind="stable")
    return [np.isin(np.arange(len(order)), order[:many]).astype(np.int64) for many in range(len(order) + 1)]


def _loss(_: TaskLike) -> Loss:
    """The mean over examples and labels, as in transformers."""
    import torch

    return lambda outputs, labels: torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, labels.to(outputs.dtype)
    )


def _log_prob(outputs: Tensor, labels: Tensor, _: TaskLike) -> Tensor:
    import torch

    found: Tensor = (2 * labels - 1) * outputs
    return torch.nn.functional.logsigmoid(found).sum(dim=1)


def _expected(outputs: Tensor, _: TaskLike) -> Iterator[Tensor]:
    # The gradient of log p at label l is (y_l - p_l) dz_l. The labels are independent, so cross terms vanish.
    shares = outputs.detach().sigmoid()
    roots = (shares * (1 - shares)).sqrt()
    for label in range(outputs.shape[1]):
        yield roots[:, label] * outputs[:, label]


def _drawn(outputs: Tensor, _: TaskLike, generators: Generators, samples: int) -> Iterator[Tensor]:
    import torch

    shares = outputs.detach().double().sigmoid().cpu().numpy()
    uniform = np.array([own.random((samples, outputs.shape[1])) for own in generators])
    for number in range(samples):
        yield torch.from_numpy((uniform[:, number] < shares).astype(np.int64)).to(outputs.device)


def _answer(outputs: np.ndarray, decided: Any, task: TaskLike, _: Any) -> dict[str, Any]:
    import torch

    shares = torch.from_numpy(outputs).double().sigmoid().tolist()
    return {
        "labels": [name for name, applies in zip(task.labels, decided, strict=True) if applies],
        "probabilities": dict(zip(task.labels, shares, strict=True)),
    }


MULTILABEL = Kind(
    name="multilabel",
    problem="multi_label_classification",
    said=lambda labels: f"It answers any of: {', '.join(labels)}.",
    metrics=lambda _: ("micro_f1", "macro_f1", "accuracy"),
    constants=_constants,
    loss=_loss,
    log_prob=_log_prob,
    expected=_expected,
    draw=_drawn,
    decide=lambda outputs, _: (outputs > 0).astype(np.int64),  # a probability above one half
    answer=_answer,
    read=several,
    pack=_pack,
    strata=_rarest,
    counts=lambda labels, _: labels.sum(axis=0),
)
