"""How large the input of each parameter's entries is over a sample of texts: what Wanda weighs values by.

An entry's input is what it is multiplied by. For a linear weight that is a feature of the layer's input; for a norm's
weight the normalised feature; for a bias one; for a row of an embedding one wherever the row is looked up, else zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from normtune.data.encode import Encoded
from normtune.errors import ImportanceError
from normtune.models.base import Base
from normtune.models.layout import is_norm

#: From a module's input the sum over tokens of its squared features, of shape (features,), or one number for all.
_Sums = Callable[[Tensor], Tensor]


@torch.no_grad()
def feature_norms(base: Base, texts: Encoded, names: Collection[str]) -> dict[str, np.ndarray]:
    """The L2 norm, over all tokens of all texts, of the input of every entry of some parameters.

    Each text goes through the model by itself, without padding and with dropout off.

    Args:
        base: The base model; it is left as it was.
        texts: The sample.
        names: The parameters.

    Returns:
        For each parameter one number an entry, flattened, float64.

    Raises:
        ImportanceError: If a parameter is of no linear layer, norm or embedding, or the model never uses it.
    """
    model = base.model
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    sums = _Sum(parameters)
    hooks = list(_hooks(model, sums))
    try:
        with sums:
            for number in range(len(texts)):
                model(**texts.batch([number], base.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for name in names:
        if name not in sums.squares:
            raise ImportanceError(f"The input of {name!r} is not known: no linear layer, norm or embedding uses it.")
    turned = transposed(model)
    return {n: _spread(sums.squares[n].sqrt(), parameters[n].shape, n in turned) for n in parameters}


def transposed(model: nn.Module) -> set[str]:
    """Names of the weights that are stored with their inputs first: GPT-2's linear layers, and embeddings."""
    own = (name for name, module in model.named_modules() if isinstance(module, (Conv1D, nn.Embedding)))
    return {f"{name}.weight" for name in own}


class _Sum(TorchFunctionMode):
    """Sums of squared inputs by parameter name; within its context every look-up in an embedding is added."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self.squares: dict[str, Tensor] = {}

    def name(self, parameter: object) -> str | None:
        """The name of a parameter that is wanted, or None."""
        return self._names.get(id(parameter))

    def add(self, name: str, squares: Tensor) -> None:
        """Add to a parameter's sum."""
        self.squares[name] = self.squares[name] + squares if name in self.squares else squares

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.embedding:
            ids, weight = args[:2]
            if (name := self.name(weight)) is not None:
                self.add(name, torch.bincount(ids.flatten(), minlength=len(weight)).double())
        return func(*args, **(kwargs or {}))


def _hooks(model: nn.Module, sums: _Sum) -> Iterator[RemovableHandle]:
    """Hooks that add the inputs of every linear layer and norm to the sums of their own parameters."""
    for module in model.modules():
        is_linear = isinstance(module, (nn.Linear, Conv1D))
        for leaf, parameter in module.named_parameters(recurse=False):
            name = sums.name(parameter)
            if name is not None and (is_linear or is_norm(module)):
                of = _ones if leaf == "bias" else _squares if is_linear else _normalised(module)
                yield module.register_forward_hook(partial(_hook, sums, name, of), with_kwargs=True)


def _hook(sums: _Sum, name: str, of: _Sums, _: object, args: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
    sums.add(name, of(next(iter((*args, *named.values())))))


def _ones(inputs: Tensor) -> Tensor:
    return torch.tensor(inputs[..., 0].numel(), dtype=torch.float64)


def _squares(inputs: Tensor) -> Tensor:
    return inputs.double().flatten(0, -2).square().sum(0)


def _normalised(module: nn.Module) -> _Sums:
    """What a norm's weight multiplies: outputs are linear in it, so one weight's less another's give it."""
    one, zero = copy.deepcopy(module), copy.deepcopy(module)
    one.get_parameter("weight").fill_(1.0)
    zero.get_parameter("weight").fill_(0.0)
    # Not by calling them, so that no hook runs.
    return lambda inputs: _squares(type(one).forward(one, inputs).double() - type(zero).forward(zero, inputs).double())


def _spread(norms: Tensor, shape: tuple[int, ...], inputs_first: bool) -> np.ndarray:
    """One number an entry of a parameter of this shape, from one an input feature."""
    column = norms[:, None] if inputs_first and norms.ndim else norms
    spread: np.ndarray = column.expand(shape).flatten().cpu().numpy()
    return spread
