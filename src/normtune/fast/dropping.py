"""Any model's dropout from the fast generator, without a change to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from normtune.config import Generator
from normtune.fast.attention import attend, causal
from normtune.fast.dropout import dropout


def dropout_of(generator: Generator) -> AbstractContextManager[Any]:
    """Within this context, the dropout of any model on the CPU comes from `generator`."""
    return _FastDropout() if generator == "fast" else nullcontext()


class _FastDropout(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.dropout:
            return _dropout_call(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention:
            found = _attention_call(*args, **kwargs)
            return func(*args, **kwargs) if found is None else found
        return func(*args, **kwargs)


def _dropout_call(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`torch.nn.functional.dropout`."""
    if not training:
        return input
    result = dropout(input, p)
    return input.copy_(result) if inplace else result


def _attention_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.scaled_dot_product_attention` with dropout; None where torch's own is to be taken."""
    if not 0.0 < dropout_p < 1.0 or query.ndim != 4 or query.device.type != "cpu":
        return None
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mask = causal(query, key) if is_causal else attn_mask
    return attend(query, key, value, mask=mask, scale=scale, p=dropout_p)
