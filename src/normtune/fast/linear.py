"""Linear layers as fast as the processor allows, and gradients of only those weight entries that train.

On AMD processors with AVX-512, oneDNN, which is part of torch, computes float32 products faster than the library that
torch picks by itself; ``benchmarks/linear.py`` measures by how much whole steps gain. The two differ in the last bits.

With products in bfloat16, inputs, weights and outputs of frozen layers are rounded; sums run in float32, and the
outputs are float32 again. So the residual stream, norms, activations and attention keep their precision, and a layer
with anything that trains is left alone. ``benchmarks/training.py`` measures the gain.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from normtune.config import Products
from normtune.methods.entries import Entries, marked
from normtune.methods.packed import is_alias


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN computes float32 products faster on this CPU than torch's own choice of a library."""
    cpuinfo = Path("/proc/cpuinfo")
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.is_file():
        return False
    return "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8", errors="replace")


def bfloat16_pays_off() -> bool:
    """Whether this processor has bfloat16 products (AVX512-BF16, AMX); emulated ones are slower than float32."""
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch cannot tell
    known = ask()
    return known.get("architecture") != "x86_64" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def fast_linear(products: Products = "float32") -> AbstractContextManager[Any]:
    """Within this context, ``torch.nn.functional.linear`` takes the fast path where there is one.

    On the CPU that is oneDNN where `prefers_onednn`. On every device, a weight of which only some entries train (see
    `normtune.methods.selection`) gets the gradient of those entries alone, never the dense one; embeddings likewise.
    With `products` in ``bfloat16``, frozen values must not change within the context.
    """
    return _FastLinear(prefers_onednn(), products == "bfloat16")


#: A gradient entry by entry needs no dense product but reads memory badly: the dense product becomes cheaper between
#: one entry in 512 and one in 64, by processor and version (``benchmarks/linear.py``).
_SPARSE_BELOW = 1 / 256


class _FastLinear(TorchFunctionMode):
    def __init__(self, onednn: bool, lower: bool) -> None:
        super().__init__()
        self._onednn, self._lower = onednn, lower
        #: bfloat16 copies by the identity of the copied tensor; a copy is freed with it.
        self._copies: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.compiler.is_compiling():
            return func(*args, **(kwargs or {}))
        if func is torch.Tensor.backward and _of_a_loss(*args, **(kwargs or {})):
            # torch switches the mode off while it handles a call, but layers that are computed again in the backward
            # pass must take the same path as before. The loss itself would call the mode again; its edge does not.
            with self:
                return torch.autograd.backward(get_gradient_edge(args[0]))
        if func is torch.nn.functional.embedding and is_alias(args[1]):
            # torch has no sparse gradient with scale_grad_by_freq, nor for a token id of zero dimensions.
            return func(*args, **{**kwargs, "sparse": args[0].ndim > 0 and not kwargs["scale_grad_by_freq"]})
        if func is not torch.nn.functional.linear or kwargs or not _suits(*args):
            return func(*args, **(kwargs or {}))
        inputs, weight, bias = args if len(args) == 3 else (*args, None)
        onednn = self._onednn and inputs.device.type == "cpu" and weight.dtype == torch.float32
        packed = marked(weight)
        if packed is not None and packed[1].share <= _SPARSE_BELOW:
            return _over_tokens(inputs, weight.detach(), bias, onednn, *packed)
        if self._lower and packed is None and _is_frozen_float32(inputs, weight, bias):
            return _over_tokens(inputs, self._lowered(weight), None if bias is None else self._lowered(bias), False)
        return _over_tokens(inputs, weight, bias, onednn) if onednn else func(*args)

    def _lowered(self, frozen: Tensor) -> Tensor:
        """`frozen` in bfloat16, copied when it is first used."""
        if frozen not in self._copies:
            with torch.inference_mode(False):  # it may be on now, but a training uses the copy too
                self._copies[frozen] = frozen.detach().to(torch.bfloat16)
        copy: Tensor = self._copies[frozen]
        return copy


def _of_a_loss(loss: Tensor, *others: object, **more: object) -> bool:
    """Whether these arguments of ``torch.Tensor.backward`` are a loss and nothing else."""
    return loss.requires_grad and all(value is None or value is False for value in (*others, *more.values()))


def _suits(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether inputs are of shape (batch, tokens, width) and of the weight's dtype, without autocast."""
    device = inputs.device.type
    return inputs.ndim == 3 and inputs.dtype == weight.dtype and not torch.is_autocast_enabled(device)


def _is_frozen_float32(inputs: Tensor, *layer: Tensor | None) -> bool:
    """Whether inputs, weight and bias are float32, and the latter two frozen."""
    parts = [part for part in layer if part is not None]
    return all(part.dtype == torch.float32 for part in (inputs, *parts)) and not any(p.requires_grad for p in parts)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None, onednn: bool) -> Tensor:
    """``inputs @ weight.T + bias``."""
    if not onednn:
        return torch.nn.functional.linear(inputs, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], None)
    return result


def infer(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``inputs @ weight.T + bias`` without a gradient, as fast as in `fast_linear` but without its mode."""
    if weight.dtype != torch.float32 or inputs.device.type != "cpu" or not _suits(inputs, weight):
        return torch.nn.functional.linear(inputs, weight, bias)
    flat = product(inputs.reshape(-1, inputs.shape[-1]), weight, bias, prefers_onednn())
    return flat.view(*inputs.shape[:-1], flat.shape[-1])


class _Linear(torch.autograd.Function):
    """A linear layer, over (tokens, inputs), that computes only the products it needs, in the dtype of its weight."""

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
        return product(inputs.to(weight.dtype), weight, bias, onednn).to(inputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_inputs = to_weight = to_bias = to_leaf = None
        if ctx.needs_input_grad[0]:
            to_inputs = product(grad.to(weight.dtype), weight.t(), None, ctx.onednn).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = product(grad.t().contiguous(), kept.t(), None, ctx.onednn)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            to_bias = grad.sum(0)
        if ctx.needs_input_grad[4]:
            to_leaf = ctx.entries.of_product(grad, kept)
        return to_inputs, to_weight, to_bias, None, to_leaf, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Linear.apply


def _over_tokens(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    onednn: bool,
    leaf: Tensor | None = None,
    entries: Entries | None = None,
) -> Tensor:
    """`_Linear` over (batch, tokens, inputs).

    The outputs are viewed in three dimensions outside the function, since some families change them in place, which
    torch refuses on a view made inside.
    """
    flat = _apply(inputs.reshape(-1, inputs.shape[-1]), weight, bias, onednn, leaf, entries)
    return flat.view(*inputs.shape[:-1], flat.shape[-1])
