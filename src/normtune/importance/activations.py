"""The size of the input of each parameter's entries over a sample of texts, by which Wanda weights values."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from normtune.data.encode import Encoded
from normtune.errors import ImportanceError
from normtune.importance.uses import Use, frozen, hooked, uses_of
from normtune.models.base import Base


def feature_norms(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, np.ndarray]:
    """The L2 norm, over all tokens of all texts, of the input of every entry of some parameters.

    An entry's input is what it is multiplied by (see `normtune.importance.uses`).

    Returns:
        For each parameter one number per entry, flattened, float64.

    Raises:
        ImportanceError: If a parameter is of no linear layer, convolution, norm or embedding, or is never used.
    """
    sums = over_texts(base, texts, names, squares)
    return {name: spread(base, name, own.sqrt()) for name, own in sums.items()}


@torch.no_grad()
def over_texts(
    base: Base, texts: Encoded, names: Collection[str], of: Callable[[Use, Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """For each of some parameters, sum what `of` returns over its uses in every text.

    `of` takes a use and its module's input and output. Each text goes through the model by itself, without padding and
    with dropout off; the model is left as it was.

    Raises:
        ImportanceError: If a parameter is of no linear layer, convolution, norm or embedding, is never used, or is used
            in two ways, as a tied embedding is.
    """
    model = base.model
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    sums: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}

    def add(uses: list[Use], inputs: Tensor, output: Tensor) -> None:
        for use in uses:
            if kinds.setdefault(use.name, use.kind) != use.kind:
                raise ImportanceError(
                    f"{use.name!r} is used as a {kinds[use.name]} and as a {use.kind}, so that its entries have no one"
                    " input; leave it out of the candidates."
                )
            sums[use.name] = of(use, inputs, output) + sums.get(use.name, 0)

    with frozen(model), hooked(uses_of(model, parameters), add):
        for number in range(len(texts)):
            model(**texts.batch([number], base.device))
    for name in names:
        if name not in sums:
            raise ImportanceError(
                f"The input of {name!r} is not known: no linear layer, convolution, norm or embedding uses it."
            )
    return sums


def transposed(model: nn.Module) -> set[str]:
    """Names of the weights that are stored with their inputs first: GPT-2's linear layers, and embeddings."""
    own = (name for name, module in model.named_modules() if isinstance(module, (Conv1D, nn.Embedding)))
    return {f"{name}.weight" for name in own}


def squares(use: Use, inputs: Tensor, output: Tensor) -> Tensor:
    """The sum over tokens of each squared feature; for a table, counts of each row; for a shift, of tokens."""
    if use.kind == "table":
        return torch.bincount(inputs.flatten(), minlength=len(use.module.get_parameter("weight"))).double()
    if use.kind == "shift":
        return torch.tensor(use.last(output)[..., 0].numel(), dtype=torch.float64)
    return use.features(inputs).double().flatten(0, -2).square().sum(0)


def spread(base: Base, name: str, numbers: Tensor) -> np.ndarray:
    """Broadcast one number per input feature to one per entry of a parameter, flattened."""
    shape = base.model.get_parameter(name).shape
    own = numbers.view(shape[1:]) if numbers.ndim and len(shape) > 2 else numbers
    column = own[:, None] if name in transposed(base.model) and own.ndim else own
    entries: np.ndarray = column.expand(shape).flatten().cpu().numpy()
    return entries
