"""Code of which torch's function modes are told nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def unwatched(run: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """`run`, without the modes of torch's that are told of each operation: of these dozens none is theirs to change.

    Being told costs some microseconds an operation, and as much for each look at a tensor's shape.
    """

    @wraps(run)
    def without_modes(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        with torch._C.DisableTorchFunction():
            return run(*args, **kwargs)

    return without_modes
