"""Optimal Brain Surgeon for linear layers: the saliency of an entry, and how to adjust the others when it is removed.

An output row w of a matrix is replaced by a w' for which ``||w X - w' X||^2`` is small, X being the layer's inputs over
a sample. The Hessian is ``H = 2 X X^T``, the same for all rows (Hassibi and Stork 1993, "Optimal Brain Surgeon";
Frantar and Alistarh 2023, "SparseGPT").
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from normtune.data.encode import Encoded
from normtune.importance.activations import over_texts, spread, squares, transposed
from normtune.importance.uses import Use
from normtune.methods.selection import Selection
from normtune.models.base import Base

#: Added to the diagonal of a Hessian, as a fraction of its mean; SparseGPT's value.
DAMPING = 0.01

#: Number of inputs pruned before all later inputs are updated at once, which is faster.
_BLOCK = 128


def hessians(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, Tensor]:
    """The Hessians of some parameters' layers over a sample.

    Returns:
        For a matrix its damped Hessian, of shape (inputs, inputs), float64; for anything else the diagonal, since the
        rest is zero, with one number per input feature.

    Raises:
        ImportanceError: If a parameter is of no linear layer, convolution, norm or embedding, or is never used.
    """
    return {name: _damped(own) for name, own in over_texts(base, texts, names, _doubled).items()}


def freed_curvatures(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, np.ndarray]:
    """The factor of each squared entry in `normtune.importance.scores.obs`: 1 / 2 [H^-1], float64.

    It is half the curvature of the error along the entry, with the others of its row free to adjust.
    """
    half = {}
    for name, own in hessians(base, texts, names).items():
        half[name] = spread(base, name, 1 / (2 * _inverse(own).diagonal()) if own.ndim == 2 else own / 2)
    return half


@torch.no_grad()
def prune(base: Base, texts: Encoded | None, gone: Selection) -> None:
    """Zero entries of matrices, and let the others of each row make up for them.

    This goes input by input, as in SparseGPT (algorithm 1): weights of earlier inputs stay, and those of later inputs
    are readjusted optimally.
    """
    assert texts is not None
    turned = transposed(base.model)
    for name, hessian in hessians(base, texts, gone.chosen).items():
        parameter = base.model.get_parameter(name)
        out = torch.zeros(parameter.numel(), dtype=torch.bool)
        out[torch.from_numpy(gone.indices(name))] = True
        out = out.to(parameter.device).view(parameter.shape)
        weight = parameter.double()
        if name in turned:
            weight, out = weight.t(), out.t()
        kept = _without(weight.clone(), out, hessian)
        parameter.copy_(kept.t() if name in turned else kept)


def _without(weight: Tensor, out: Tensor, hessian: Tensor) -> Tensor:
    """Prune the entries in `out` from a matrix with one row per output, in place, and return it."""
    # Row j of this factor is row 0 of the inverse Hessian of the inputs from j on, over the root of its first entry.
    factor = torch.linalg.cholesky(_inverse(hessian), upper=True)
    for start in range(0, weight.shape[1], _BLOCK):
        end = min(start + _BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            error = errors[:, column - start] = weight[:, column] * out[:, column] / factor[column, column]
            weight[:, column:end] -= error[:, None] * factor[column, column:end]
        weight[:, end:] -= errors @ factor[start:end, end:]
    weight[out] = 0.0
    return weight


def _doubled(use: Use, inputs: Tensor, output: Tensor) -> Tensor:
    """2 X X^T of a matrix's inputs, or twice the squares where the Hessian is diagonal."""
    if use.kind != "matrix":
        return 2 * squares(use, inputs, output)
    features = use.features(inputs).flatten(0, -2)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return 2 * (features.t() @ features).double()


def _damped(hessian: Tensor) -> Tensor:
    if hessian.ndim < 2:
        return hessian
    mean = float(hessian.diagonal().mean()) or 1.0  # 0 if all inputs are always zero
    return hessian + DAMPING * mean * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)


def _inverse(hessian: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian))
