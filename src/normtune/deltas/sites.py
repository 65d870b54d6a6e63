"""Modules some of whose values differ from row to row of a batch.

A site stands in the place of a module's forward pass. It is given values, one for each row or one for all rows,
computes what all rows share once, and the rest row by row in as few passes over memory as torch allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.functional import linear as torch_linear
from torch.nn.utils.rnn import pad_sequence

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
        self._own_forward = module.forward
        #: By name the vector of all rows, of shape (width), or those of each row, of shape (rows, width).
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
    """Any other module: it runs with other tensors in the place of its own vectors."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the module gives for inputs of shape (rows, ..., width)."""
        return self._run(inputs) if self.values else self._own_forward(*inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The same with the rows' values."""
        raise NotImplementedError

    def _with(self, vectors: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        module = self._module
        own = {name: module._parameters.pop(name) for name in vectors}
        for name, vector in vectors.items():
            setattr(module, name, vector)
        try:
            result: Tensor = self._own_forward(*inputs)
        finally:
            for name, parameter in own.items():
                delattr(module, name)
                module._parameters[name] = parameter
        return result


class BiasSite(AnySite):
    """Any other module that adds its bias last: it runs with a bias of zeros, and each row's own is added."""

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        bias = self.values["bias"]
        result = self._with({"bias": bias.new_zeros(bias.shape[-1], dtype=inputs[0].dtype)}, *inputs)
        return result.add_(by_row(bias, result).to(result.dtype))


class ScaleSite(AnySite):
    """Any other norm, such as RMSNorm: it runs with vectors that broadcast over the rows in the place of its own."""

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        vectors = {name: by_row(values, inputs[0]) for name, values in self.values.items()}
        # As `normtune.models.precision.RaisedNorm` has it: in float32, and lowered again.
        return self._with(vectors, *(value.float() for value in inputs)).to(inputs[0].dtype)


class HeadSite(Site):
    """A Linear of the head, of which every row has its own, with as many outputs as its task has.

    Rows with fewer outputs than others are filled up with zeros. Small weights are stacked for one batched product; if
    they are large, the rows of each task run by themselves.
    """

    #: By task its rows, its weight and its bias.
    _groups: Sequence[tuple[Tensor, Tensor, Tensor | None]] = ()

    def bind(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None) -> None:
        """Give each row its weight, of shape (outputs, inputs), and its bias; one of each stands for all rows."""
        if len(weights) > 1 and max(weight.numel() for weight in weights) > _STACKED:
            self._groups = _grouped(weights, biases)
            return
        self.values["weight"] = weights[0] if len(weights) == 1 else pad_sequence(list(weights), batch_first=True)
        if biases is not None:
            self.values["bias"] = biases[0] if len(biases) == 1 else pad_sequence(list(biases), batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float32 outputs for inputs of shape (rows, ..., width).

        Raises:
            ModelError: If the inputs have another number of rows.
        """
        inputs = inputs.float()
        weight, bias = self.values.get("weight"), self.values.get("bias")
        if weight is None:
            return self._by_group(inputs)
        if weight.ndim == 2:
            return torch_linear(inputs, weight, bias)
        if len(inputs) != len(weight):
            raise ModelError(_MIXED)
        tokens = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        outputs = tokens @ weight.transpose(1, 2)
        if bias is not None:
            outputs += bias.unsqueeze(1)
        return outputs.reshape(*inputs.shape[:-1], weight.shape[1])

    def _by_group(self, inputs: Tensor) -> Tensor:
        if len(inputs) != sum(len(rows) for rows, _, _ in self._groups):
            raise ModelError(_MIXED)
        outputs = inputs.new_zeros(*inputs.shape[:-1], max(len(weight) for _, weight, _ in self._groups))
        for rows, weight, bias in self._groups:
            outputs[rows, ..., : len(weight)] = torch_linear(inputs[rows], weight, bias)
        return outputs


#: Entries of a head's weight up to which the weights of all rows are copied side by side for one batched product.
_STACKED = 1 << 16

_MIXED = "This model does not keep the rows of a batch apart from its first dimension."


def site_of(module: nn.Module, parameter: str) -> type[Site] | None:
    """The kind of site that lets the vector called `parameter` of `module` differ from row to row, or None."""
    if type(module) is nn.LayerNorm:
        return NormSite
    if type(module) is nn.Linear and parameter == "bias":
        return LinearSite
    weight = module._parameters.get("weight")
    if parameter == "weight" or (weight is not None and weight.ndim == 1):
        return ScaleSite if parameter in {"weight", "bias"} else None
    return BiasSite if parameter == "bias" and weight is not None else None


def by_row(values: Tensor, inputs: Tensor) -> Tensor:
    """Vectors of each row, of shape (rows, width), made to broadcast over `inputs`, of shape (rows, ..., width).

    One vector of all rows, of shape (width), broadcasts as it is. Some families lay the tokens of all rows one after
    the other, in the shape (rows * tokens, width).

    Raises:
        ModelError: If the inputs cannot be of so many rows.
    """
    if values.ndim == 1:
        return values
    rows, width = values.shape
    if len(inputs) == rows:
        return values.view(rows, *(1,) * (inputs.ndim - 2), width)
    if inputs.ndim == 2 and len(inputs) % rows == 0:
        return values.repeat_interleave(len(inputs) // rows, dim=0)
    raise ModelError(_MIXED)


def _grouped(weights: Sequence[Tensor], biases: Sequence[Tensor] | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    rows: dict[int, list[int]] = {}
    for row, weight in enumerate(weights):
        rows.setdefault(id(weight), []).append(row)
    return [
        (torch.tensor(same, device=weights[0].device), weights[same[0]], None if biases is None else biases[same[0]])
        for same in rows.values()
    ]
