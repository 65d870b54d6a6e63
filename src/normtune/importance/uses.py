"""How modules use parameters, where that has a closed form: linear layers, convolutions, norms and embeddings.

Each entry of such a parameter has a multiplier: for a linear weight a feature of the layer's input, for a norm's weight
the normalised feature, for a bias 1, and for a row of an embedding 1 where it is looked up. A convolution is a linear
layer on each patch of its input.
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

from normtune.errors import ModelError
from normtune.models.layout import is_norm
from normtune.modes import kept_modes


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter in a module that uses it.

    Attributes:
        name: The parameter's name.
        module: The module.
        kind: ``matrix``: a linear weight; ``scale``: a norm's weight; ``shift``: a bias; ``table``: an embedding.
        features: Maps the module's input to what the entries multiply, features last; for a shift and a table the input
            itself.
        turned: Whether a matrix is stored with its inputs first, as in GPT-2.
        last: Moves the features of the module's output, or of its gradient, to the last dimension.
    """

    name: str
    module: nn.Module
    kind: Literal["matrix", "scale", "shift", "table"]
    features: Callable[[Tensor], Tensor]
    turned: bool
    last: Callable[[Tensor], Tensor]


def uses_of(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Module, list[Use]]:
    """The uses of `parameters` by module; a parameter of another kind of module has none."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[nn.Module, list[Use]] = defaultdict(list)
    for module in model.modules():
        own = {leaf: names[id(p)] for leaf, p in module.named_parameters(recurse=False) if id(p) in names}
        kind: Literal["matrix", "scale", "table"]
        last = _channels_last if _channels_first(module) else _same
        if isinstance(module, (nn.Linear, Conv1D)) or _is_patchwise(module):
            kind = "matrix"
        elif isinstance(module, nn.Embedding):
            kind = "table"
        elif own and is_norm(module):
            kind = "scale"
        else:
            continue
        for leaf in own.keys() & {"weight", "bias"}:
            of = "shift" if leaf == "bias" else kind
            features = _patches(module) if of == "matrix" else _normalised(module, last) if of == "scale" else _same
            found[module].append(Use(own[leaf], module, of, features, isinstance(module, Conv1D), last))
    return found


def _channels_first(module: nn.Module) -> bool:
    """Whether the features are the second dimension of the output rather than the last."""
    kinds = (nn.Conv2d, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    return isinstance(module, kinds) or getattr(module, "data_format", "") == "channels_first"


def _channels_last(values: Tensor) -> Tensor:
    return values.movedim(1, -1)


def _is_patchwise(module: nn.Module) -> bool:
    """Whether it is a convolution whose outputs see all channels of a patch, with equal zero padding on both sides."""
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or module.padding_mode != "zeros":
        return False
    padding = module._reversed_padding_repeated_twice
    return padding[::2] == padding[1::2]


def _patches(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Maps an input to what a matrix multiplies: itself, or for a convolution its patches, one per output position."""
    if not isinstance(module, nn.Conv2d):
        return _same
    padding = module._reversed_padding_repeated_twice[::-2]  # numbers, while `padding` may be "same"
    made = nn.Unfold(module.kernel_size, module.dilation, padding, module.stride)  # type: ignore[arg-type]
    return lambda inputs: made(inputs).transpose(1, 2)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within this context `model` is frozen and has no dropout; afterwards it is as it was.

    Raises:
        ModelError: If it is quantised: its matrices have no gradients.
    """
    if getattr(model, "is_quantized", False):
        raise ModelError("Importances are not measured on a quantised model; load it in bfloat16 or float32.")
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with kept_modes(model):
        model.eval().requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)


#: Called with a module's uses, its input and its output; what it returns, if anything, replaces the output.
OnUse = Callable[[list[Use], Tensor, Tensor], Tensor | None]


@contextmanager
def hooked(uses: Mapping[nn.Module, list[Use]], hook: OnUse) -> Iterator[None]:
    """Within this context `hook` is called after each call of one of the modules, and for tables at each look-up."""
    tables = {id(module.weight): own for module, own in uses.items() if isinstance(module, nn.Embedding)}
    with ExitStack() as stack:
        for module, own in uses.items():
            if not isinstance(module, nn.Embedding):
                # Before all other hooks, so that the output is the module's own.
                handle = module.register_forward_hook(partial(_after, hook, own), with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
        stack.enter_context(_LookUps(tables, hook))
        yield


def _after(hook: OnUse, own: list[Use], _: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    return hook(own, next(iter((*args, *named.values()))), output)


class _LookUps(TorchFunctionMode):
    """Calls the hook with the rows looked up, which some families' embeddings compute from their inputs."""

    def __init__(self, tables: Mapping[int, list[Use]], hook: OnUse) -> None:
        super().__init__()
        self._tables, self._hook = tables, hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not functional.embedding or id(args[1]) not in self._tables:
            return output
        changed = self._hook(self._tables[id(args[1])], args[0], output)
        return output if changed is None else changed


def _same(inputs: Tensor) -> Tensor:
    return inputs


@torch.no_grad()
def _normalised(norm: nn.Module, last: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Maps an input to what a norm's weight multiplies: the norm's outputs at weight 1 minus those at weight 0."""
    one, zero = copy.deepcopy(norm).eval(), copy.deepcopy(norm).eval()
    for parameter in (*one.parameters(), *zero.parameters()):
        parameter.zero_()
    one.get_parameter("weight").fill_(1.0)
    # By `forward`, so that no hook runs.
    if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):  # their outputs are zero at weight 0
        return lambda inputs: last(type(one).forward(one, inputs))
    return lambda inputs: last(type(one).forward(one, inputs) - type(zero).forward(zero, inputs))
