"""Code that runs with torch's function modes switched off."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from normtune.modes import unwatched


class Told(TorchFunctionMode):
    """Counts the calls that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += 1
        return func(*args, **(kwargs or {}))


def square(values: torch.Tensor) -> torch.Tensor:
    """A few operations, and a look at a shape."""
    return (values * values).reshape(values.shape).sum()


def test_modes_are_told_nothing_and_gradients_flow() -> None:
    values = torch.randn(3, requires_grad=True)
    with Told() as told:
        found = unwatched(square)(values)
        assert told.times == 0
        square(values)
        assert told.times > 0
    found.backward()
    assert torch.equal(values.grad, 2 * values.detach())
