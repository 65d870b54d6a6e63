"""Diff pruning: a difference from the pre-trained values that learns to be sparse (Guo et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from normtune.errors import SelectionError
from normtune.methods.hooked import Hooked, generator_of
from normtune.methods.selection import at, everything
from normtune.methods.trainable import Hook, Spec
from normtune.models.layout import Layout

#: The authors' constants: the interval that gates are stretched to, what they begin with, their rate, and the weight of
#: the penalty, for each entry.
LOWER, UPPER, FIRST, RATE, PENALTY = -1.5, 1.5, 5.0, 0.1, 1.25e-7
#: A gate is open at all with the probability of the sigmoid of its logit less this.
OFFSET = math.log(-LOWER / UPPER)


def diff_pruning(layout: Layout, *, option: int | None = None) -> Hooked:
    """A sparse difference from the pre-trained entries, found as all of them train (Guo et al. 2021).

    Args:
        layout: The model's parameters.
        option: How many entries may differ in the end; 0.5 % of all unless given, as in the paper.

    Raises:
        SelectionError: If the model does not have that many entries.
    """
    size = max(1, round(0.005 * layout.size)) if option is None else option
    if not 1 <= size <= layout.size:
        raise SelectionError(f"diff-pruning takes 1 to {layout.size:,} entries of this model; got {size:,}.")
    return Hooked(layout, everything(layout), "diff-pruning", size, size, False, partial(DiffPruning, layout, size))


@final
class DiffPruning(Hook):
    """Trains theta + z_g z w: w is a difference, z a gate for each entry, z_g one for the parameter that it belongs to.

    In the first half of the steps gates are drawn from hard-concrete distributions, anew in each step. Their logits
    alpha are trained to make the loss and the expected number of entries that differ small (the paper's section 3.1,
    with the groups of 3.3). Then the entries that differ most are kept, so many as there are to be (3.2), and their
    difference trains on alone.

    The model's own parameters are theta + z_g z w; AdamW's step on them, along w's gradient, is one on w. The logits
    have an Adam of their own at the authors' rate, which falls linearly; their gradient is not clipped.

    Args:
        layout: The model's parameters.
        size: How many entries may differ in the end.
        leaves: All parameters, in the layout's order.
    """

    def __init__(self, layout: Layout, size: int, leaves: Mapping[str, nn.Parameter]) -> None:
        self._layout, self._size, self._leaves = layout, size, [*leaves.values()]
        self._lengths = torch.tensor([leaf.numel() for leaf in self._leaves], device=self._leaves[0].device)
        self._origin = self._flat(self._leaves)
        self.ready = False

    def start(self, steps: int, seed: int) -> None:
        """Begin with a difference of zero, and with gates that are mostly open."""
        self._last, self._seed = max(1, steps // 2), seed
        self._difference, self._alpha = torch.zeros_like(self._origin), torch.full_like(self._origin, FIRST)
        self._groups = torch.full_like(self._lengths, FIRST, dtype=torch.float32)
        self._adam = torch.optim.Adam([self._alpha, self._groups], lr=RATE)
        self._mask: Tensor | None = None
        self._draw(1)

    @torch.no_grad()
    def gradient(self, step: int) -> None:
        """Train the gates, and make the gradient that of the difference."""
        grads = self._flat([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves])
        if self._mask is None:
            # By the loss; then by the expected number of entries that differ.
            pull = grads * self._difference
            self._alpha.grad = pull * self._slope * self._each(self._group_gates)
            self._groups.grad = self._sums(pull * self._gates) * self._group_slope
            on, group_on = (torch.sigmoid(logits - OFFSET) for logits in (self._alpha, self._groups))
            self._alpha.grad += PENALTY * on * (1 - on) * self._each(group_on)
            self._groups.grad += PENALTY * self._sums(on) * group_on * (1 - group_on)
            self._adam.param_groups[0]["lr"] = RATE * (1 - (step - 1) / self._last)
            self._adam.step()
        for leaf, factor in zip(self._leaves, self._split(self._open), strict=True):
            if leaf.grad is not None:
                leaf.grad.mul_(factor)

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Take over the optimizer's step, and draw the next gates; halfway, keep the largest differences alone."""
        now = self._flat(self._leaves)
        if self._mask is None:
            self._difference += now - self._placed
            self._draw(step + 1)
            now = self._placed
            if step == self._last:
                mask = torch.zeros_like(now, dtype=torch.bool)
                mask[largest(now - self._origin, self._size)] = True
                self._keep(mask)
        if self._mask is not None:
            self._place(torch.where(self._mask, now, self._origin))

    def state(self) -> dict[str, Tensor]:
        """The differences, the gates' logits and what their optimizer keeps; in the second half, what is kept."""
        if self._mask is not None:
            return {"mask": self._mask}
        kept = {"difference": self._difference, "alpha": self._alpha, "groups": self._groups}
        for number, state in self._adam.state_dict()["state"].items():
            kept |= {f"adam/{number}/{name}": value for name, value in state.items()}
        return kept

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from them."""
        device = self._origin.device
        if "mask" in state:
            self._keep(state["mask"].to(device))
            return
        for name, value in (("difference", self._difference), ("alpha", self._alpha), ("groups", self._groups)):
            value.copy_(state[name])
        known = self._adam.state_dict()
        for name, value in state.items():
            part, _, rest = name.partition("/")
            if part == "adam":
                number, _, what = rest.partition("/")
                known["state"].setdefault(int(number), {})[what] = value
        self._adam.load_state_dict(known)
        steps = known["state"][0]["step"] if known["state"] else 0
        self._draw(int(steps) + 1)

    def result(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]]:
        """A selection of the entries that differ, so many as there may be, and their values."""
        flat = torch.cat([*values.values()])
        chosen = at(self._layout, largest(flat - self._origin.cpu(), self._size).numpy())
        return chosen, {name: values[name][torch.from_numpy(chosen.indices(name))] for name in chosen.chosen}

    def _draw(self, step: int) -> None:
        """Draw the gates of a step, and give the model its parameters."""
        generator, device = generator_of(self._origin.device, self._seed, step), self._origin.device
        noise, group_noise = (
            torch.rand(logits.shape, generator=generator, device=device) for logits in (self._alpha, self._groups)
        )
        self._gates, self._slope = gates(self._alpha, noise)
        self._group_gates, self._group_slope = gates(self._groups, group_noise)
        self._open = self._gates * self._each(self._group_gates)
        self._placed = torch.addcmul(self._origin, self._open, self._difference)
        self._place(self._placed)

    def _keep(self, mask: Tensor) -> None:
        """Go over to the second half, in which the entries of `mask` train as they are."""
        self._mask = self._open = mask
        self.ready = True
        del self._difference, self._alpha, self._adam, self._gates, self._slope, self._placed

    @torch.no_grad()
    def _place(self, values: Tensor) -> None:
        for leaf, part in zip(self._leaves, self._split(values), strict=True):
            leaf.copy_(part)

    def _flat(self, tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def _split(self, values: Tensor) -> list[Tensor]:
        parts = values.split(self._lengths.tolist())
        return [part.view_as(leaf) for part, leaf in zip(parts, self._leaves, strict=True)]

    def _each(self, groups: Tensor) -> Tensor:
        """A number for each entry, its group's."""
        return groups.repeat_interleave(self._lengths, output_size=len(self._origin))

    def _sums(self, values: Tensor) -> Tensor:
        """A number for each group, the sum of its entries'."""
        return torch.stack([part.sum() for part in self._split(values)])


def gates(alpha: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Gates drawn from hard-concrete distributions (the paper's section 3.1; Louizos et al. 2018, equations 10 and 11).

    Args:
        alpha: Their logits.
        noise: Uniform between 0 and 1.

    Returns:
        The gates, between 0 and 1 with both ends included, and their derivatives by the logits.
    """
    soft = torch.sigmoid(torch.logit(noise) + alpha)
    stretched = soft * (UPPER - LOWER) + LOWER
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), (UPPER - LOWER) * soft * (1 - soft) * inside


def largest(difference: Tensor, size: int) -> Tensor:
    """The positions of the `size` entries that differ most."""
    return difference.abs().topk(size).indices
