"""Linear layers as fast as the processor allows, and gradients of only those weight entries that train.

On AMD processors with AVX-512, oneDNN, which is part of torch, computes float32 products faster than the library that
torch picks by itself; ``benchmarks/linear.py`` measures by how much whole steps gain. The two differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from normtune.config import Products
from normtune.fast.bfloat16 import Copies, can_lower
from normtune.fast.embedding import lookup
from normtune.methods.entries import Entries, marked


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN computes float32 products faster on this CPU than torch's own choice of a library."""
    cpuinfo = Path("/proc/cpuinfo")
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.is_file():
        return False
    return "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8", errors="replace")


def fast_linear(products: Products = "float32") -> AbstractContextManager[Any]:
    """Within this context, ``torch.nn.functional.linear`` takes the fast path where there is one.

    On the CPU that is oneDNN where `prefers_onednn`. On every device, a weight of which only some entries train (see
    `normtune.methods.selection`) gets the gradient of those entries alone, never the dense one; embeddings likewise.

    Args:
        products: What the products of frozen linear layers are computed in (`normtune.fast.bfloat16`).
    """
    return _FastLinear(prefers_onednn(), products == "bfloat16")


#: A gradient entry by entry needs no dense product but reads memory badly: the dense product becomes cheaper between
#: one entry in 512 and one in 64, by processor and version (``benchmarks/linear.py``).
_SPARSE_BELOW = 1 / 256


class _FastLinear(TorchFunctionMode):
    def __init__(self, onednn: bool, lower: bool) -> None:
        super().__init__()
        self._onednn, self._lower, self._copies = onednn, lower, Copies()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.backward and _starts_at_outputs(*args, **(kwargs or {})):
            with self:
                return _backward(*args, **(kwargs or {}))
        if func is torch.nn.functional.embedding:
            found = lookup(*args, **(kwargs or {})) if len(args) > 1 else None
            return func(*args, **(kwargs or {})) if found is None else found
        if func is not torch.nn.functional.linear or kwargs or not _suits(*args):
            return func(*args, **(kwargs or {}))
        inputs, weight, bias = args if len(args) == 3 else (*args, None)
        onednn = self._onednn and inputs.device.type == "cpu" and weight.dtype == torch.float32
        packed = marked(weight)
        if packed is not None and packed[1].share <= _SPARSE_BELOW:
            return _over_tokens(_apply, inputs, weight.detach(), bias, onednn, *packed)
        if self._lower and packed is None and can_lower(inputs, weight, bias):
            return _over_tokens(self._copies.linear, inputs, weight, bias)
        return _over_tokens(_apply, inputs, weight, bias, onednn, None, None) if onednn else func(*args)


def _starts_at_outputs(outputs: Tensor, *_: object, inputs: object = None, **__: object) -> bool:
    """Whether `_backward` can stand for this call of `torch.Tensor.backward`."""
    return outputs.requires_grad and inputs is None


def _backward(
    outputs: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: None = None,
) -> None:
    """`torch.Tensor.backward` with the mode still on, which torch switches off while the mode handles a call.

    Layers that are computed again in the backward pass (activation checkpointing) then go the same way as in the
    forward pass. An edge stands for the outputs, since those would call the mode again.
    """
    torch.autograd.backward(get_gradient_edge(outputs), gradient, retain_graph, create_graph, inputs)


def _suits(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the product is one over the tokens of a batch, in one dtype."""
    device = inputs.device.type
    return inputs.ndim == 3 and inputs.dtype == weight.dtype and not torch.is_autocast_enabled(device)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None, onednn: bool) -> Tensor:
    """``inputs @ weight.T + bias``."""
    if not onednn:
        return torch.nn.functional.linear(inputs, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], None)
    return result


def infer(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``inputs @ weight.T + bias`` without a gradient, as fast as in `fast_linear` but without its mode."""
    if inputs.ndim != 3 or weight.dtype != torch.float32 or inputs.device.type != "cpu" or not _suits(inputs, weight):
        return torch.nn.functional.linear(inputs, weight, bias)
    flat = product(inputs.reshape(-1, inputs.shape[-1]), weight, bias, prefers_onednn())
    return flat.view(*inputs.shape[:-1], flat.shape[-1])


class _Linear(torch.autograd.Function):
    """A linear layer, over (tokens, inputs), that computes only the products it needs."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        onednn: bool,
        leaf: Tensor | None,
        entries: Entries | None,
    ) -> Tensor:
        ctx.onednn, ctx.has_bias, ctx.entries = onednn, bias is not None, entries
        # A frozen layer needs no inputs for its backward pass, and single entries need few; only those are kept.
        kept = inputs if ctx.needs_input_grad[1] else None
        if entries is not None and ctx.needs_input_grad[4]:
            kept = entries.seen(inputs)
        ctx.save_for_backward(kept, weight)
        return product(inputs, weight, bias, onednn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_inputs = to_weight = to_bias = to_leaf = None
        if ctx.needs_input_grad[0]:
            to_inputs = product(grad, weight.t(), None, ctx.onednn)
        if ctx.needs_input_grad[1]:
            to_weight = product(grad.t().contiguous(), kept.t(), None, ctx.onednn)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            to_bias = grad.sum(0)
        if ctx.needs_input_grad[4]:
            to_leaf = ctx.entries.of_product(grad, kept)
        return to_inputs, to_weight, to_bias, None, to_leaf, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Linear.apply


def _over_tokens(layer: Callable[..., Tensor], inputs: Tensor, *others: object) -> Tensor:
    """`layer`, which takes (tokens, inputs), over (batch, tokens, inputs).

    The outputs are viewed in three dimensions outside the function, since some families change them in place, which
    torch refuses on a view made inside.
    """
    flat = layer(inputs.reshape(-1, inputs.shape[-1]), *others)
    return flat.view(*inputs.shape[:-1], flat.shape[-1])
