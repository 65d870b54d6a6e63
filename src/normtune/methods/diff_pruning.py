"""Diff pruning: a difference from the pre-trained values that learns to be sparse (Guo et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from normtune.methods.hooked import Hooked, generator_of
from normtune.methods.selection import at, everything, in_range
from normtune.methods.trainable import Hook, Spec
from normtune.models.layout import Layout

#: The authors' constants: the interval that gates are stretched to, their initial logit, their learning rate, and the
#: weight of the penalty, per entry.
LOWER, UPPER, FIRST, RATE, PENALTY = -1.5, 1.5, 5.0, 0.1, 1.25e-7
#: Factor on the steps of the second half. In the paper that is a separate training, at 5e-5 after a first one at 1e-5;
#: here it begins when the rate has fallen to a half.
FASTER = 10
#: A gate is above zero with the probability sigmoid(logit - OFFSET).
OFFSET = math.log(-LOWER / UPPER)


def diff_pruning(layout: Layout, *, option: int | None = None) -> Hooked:
    """A sparse difference from the pre-trained entries, found while all of them train (Guo et al. 2021).

    In the end `option` entries may differ, by default 0.5 % of all, as in the paper.
    """
    size = max(1, round(0.005 * layout.size)) if option is None else option
    in_range("diff-pruning", "a number of entries", size, layout.size)
    return Hooked(layout, everything(layout), "diff-pruning", size, size, False, partial(DiffPruning, layout, size), 2)


@final
class DiffPruning(Hook):
    """Trains theta + z_g z w, where w is the difference, z a gate for each entry, and z_g a gate for each parameter.

    In the first half of the steps, gates are drawn from hard-concrete distributions, anew in each step. Their logits
    alpha are trained to minimise the loss plus a penalty on the expected number of entries that differ (the paper's
    section 3.1, with the groups of 3.3). Then the `size` entries that differ most are kept (3.2), and only their
    differences train on, with longer steps (`FASTER`).

    The model's parameters hold theta + z_g z w; the step that AdamW takes on them, along w's gradient, is applied to w.
    The logits have their own Adam at the authors' rate, which falls linearly; their gradient is not clipped.

    Args:
        layout: The model's parameters.
        size: How many entries may differ in the end.
        leaves: All parameters, in the layout's order.
    """

    def __init__(self, layout: Layout, size: int, leaves: Mapping[str, nn.Parameter]) -> None:
        self._layout, self._size, self._leaves = layout, size, [*leaves.values()]
        self._origin = torch.cat([leaf.detach().reshape(-1) for leaf in self._leaves])
        self.ready = False

    def start(self, steps: int, seed: int) -> None:
        """Start with a difference of zero, and with gates that are mostly open."""
        self._origin = self._origin.to(self._leaves[0].device)  # the model may have moved
        self._last, self._seed, self._mask = max(1, steps // 2), seed, torch.empty(0)
        # For each entry: w, alpha, and z before it is stretched; for each parameter alpha_g, and z_g with its slope.
        self._difference, self._soft = torch.zeros_like(self._origin), torch.empty_like(self._origin)
        self._alpha = torch.full_like(self._origin, FIRST)
        self._groups = self._origin.new_full((len(self._leaves),), FIRST)
        self._adam = torch.optim.Adam([self._alpha, self._groups], lr=RATE, fused=True)
        self._draw(1)

    @torch.no_grad()
    def gradient(self, step: int) -> None:
        """Train the gates, and turn the gradient into that of the difference."""
        if self.ready:
            self._before = [values[self._mask[span]] for _, values, _, span in self._blocks()]
            for _, _, grad, span in self._blocks():
                grad.mul_(self._mask[span])
            return
        group_on = torch.sigmoid(self._groups - OFFSET)
        self._alpha.grad, pulls, number = torch.empty_like(self._alpha), *torch.zeros(2, *group_on.shape).to(group_on)
        for group, _, grad, span in self._blocks():
            gate, pull = gate_of(self._soft[span]), grad * self._difference[span]
            on = torch.sigmoid(self._alpha[span] - OFFSET)
            pulls[group] += pull @ gate
            number[group] += on.sum()
            # The gradient of the loss, then that of the penalty.
            change = pull.mul_(slope_of(self._soft[span])).mul_(self._group_gates[group])
            self._alpha.grad[span] = change.add_(PENALTY * group_on[group] * on * (1 - on))
            grad.mul_(gate).mul_(self._group_gates[group])
        self._groups.grad = pulls * self._group_slopes + PENALTY * number * group_on * (1 - group_on)
        self._adam.param_groups[0]["lr"] = RATE * (1 - (step - 1) / self._last)
        self._adam.step()

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Apply the optimizer's step to w, and draw the next gates; halfway, keep only the largest differences."""
        if not self.ready:
            for group, values, _, span in self._blocks():
                self._difference[span] += values - self._placed(group, span)
            self._draw(step + 1)
            if step < self._last:
                return
            now = torch.cat([values for _, values, _, _ in self._blocks()])
            mask = torch.zeros_like(now, dtype=torch.bool)
            mask[largest(now - self._origin, self._size)] = True
            self._keep(mask)
            self._before = [now[span][mask[span]] for _, _, _, span in self._blocks()]
        for (_, values, _, span), before in zip(self._blocks(), self._before, strict=True):
            moved = torch.lerp(before, values[self._mask[span]], FASTER)
            values.copy_(self._origin[span])
            values[self._mask[span]] = moved

    def state(self) -> dict[str, Tensor]:
        """The differences, the gates' logits and their optimizer's state; in the second half, the mask alone."""
        if self.ready:
            return {"mask": self._mask}
        kept = {"difference": self._difference, "alpha": self._alpha, "groups": self._groups}
        for number, state in self._adam.state_dict()["state"].items():
            kept |= {f"adam/{number}/{name}": value for name, value in state.items()}
        return kept

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        if "mask" in state:
            self._keep(state["mask"].to(self._origin.device))
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
        self._draw(int(state.get("adam/0/step", torch.tensor(0))) + 1)

    def result(self, values: Mapping[str, Tensor]) -> tuple[Spec, dict[str, Tensor]]:
        """A selection of the entries that differ most, as many as may differ, and their values."""
        flat = torch.cat([*values.values()])
        chosen = at(self._layout, largest(flat - self._origin.cpu(), self._size).numpy())
        return chosen, {name: values[name][torch.from_numpy(chosen.indices(name))] for name in chosen.chosen}

    @torch.no_grad()
    def _draw(self, step: int) -> None:
        """Draw the gates of a step, and set the model's parameters accordingly."""
        generator = generator_of(self._origin.device, self._seed, step)
        soft = soft_gate(self._groups, uniform(self._groups, generator))
        self._group_gates, self._group_slopes = gate_of(soft), slope_of(soft)
        for group, values, _, span in self._blocks():
            self._soft[span] = soft_gate(self._alpha[span], uniform(values, generator))
            values.copy_(self._placed(group, span))

    def _placed(self, group: int, span: slice) -> Tensor:
        """The model's entries: theta + z_g z w."""
        opened = gate_of(self._soft[span]).mul_(self._group_gates[group])
        return torch.addcmul(self._origin[span], opened, self._difference[span])

    def _keep(self, mask: Tensor) -> None:
        """Switch to the second half, in which the entries of `mask` train without gates."""
        self._mask, self.ready = mask, True
        del self._difference, self._soft, self._alpha, self._adam

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor, slice]]:
        """All entries in blocks, on a CPU fit for a core's cache: parameter number, values, gradient and slice."""
        size, start = 1 << (18 if self._origin.device.type == "cpu" else 24), 0
        for group, leaf in enumerate(self._leaves):
            grads = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for values, grad in zip(leaf.detach().view(-1).split(size), grads.view(-1).split(size), strict=True):
                yield group, values, grad, slice(start, start + len(values))
                start += len(values)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random numbers between 0 and 1, in the shape of `like`."""
    return torch.rand(like.shape, generator=generator, device=like.device)


def soft_gate(alpha: Tensor, noise: Tensor) -> Tensor:
    """A gate before stretching: a draw from a concrete distribution by uniform noise (Guo et al. 2021, section 3.1)."""
    return torch.logit(noise).add_(alpha).sigmoid_()


def gate_of(soft: Tensor) -> Tensor:
    """The hard-concrete gate: stretched to the interval, then clamped to 0 and 1."""
    return (soft * (UPPER - LOWER)).add_(LOWER).clamp_(0, 1)


def slope_of(soft: Tensor) -> Tensor:
    """The gate's derivative with respect to its logit."""
    gate = gate_of(soft)
    return (UPPER - LOWER) * soft * (1 - soft) * ((gate > 0) & (gate < 1))


def largest(difference: Tensor, size: int) -> Tensor:
    """The positions of the `size` entries that differ most."""
    return difference.abs().topk(size).indices
