"""Less memory for the backward pass, at the price of a second forward pass within it."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from normtune.fast.modules import replaced

#: Makes a context.
Modes = Callable[[], AbstractContextManager[Any]]


@contextmanager
def checkpointed(model: nn.Module, but: set[nn.Module], modes: Modes) -> Iterator[None]:
    """Within this context the layers of `model` keep only their inputs, and are computed again in the backward pass.

    The numbers are the same to the bit. This works in evaluation mode too, since training may be without dropout.
    Layers in `but`, which are computed in another way, are left alone; `modes` makes the context in which layers are
    computed again as they were before.
    """
    keep_freed(False)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m not in but]
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, partial(again, layer.forward, modes)))
        yield


def again(function: Callable[..., Any], modes: Modes, *args: Any, **kwargs: Any) -> Any:
    """Call `function`, and keep only its arguments for the backward pass (see `checkpointed`)."""
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    # A cache of keys and values would grow when a layer is computed again; classifiers have no use for one.
    args = tuple(None if isinstance(value, Cache) else value for value in args)
    kwargs = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), modes()), **kwargs)


#: glibc's options: the size from which a block is mapped by itself, and the free memory that it keeps.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


def keep_freed(keep: bool) -> None:
    """Let glibc keep freed memory for the next allocation, or give blocks of an activation's size back to the system.

    Fresh memory is cleared page by page, which costs a tenth of a step of short texts. Kept memory has gaps that no
    later block fits in. The setting is for the whole process.
    """
    if platform.libc_ver()[0] == "glibc":
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, 1 << 30 if keep else 4 << 20)
