"""Products of frozen linear layers in bfloat16, with everything between them in float32.

Inputs, weights and outputs are rounded to bfloat16; sums run in float32, and the outputs are float32 again. So the
residual stream, norms, activations and attention keep their precision, and a layer with anything that trains is left
alone. ``benchmarks/training.py`` measures the gain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary


class Copies:
    """bfloat16 copies of frozen tensors; each is made when it is first used, and dropped with the tensor."""

    def __init__(self) -> None:
        # By identity, since tensors compare entry by entry; with the tensor's count of changes when it was copied.
        self._copies: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def of(self, frozen: Tensor) -> Tensor:
        """`frozen` in bfloat16, as it is now."""
        known: tuple[int, Tensor] | None = self._copies.get(frozen)
        if known is None or known[0] != frozen._version:
            # Not a tensor of the inference mode that may be on now: trainings use it too.
            with torch.inference_mode(False):
                known = (frozen._version, frozen.detach().to(torch.bfloat16))
            self._copies[frozen] = known
        return known[1]

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``inputs @ weight.T + bias`` over (tokens, inputs), float32; weight and bias are frozen."""
        return _apply(inputs, self.of(weight), None if bias is None else self.of(bias))


def pays_off() -> bool:
    """Whether this processor has bfloat16 products (AVX512-BF16, AMX); emulated ones are slower than float32."""
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch cannot tell
    known = ask()
    return known.get("architecture") != "x86_64" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def can_lower(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these belong to a frozen float32 layer."""
    parts = (inputs, weight) if bias is None else (inputs, weight, bias)
    return all(part.dtype == torch.float32 for part in parts) and not any(part.requires_grad for part in parts[1:])


class _Linear(torch.autograd.Function):
    """Keeps only the copy of the weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.nn.functional.linear(inputs.to(weight.dtype), weight, bias).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return (grads[0].to(weight.dtype) @ weight).float(), None, None


#: torch leaves `apply` untyped.
_apply: Callable[..., Tensor] = _Linear.apply
