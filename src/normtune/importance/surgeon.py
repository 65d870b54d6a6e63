"""Optimal Brain Surgeon for linear layers: what an entry is worth, and what the others become once it is gone.

An output row w of a matrix may become w' where ``||w X - w' X||^2`` stays small, X being the layer's inputs over a
sample. The Hessian is ``H = 2 X X^T``, the same for all rows (Hassibi and Stork 1993, "Optimal Brain Surgeon"; Frantar
and Alistarh 2023, "SparseGPT").
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from normtune.data.encode import Encoded
from normtune.importance.activations import over_texts, spread, squares, transposed
from normtune.importance.uses import Use
from normtune.models.base import Base

#: What is added to the diagonal of a Hessian, as a part of its mean: SparseGPT's.
DAMPING = 0.01


def hessians(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, Tensor]:
    """The Hessians of some parameters' layers over a sample.

    Args:
        base: The base model; it is left as it was.
        texts: The sample.
        names: The parameters.

    Returns:
        Of a matrix its damped Hessian, of shape (inputs, inputs), float64; of anything else the diagonal, which is all
        there is, with one number an input feature.

    Raises:
        ImportanceError: If a parameter is of no linear layer, norm or embedding, or the model never uses it.
    """
    return {name: _damped(own) for name, own in over_texts(base, texts, names, _doubled).items()}


def freed_curvatures(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, np.ndarray]:
    """What the square of each entry is multiplied by in `normtune.importance.scores.obs`: 1 / 2 [H^-1].

    It is half the curvature of the error along the entry, with the others of its row free to follow. The arguments are
    those of `hessians`.

    Returns:
        For each parameter one number an entry, flattened, float64.
    """
    half = {}
    for name, own in hessians(base, texts, names).items():
        half[name] = spread(base, name, 1 / (2 * _inverse(own).diagonal()) if own.ndim == 2 else own / 2)
    return half


@torch.no_grad()
def prune(base: Base, name: str, gone: np.ndarray, hessian: Tensor) -> None:
    """Make entries of a matrix zero, and let the others of each row make up for them.

    Input by input, as SparseGPT does it (algorithm 1): the weights of the inputs before stay, and those of the inputs
    after become the best ones that are left.

    Args:
        base: The model, which is changed in place.
        name: The matrix.
        gone: Positions of the entries in the flattened parameter.
        hessian: Its Hessian, as `hessians` gives it.
    """
    parameter = base.model.get_parameter(name)
    out = torch.zeros(parameter.numel(), dtype=torch.bool)
    out[torch.from_numpy(gone)] = True
    turned = name in transposed(base.model)
    out = out.to(parameter.device).view(parameter.shape)
    weight, out = (parameter.double().t(), out.t()) if turned else (parameter.double(), out)
    weight = weight.clone()
    # Row j of this factor is that of the inverse Hessian of the inputs from j on, over the root of its first entry.
    factor = torch.linalg.cholesky(_inverse(hessian), upper=True)
    for column in range(weight.shape[1]):
        error = weight[:, column] * out[:, column] / factor[column, column]
        weight[:, column:] -= error[:, None] * factor[column, column:]
        weight[out[:, column], column] = 0.0
    parameter.copy_(weight.t() if turned else weight)


def _doubled(use: Use, inputs: Tensor) -> Tensor:
    """2 X X^T of a matrix's inputs, or twice the squares where the Hessian is diagonal."""
    if use.kind != "matrix":
        return 2 * squares(use, inputs)
    features = use.features(inputs).double().flatten(0, -2)
    return 2 * features.t() @ features


def _damped(hessian: Tensor) -> Tensor:
    if hessian.ndim < 2:
        return hessian
    mean = float(hessian.diagonal().mean()) or 1.0  # of inputs that are zero always
    return hessian + DAMPING * mean * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)


def _inverse(hessian: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian))
