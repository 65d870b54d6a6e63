"""Child-Tuning-F: in each step a random part of the gradient is left out (Xu et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import final

import torch
from torch import nn

from normtune.methods.hooked import Hooked, generator_of
from normtune.methods.selection import everything, in_range
from normtune.methods.trainable import Hook
from normtune.models.layout import Layout


def child_tuning_f(layout: Layout, *, option: int = 30) -> Hooked:
    """Every entry, each step along a random `option` per cent of the gradient (Child-Tuning-F, Xu et al. 2021)."""
    whole, share = everything(layout), in_range("child-tuning-f", "a percentage", option, 100) / 100
    return Hooked(layout, whole, "child-tuning-f", option, len(whole), True, partial(ChildTuning, share))


@final
class ChildTuning(Hook):
    """Multiplies the gradient by a mask that is 1 / p with probability p, and 0 otherwise.

    The mask is drawn anew in each step. Clipping and AdamW see the masked gradient; the authors' optimizer masks the
    clipped gradient instead. The head, which is not part of the pre-trained model, keeps all of its gradient.

    Args:
        share: The probability p.
        leaves: The parameters that train, by name.
    """

    def __init__(self, share: float, leaves: Mapping[str, nn.Parameter]) -> None:
        self._share, self._leaves, self._seed = share, leaves, 0
        self.ready = False

    def start(self, steps: int, seed: int) -> None:
        """Take the seed of the masks."""
        self._seed, self.ready = seed, True

    def gradient(self, step: int) -> None:
        """Mask the gradient."""
        grads = [leaf.grad for leaf in self._leaves.values() if leaf.grad is not None]
        generator = generator_of(grads[0].device, self._seed, step)
        for grad in grads:
            grad.mul_(torch.empty_like(grad).bernoulli_(self._share, generator=generator).div_(self._share))
