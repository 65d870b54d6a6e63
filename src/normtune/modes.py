"""Runs a function with torch's function modes switched off."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

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
