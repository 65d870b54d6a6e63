"""RED: a scale and a bias for the outputs of each feed-forward block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from normtune.errors import DeltaError
from normtune.methods.added import NAME, OutputModules, refuse_rounding
from normtune.methods.trainable import Cost, copy_values
from normtune.models.base import Base
from normtune.models.families import TRANSPOSED, block_ends
from normtune.models.layout import Layout


def red(layout: Layout) -> Red:
    """A scale and a bias for the outputs of each layer's feed-forward block (RED, Wu et al. 2024).

    They edit the outputs of the block's last matrix, before dropout and the residual sum.
    """
    _, feed_forward = block_ends(layout)
    return Red(layout, feed_forward)


@final
@dataclass(frozen=True)
class Red(OutputModules):
    """A scale and a bias for the outputs of some modules."""

    method = "red"

    @property
    def cost(self) -> Cost:
        """It merges where the matrix before it has a bias."""
        merges = all(f"{target}.bias" in self.layout.by_name for target in self.targets)
        return "none" if merges else "extra layers"

    def modules(self) -> list[nn.Module]:
        """A scale and a bias for each module."""
        return [Edit(self.width(target)) for target in self.targets]

    def merge(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        """Fold scale and bias into the matrix and the bias before them (see `Spec.merge`).

        Raises:
            DeltaError: If the matrix has no bias, the base is below float32 precision, or the state does not fit.
        """
        refuse_rounding(base)
        with ExitStack() as aside:  # checks that the state fits
            self.apply(base, state, aside)
        for target in self.targets:
            module: Any = base.model.get_submodule(target)
            if module.bias is None:
                raise DeltaError(f"{self.method} cannot be merged into this model: {target} has no bias.")
            scale, bias = (state[f"{target}.{NAME}.{name}"].to(module.weight) for name in ("scale", "bias"))
            for value in (module.weight, module.bias):
                undo.callback(copy_values, value, value.detach().clone())
            rows = scale if self.layout.model_type in TRANSPOSED else scale[:, None]
            copy_values(module.weight, rows * module.weight)
            copy_values(module.bias, scale * module.bias + bias)


class Edit(nn.Module):
    """h -> scale * h + bias; initially the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """The edited `hidden`, of the same shape."""
        return self.scale * hidden + self.bias
