"""Frozen parameters whose entries train as a leaf of float32, by torch's parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from normtune.methods.entries import Entries, mark


class Cast(nn.Module):
    """A parameter of another precision that trains whole; one for all modules that share it.

    Args:
        frozen: The parameter.
        values: The values that train as they are now, flat; without any all of the parameter.
    """

    def __init__(self, frozen: nn.Parameter, values: Tensor | None = None) -> None:
        super().__init__()
        values = frozen.detach().reshape(-1) if values is None else values
        # In a tuple, so that they are not registered: the leaf already is, and what is frozen is none of the state.
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
        """The leaf's values; torch asks for them when the parametrization is registered."""
        return (self.leaf.detach(),)

    def restore(self) -> None:
        """Put back the frozen parameter's own values, where they changed."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to a device or dtype, as its parameters do."""
        frozen = self._tensors[0]
        frozen.data = fn(frozen.data)
        return self


class Packed(Cast):
    """A parameter of which some entries train: their values are put into it, and it is used as it is, never copied.

    Args:
        frozen: The parameter.
        entries: Which of its entries train.
        in_place: Whether they may be put into `frozen` itself; otherwise into a copy, in every forward pass.
    """

    def __init__(self, frozen: nn.Parameter, entries: Entries, *, in_place: bool) -> None:
        original = frozen.detach().reshape(-1).index_select(0, entries.indices)
        super().__init__(frozen, original)
        self._entries, self._original = entries, original
        # Parameters that are views of one tensor share torch's count of its changes (see `_place`).
        whole = frozen.untyped_storage().nbytes() == frozen.nbytes
        self._in_place = in_place and whole and frozen.is_contiguous()
        self._written: int | None = None

    def forward(self, leaf: Tensor) -> Tensor:
        """The parameter with the values of `leaf` in place."""
        frozen = self._tensors[0]
        # Of other tensors in the leaf's place (`torch.func.functional_call`, replicas) nothing may stay behind.
        if leaf is not self.leaf or not self._in_place or torch.compiler.is_compiling():
            values = leaf.to(frozen.dtype)
            composed = frozen.reshape(-1).scatter(0, self._entries.indices, values).view(frozen.shape)
            return mark(composed, leaf, self._entries)
        self._place()
        return mark(_alias(leaf, frozen, self._entries), leaf, self._entries)

    def restore(self) -> None:
        """Put back the frozen parameter's own values."""
        frozen = self._tensors[0]
        if self._in_place:
            with torch.no_grad():
                frozen.view(-1).scatter_(0, self._entries.indices, self._original)

    def _place(self) -> None:
        """Put the leaf's values into the frozen parameter.

        torch counts the changes of a tensor, and refuses to differentiate what was computed before the last one. What
        is written here counts if the leaf's own count has gone up; else it is what is there already, or was changed
        through ``.data``, which torch does not count either.
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
    """The frozen tensor itself, with the gradient of the entries that train."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, frozen: Tensor, entries: Entries) -> Tensor:
        ctx.entries = entries
        return frozen.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), entries = grads, ctx.entries
        if not grad.is_sparse:
            return grad.reshape(-1).index_select(0, entries.indices), None, None
        # Of an embedding: the rows that were looked up. A row of zeros after them stands for all others.
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32)).coalesce()
        looked_up, rows = grad.indices()[0], torch.cat((grad.values(), grad.values().new_zeros(1, entries.width)))
        places = looked_up.new_full((len(grad),), len(looked_up))
        places[looked_up] = torch.arange(len(looked_up), device=grad.device)
        return rows[places[entries.rows], entries.columns], None, None


#: torch leaves `apply` untyped.
_alias: Callable[..., Tensor] = _Alias.apply


def is_alias(weight: Tensor) -> bool:
    """Whether it is a frozen tensor whose entries train in place, which takes a sparse gradient as well."""
    return isinstance(weight.grad_fn, _Alias._backward_cls)
