"""Modules some of whose values differ from row to row of a batch.

A site replaces a module's forward pass. From values for each row, or one for all rows, it computes what all rows share
once, and the rest row by row in as few passes over memory as torch allows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm, linear as torch_linear, pad

from normtune.errors import ModelError
from normtune.fast.linear import infer


class Site:
    """A module whose vectors, its ``weight`` or its ``bias``, can differ from row to row.

    Args:
        module: The module; its forward pass is replaced.
    """

    #: What the module gives for inputs of shape (rows, ..., width).
    forward: Callable[..., Tensor]

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        #: A copy of the module, with its own forward pass.
        self._own = copy.copy(module)
        #: By name one vector for all rows, of shape (width), or one for each row, of shape (rows, width).
        self.values: dict[str, Tensor] = {}
        module.forward = self.forward


class NormSite(Site):
    """A torch LayerNorm: normalised once, then scaled and shifted row by row in one pass."""

    _module: nn.LayerNorm

    def forward(self, inputs: Tensor) -> Tensor:
        """What the module gives for inputs of shape (rows, ..., width)."""
        module, values = self._module, self.values
        if not values:
            return self._normalised(inputs, module.weight, module.bias)
        weight, bias = values.get("weight", module.weight).float(), values.get("bias", module.bias)
        raised = inputs.float()
        if weight.ndim == 1 and (bias is None or bias.ndim == 1):
            return self._normalised(raised, weight, None if bias is None else bias.float()).to(inputs.dtype)
        # torch normalises faster with a neutral weight and bias than without any.
        shape = module.normalized_shape
        result = self._normalised(raised, raised.new_ones(shape), raised.new_zeros(shape))
        if bias is None:
            return result.mul_(by_row(weight, inputs)).to(inputs.dtype)
        return torch.addcmul(by_row(bias.float(), inputs), result, by_row(weight, inputs), out=result).to(inputs.dtype)

    def _normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return layer_norm(inputs, self._module.normalized_shape, weight, bias, self._module.eps)


class LinearSite(Site):
    """A torch Linear: one product for all rows, then each row's bias."""

    _module: nn.Linear

    def forward(self, inputs: Tensor) -> Tensor:
        """What the module gives for inputs of shape (rows, ..., width)."""
        bias = self.values.get("bias")
        weight = self._module.weight
        if bias is None:
            return infer(inputs, weight, self._module.bias)
        if bias.ndim == 1:
            return infer(inputs, weight, bias.to(weight.dtype))
        return infer(inputs, weight, None).add_(by_row(bias.to(weight.dtype), inputs))


class AnySite(Site):
    """Any other module, run with the rows' vectors in place of its own.

    The vectors of a norm, such as RMSNorm, broadcast over the rows. A bias beside a matrix is added last: the
    module runs with a bias of zeros, and each row's own is added.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the module gives for inputs of shape (rows, ..., width)."""
        if not self.values:
            return self._run({}, *inputs)
        if self._module.get_parameter("weight").ndim == 1:
            vectors = {name: by_row(values, inputs[0]) for name, values in self.values.items()}
            # As `normtune.models.precision.Float32Module` does: in float32, then cast back.
            return self._run(vectors, *(value.float() for value in inputs)).to(inputs[0].dtype)
        bias = self.values["bias"]
        result = self._run({"bias": bias.new_zeros(bias.shape[-1], dtype=inputs[0].dtype)}, *inputs)
        return result.add_(by_row(bias, result).to(result.dtype))

    def _run(self, vectors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        result: Tensor = functional_call(self._own, vectors, inputs)
        return result


class HeadSite(Site):
    """A Linear of the head, of which each row has its own, with as many outputs as its task has.

    The rows of each task run separately; those with fewer outputs than others are padded with zeros.
    """

    #: For each task its rows, its weight and its bias.
    _tasks: Sequence[tuple[list[int], Tensor, Tensor | None]] = ()

    def bind(self, layers: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Give each row its weight, of shape (outputs, inputs), and its bias; a single pair is for all rows."""
        rows: dict[int, list[int]] = {}
        for row, (weight, _) in enumerate(layers):
            rows.setdefault(id(weight), []).append(row)
        self._tasks = [(same, *layers[same[0]]) for same in rows.values()]

    def forward(self, inputs: Tensor) -> Tensor:
        """Float32 outputs for inputs of shape (rows, ..., width).

        Raises:
            ModelError: If the inputs have another number of rows.
        """
        inputs = inputs.float()
        if len(self._tasks) == 1:
            return torch_linear(inputs, *self._tasks[0][1:])
        order = [row for rows, _, _ in self._tasks for row in rows]
        if len(inputs) != len(order):
            raise ModelError(_MIXED)
        # Sorted by task, so that row indices go to an accelerator once and not for each task.
        sorted_by_task = torch.tensor(order, device=inputs.device)
        parts = inputs[sorted_by_task].split([len(rows) for rows, _, _ in self._tasks])
        most = max(len(weight) for _, weight, _ in self._tasks)
        outputs = [
            pad(torch_linear(part, weight, bias), (0, most - len(weight)))
            for part, (_, weight, bias) in zip(parts, self._tasks, strict=True)
        ]
        return torch.cat(outputs)[sorted_by_task.argsort()]


_MIXED = "This model does not keep the rows of a batch apart in its first dimension."


def site_of(module: nn.Module, parameter: str) -> type[Site] | None:
    """The kind of site that lets the vector called `parameter` of `module` differ from row to row, or None."""
    if type(module) is nn.LayerNorm:
        return NormSite
    if type(module) is nn.Linear and parameter == "bias":
        return LinearSite
    return AnySite if parameter in {"weight", "bias"} and module._parameters.get("weight") is not None else None


def by_row(values: Tensor, inputs: Tensor) -> Tensor:
    """Vectors of each row, of shape (rows, width), shaped to broadcast over `inputs`, of shape (rows, ..., width).

    One vector for all rows, of shape (width), broadcasts as it is. Some families flatten the tokens of all rows, to
    the shape (rows * tokens, width).

    Raises:
        ModelError: If the inputs cannot be of that many rows.
    """
    if values.ndim == 1:
        return values
    rows, width = values.shape
    if len(inputs) == rows:
        return values.view(rows, *(1,) * (inputs.ndim - 2), width)
    if inputs.ndim == 2 and len(inputs) % rows == 0:
        return values.repeat_interleave(len(inputs) // rows, dim=0)
    raise ModelError(_MIXED)
