"""Frozen parameters whose entries train as a float32 leaf, through torch's parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from normtune.methods.entries import Entries, mark


class Cast(nn.Module):
    """A parameter of a dtype other than float32 that trains whole; one object for all modules that share it.

    Args:
        frozen: The parameter.
        values: The current values of what trains, flat; by default all of the parameter.
    """

    def __init__(self, frozen: nn.Parameter, values: Tensor | None = None) -> None:
        super().__init__()
        values = frozen.detach().reshape(-1) if values is None else values
        # In a tuple, so that they are not registered: the leaf is already, and the frozen one is not part of the state.
        self._tensors = (frozen, nn.Parameter(values.to(torch.float32, copy=True)))

    @property
    def leaf(self) -> nn.Parameter:
        """The values that train."""
        return self._tensors[1]

    def forward(self, leaf: Tensor) -> Tensor:
        """The parameter with the values of `leaf`."""
        frozen = self._tensors[0]
        return leaf.to(frozen.dtype).view(frozen.shape)

    def right_inverse(self, _: Tensor) -> tuple[Tensor]:
        """The leaf's values; torch calls this when the parametrization is registered."""
        return (self.leaf.detach(),)

    def restore(self) -> None:
        """Put back the frozen parameter's own values, where they changed."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to a device or dtype, as its parameters do."""
        frozen = self._tensors[0]
        frozen.data = fn(frozen.data)
        return self


class Packed(Cast):
    """A parameter of which some entries train; their values are written into it in place, without a copy, if possible.

    Args:
        frozen: The parameter.
        entries: Which of its entries train.
        in_place: Whether values may be written into `frozen` itself; otherwise into a copy, in every forward pass.
    """

    def __init__(self, frozen: nn.Parameter, entries: Entries, *, in_place: bool) -> None:
        original = frozen.detach().reshape(-1).index_select(0, entries.indices)
        super().__init__(frozen, original)
        self._entries, self._original = entries, original
        # Parameters that are views of one tensor share its version counter (see `_place`).
        whole = frozen.untyped_storage().nbytes() == frozen.nbytes
        self._in_place = in_place and whole and frozen.is_contiguous()
        self._written: int | None = None

    def forward(self, leaf: Tensor) -> Tensor:
        """The parameter with the values of `leaf` in place."""
        frozen = self._tensors[0]
        # Values of another tensor in the leaf's place (`torch.func.functional_call`, replicas) must not stay behind.
        if leaf is not self.leaf or not self._in_place or torch.compiler.is_compiling():
            values, at = leaf.to(frozen.dtype), self._entries.indices.to(leaf.device)
            composed = frozen.to(leaf.device).reshape(-1).scatter(0, at, values).view(frozen.shape)
            return mark(composed, leaf, self._entries) if leaf.device == frozen.device else composed
        self._place()
        return mark(_alias(leaf, frozen, self._entries), leaf, self._entries)

    def restore(self) -> None:
        """Put back the frozen parameter's own values."""
        frozen = self._tensors[0]
        if self._in_place:
            with torch.no_grad():
                frozen.view(-1).scatter_(0, self._entries.indices, self._original)

    def _place(self) -> None:
        """Write the leaf's values into the frozen parameter.

        torch counts in-place changes of a tensor, and refuses to differentiate what was computed before the last one.
        This write counts as a change only if the leaf's own version has risen; otherwise the values are there already,
        or were changed through ``.data``, which torch does not count either.
        """
        frozen, leaf = self._tensors
        target = frozen.data if leaf._version == self._written else frozen
        with torch.no_grad():
            target.view(-1).scatter_(0, self._entries.indices, leaf.detach().to(frozen.dtype))
        self._written = leaf._version

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._original = fn(self._original)
        self._entries = Entries(fn(self._entries.indices), self._entries.shape)
        return super()._apply(fn, recurse)


class _Alias(torch.autograd.Function):
    """The frozen tensor itself, whose gradient goes to the leaf of the entries that train."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, frozen: Tensor, entries: Entries) -> Tensor:
        ctx.entries = entries
        return frozen.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), entries = grads, ctx.entries
        if not grad.is_sparse:
            return grad.reshape(-1).index_select(0, entries.indices), None, None
        # An embedding's: the rows that were looked up. A row of zeros after them serves for all others.
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32)).coalesce()
        looked_up, rows = grad.indices()[0], torch.cat((grad.values(), grad.values().new_zeros(1, entries.width)))
        places = looked_up.new_full((len(grad),), len(looked_up))
        places[looked_up] = torch.arange(len(looked_up), device=grad.device)
        return rows[places[entries.rows], entries.columns], None, None


#: torch leaves `apply` untyped.
_alias: Callable[..., Tensor] = _Alias.apply


def is_alias(weight: Tensor) -> bool:
    """Whether `weight` is a frozen tensor whose entries train in place; it takes a sparse gradient too."""
    return isinstance(weight.grad_fn, _Alias._backward_cls)
