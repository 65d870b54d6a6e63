"""Attention written out, against torch's own and against a mask put in by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from normtune.fast import attention
from normtune.fast.attention import attend, causal


def parts(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shape = (2, 3, 5, 4)
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))  # type: ignore[return-value]


MASKS = {
    "none": None,
    "padding": torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None],
    "causal": causal(torch.empty(5, 4), torch.empty(5, 4)),
    "bias a head": torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1)),
    "number": torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("scale", [None, 0.3])
def test_without_dropout_it_is_torchs_own(mask: Tensor | None, scale: float | None) -> None:
    own, other = parts(), parts()
    mine = attend(*own, mask=mask, scale=scale)
    given = mask if mask is None or mask.dtype == torch.bool else mask.double()
    theirs = scaled_dot_product_attention(*other, attn_mask=given, scale=scale)
    weights = torch.randn_like(mine)
    for outputs in (mine, theirs):
        (outputs * weights).sum().backward()
    assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    for one, two in zip(own, other, strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-12)


def test_dropout_is_on_the_probabilities_after_the_softmax() -> None:
    query, key, value = parts()
    drawn: list[Tensor] = []

    def noting(shape: torch.Size) -> Tensor:
        drawn.append(torch.randint(-32768, 32768, shape, dtype=torch.int16))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "draw_bits", noting)
        outputs = attend(query, key, value, p=0.25)
    keep = (drawn[0] >= 16384 - 32768).view(2, 3, 5, 5)
    chances = (query @ key.transpose(2, 3) / 2).softmax(-1)
    expected = (chances * keep / 0.75) @ value
    assert torch.allclose(outputs, expected, rtol=1e-12, atol=1e-14)
    mine = torch.autograd.grad(outputs.square().sum(), (query, key, value))
    theirs = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for one, two in zip(mine, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12)


def test_a_mask_that_trains_gets_its_gradient() -> None:
    biases = [torch.zeros(3, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    attend(*parts(), mask=biases[0]).square().sum().backward()
    scaled_dot_product_attention(*parts(), attn_mask=biases[1]).square().sum().backward()
    assert biases[0].grad is not None
    assert biases[1].grad is not None
    assert torch.allclose(biases[0].grad, biases[1].grad, rtol=1e-10, atol=1e-12)
