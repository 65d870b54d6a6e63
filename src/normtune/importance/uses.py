"""How a model's modules use its parameters, where that has a closed form: linear layers, norms and embeddings.

Each entry of such a parameter is multiplied by something. For a linear weight that is a feature of the layer's input,
for a norm's weight the normalised feature, for a bias one, and for a row of an embedding one where it is looked up.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from normtune.models.layout import is_norm


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter in a module that uses it.

    Attributes:
        name: The parameter's name.
        module: The module.
        kind: ``matrix``: a linear weight; ``scale``: a norm's weight; ``shift``: a bias; ``table``: an embedding.
        features: Gives, from the module's input, what the entries multiply; for a shift and a table the input itself.
        turned: Whether a matrix is stored with its inputs first, as in GPT-2.
    """

    name: str
    module: nn.Module
    kind: Literal["matrix", "scale", "shift", "table"]
    features: Callable[[Tensor], Tensor]
    turned: bool


def uses_of(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Module, list[Use]]:
    """By module the uses of `parameters`; a parameter of another kind of module has none."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[nn.Module, list[Use]] = defaultdict(list)
    for module in model.modules():
        own = {leaf: names[id(p)] for leaf, p in module.named_parameters(recurse=False) if id(p) in names}
        kind: Literal["matrix", "scale", "table"]
        if isinstance(module, (nn.Linear, Conv1D)):
            kind = "matrix"
        elif isinstance(module, nn.Embedding):
            kind = "table"
        elif own and is_norm(module):
            kind = "scale"
        else:
            continue
        for leaf in own.keys() & {"weight", "bias"}:
            features = _normalised(module) if (leaf, kind) == ("weight", "scale") else _same
            of = "shift" if leaf == "bias" else kind
            found[module].append(Use(own[leaf], module, of, features, isinstance(module, Conv1D)))
    return found


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within this context `model` is frozen and has no dropout; afterwards it is as it was."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


#: Told of a module's uses, its input and its output; what it returns, if anything, stands for the output.
Hook = Callable[[list[Use], Tensor, Tensor], Tensor | None]


@contextmanager
def hooked(uses: Mapping[nn.Module, list[Use]], hook: Hook) -> Iterator[None]:
    """Within this context `hook` is called after each call of one of the modules, and for tables at each look-up."""
    tables = {id(module.weight): own for module, own in uses.items() if isinstance(module, nn.Embedding)}
    with ExitStack() as stack:
        for module, own in uses.items():
            if not isinstance(module, nn.Embedding):
                # First of all hooks, so that the output is the module's own.
                handle = module.register_forward_hook(partial(_told, hook, own), with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
        stack.enter_context(_LookUps(tables, hook))
        yield


def _told(hook: Hook, own: list[Use], _: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    return hook(own, next(iter((*args, *named.values()))), output)


class _LookUps(TorchFunctionMode):
    """Sees the rows that are looked up, which some families' embeddings compute from what they are given."""

    def __init__(self, tables: Mapping[int, list[Use]], hook: Hook) -> None:
        super().__init__()
        self._tables, self._hook = tables, hook

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not functional.embedding or id(args[1]) not in self._tables:
            return output
        changed = self._hook(self._tables[id(args[1])], args[0], output)
        return output if changed is None else changed


def _same(inputs: Tensor) -> Tensor:
    return inputs


@torch.no_grad()
def _normalised(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a norm's weight multiplies: its outputs are linear in the weight, so one weight's less another's give it."""
    one, zero = copy.deepcopy(norm).eval(), copy.deepcopy(norm).eval()
    for parameter in (*one.parameters(), *zero.parameters()):
        parameter.zero_()
    one.get_parameter("weight").fill_(1.0)
    # Not by calling them, so that no hook runs.
    if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):  # whose outputs are zero where the weight is
        return lambda inputs: type(one).forward(one, inputs)
    return lambda inputs: type(one).forward(one, inputs) - type(zero).forward(zero, inputs)
