"""Tells whether modules are as their library made them, and replaces forward passes for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

#: The parts of a BERT-like layer that compute something.
_PARTS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("attention.self.query", "attention.self.key", "attention.self.value"), nn.Linear),
    **dict.fromkeys(("attention.output.dense", "intermediate.dense", "output.dense"), nn.Linear),
    **dict.fromkeys(("attention.self.dropout", "attention.output.dropout", "output.dropout"), nn.Dropout),
    **dict.fromkeys(("attention.output.LayerNorm", "output.LayerNorm"), nn.LayerNorm),
}
#: The parts that call those.
_CALLERS = ("", "attention", "attention.self", "attention.output", "intermediate", "output")


def is_plain(layer: nn.Module) -> bool:
    """Whether a BERT-like layer has exactly the parts that its family gives it, and no hooks.

    A part may be parametrized, since it still computes with its weights.
    """
    found = dict(layer.named_modules())
    return (
        found.keys() >= {*_PARTS, *_CALLERS}
        and getattr(layer, "chunk_size_feed_forward", None) == 0
        and all(parametrize.type_before_parametrizations(found[path]) is kind for path, kind in _PARTS.items())
        and not any(is_hooked(found[path]) for path in _PARTS)
        and not any(is_changed(found[path]) for path in _CALLERS)
    )


def is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks or a forward pass of its own, or is of a class from outside transformers."""
    return is_hooked(module) or not type(module).__module__.startswith("transformers.")


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward pass other than its class's."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


#: Where modules, and hooks on them, may come from without changing what a family computes.
_LIBRARIES = {"transformers", "torch", "peft", "bitsandbytes", "normtune"}


def is_library(thing: object) -> bool:
    """Whether a module's class, or a hook, comes from a library rather than from the user."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _LIBRARIES


def is_foreign(module: nn.Module) -> bool:
    """Whether a module has a forward pass or a hook of the user's own."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return "forward" in vars(module) or not all(map(is_library, hooks))


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within this context, calling `module` calls `forward`."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
