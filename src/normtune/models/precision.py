"""Modules that compute in float32, their parameters' precision, inside a model of lower precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def in_float32(module: nn.Module) -> nn.Module:
    """Make `module`, whose parameters are float32, take inputs of any float dtype; its output is float32.

    A head needs this on a bfloat16 base. Its output stays float32: logits are read, not computed with.
    """
    module.register_forward_pre_hook(_raise_inputs, with_kwargs=True)
    return module


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """Within this context autocast is off, so that modules that make a delta's values make the same after training."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class Float32Module:
    """A norm or head of a lower-precision model, changed in place to store its tensors and compute in float32.

    With `lower`, its output is cast back to the dtype that its parameters had. `undo` restores it, to the bit.
    """

    def __init__(self, module: nn.Module, *, lower: bool = True) -> None:
        self._module = module
        self._saved, self._buffers = dict(module._parameters), dict(module._buffers)
        self._dtype = next(p.dtype for p in self._saved.values() if p is not None)
        for name, parameter in self._saved.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().float(), requires_grad=False)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.float()
        self._hooks = [module.register_forward_pre_hook(_raise_inputs, with_kwargs=True)]
        if lower:  # The hook above hides the input's dtype from this one, so that of the parameters is used.
            self._hooks.append(module.register_forward_hook(lambda _module, _args, output: output.to(self._dtype)))

    def undo(self) -> None:
        """Remove the hooks and put back the module's own parameters and buffers."""
        for hook in self._hooks:
            hook.remove()
        device = next(self._module.parameters()).device  # the model may have moved
        self._module._parameters.update(self._saved)
        self._module._buffers.update(self._buffers)
        self._module.to(device)


def _raise_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)

    def put(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(put, args)), {name: put(value) for name, value in kwargs.items()}
