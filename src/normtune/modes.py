"""Modes: torch's function modes switched off for a function, and a model's training mode kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def unwatched(run: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """`run` with torch's function modes switched off, for operations that no mode changes.

    A mode is called at each operation and each look at a tensor's shape, which costs some microseconds.
    """

    @wraps(run)
    def without_modes(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        with torch._C.DisableTorchFunction():
            return run(*args, **kwargs)

    return without_modes


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Within this context `model` may be put into another mode; afterwards each module is in its own again."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
