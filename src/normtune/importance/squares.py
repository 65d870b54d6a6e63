"""Sums over examples of squared per-example gradients, from a layer's inputs and the gradient of its outputs.

A layer sees a batch of examples, each of several tokens. The gradient of a parameter *for one example* is a sum over
that example's tokens; these functions square it per example and add up, without a backward pass per example.

Shapes: ``B`` examples, ``T`` tokens each, ``I`` inputs and ``O`` outputs of a linear layer. Padding takes no part,
since the gradient of its outputs is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Most bytes of per-example gradients held at once, where several are formed together.
_CHUNK = 256 << 20


def linear_entries(inputs: Tensor, grad: Tensor) -> Tensor:
    """For each entry of a linear weight, (O, I), the sum over examples of its squared gradient.

    It takes the layer's inputs, (B, T, I), and the gradient of its outputs, (B, T, O). A bounded number of per-example
    gradients is held at once; on the CPU a single one, which stays in the cache; with one token per example none, since
    the square of a product is the product of the squares.
    """
    if inputs.shape[1] == 1:
        return torch.mm(grad[:, 0].square().t(), inputs[:, 0].square())
    total = grad.new_zeros(grad.shape[2], inputs.shape[2])
    if grad.device.type == "cpu":
        single = torch.empty_like(total)
        for own, out in zip(inputs, grad, strict=True):
            torch.mm(out.t(), own, out=single)
            total.addcmul_(single, single)
        return total
    size = max(1, _CHUNK // (total.numel() * total.element_size()))
    for own, out in zip(inputs.split(size), grad.split(size), strict=True):
        total += torch.bmm(out.transpose(1, 2), own).square_().sum(0)
    return total


def linear_total(inputs: Tensor, grad: Tensor) -> Tensor:
    """The sum of `linear_entries` over all entries, as a float64 number, in the cheaper of two ways.

    The squared Frobenius norm of ``G^T X`` is the sum of ``(X X^T) * (G G^T)``, two matrices of T by T, so that no
    gradient of the weight is formed. For long texts through a narrow layer the gradient is the smaller matrix.
    """
    if not tokens_are_cheaper(inputs.shape[1], inputs.shape[2], grad.shape[2]):
        return linear_entries(inputs, grad).sum(dtype=torch.float64)
    return torch.dot(*(torch.bmm(own, own.transpose(1, 2)).view(-1) for own in (inputs, grad))).double()


def tokens_are_cheaper(tokens: int, inputs: int, outputs: int) -> bool:
    """Whether products of tokens are cheaper than the gradient of the weight."""
    return tokens * (inputs + outputs) < inputs * outputs


def table_rows(ids: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The squared per-example gradients of the rows of an embedding that a batch looks up as `ids` (B, T).

    A token that occurs twice in a text is one row: its gradients add before they are squared.

    Returns:
        Row numbers, of shape (N,), each row once for every example that looks it up, and the squared gradients, of
        shape (N, O).
    """
    stride = int(ids.max()) + 1
    places = ids + torch.arange(len(ids), device=ids.device)[:, None] * stride
    met, position = torch.unique(places, return_inverse=True)
    sums = grad.new_zeros(len(met), grad.shape[2])
    sums.index_add_(0, position.flatten(), grad.flatten(0, 1))
    return met % stride, sums.square_()
