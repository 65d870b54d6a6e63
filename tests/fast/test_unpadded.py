"""Batches without padding: rows, groups, and attention over them against torch's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from normtune.fast.layer import Heads, attend, attend_back
from normtune.fast.unpadded import EXACT, Unpadded

HEADS, WIDTH = 2, 8

#: The lengths of a batch's texts, and the number of groups that attention splits them into.
MIXES = {
    "alike": ([19] * 4, 1),
    "hardly padded": ([50] * 9 + [49], 1),
    "short and alike": ([5] * 3, 1),
    "exact": ([18, 25, 18, 30, 25], 3),
    "exact and short": ([3, 9, 3, 30], 3),
    "many": ([*range(12, 40)], 8),
    "one token": ([1, 40], 2),
    "an empty text": ([0, 20, 10], 2),
}


def owned(lengths: list[int], *, holes: bool = False) -> Tensor:
    own = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if holes:  # tokens of a text need not be the first ones
        own = own.flip(1)
    return own


@pytest.mark.parametrize("mix", MIXES)
def test_rows_are_each_texts_own_tokens_and_come_back_to_their_places(mix: str) -> None:
    lengths, groups = MIXES[mix]
    own = owned(lengths)
    hidden = torch.randn(*own.shape, WIDTH) * own[..., None]
    batch = Unpadded.of(hidden, own)
    rows = batch.strip(hidden)
    assert len(batch.groups) == groups
    assert len(rows) == sum(sum(group.lengths) for group in batch.groups) <= own.sum() / 0.98
    assert torch.equal(batch.pad(rows), hidden)
    parts = [part for group in batch.groups for part in rows[group.start : group.stop].split(list(group.lengths))]
    order = range(len(lengths)) if batch.rows is None else sorted(range(len(lengths)), key=lambda text: -lengths[text])
    for text, part in zip(order, parts, strict=False):
        assert torch.equal(part[: lengths[text]], hidden[text][: lengths[text]])


def test_texts_are_grouped_by_length_exactly_if_they_have_few_lengths() -> None:
    for count in (EXACT, EXACT + 1):
        lengths = [20 + number for number in range(count)] * 2
        batch = Unpadded.of(torch.zeros(len(lengths), max(lengths), WIDTH), owned(lengths))
        exact = all(len(set(group.lengths)) == 1 for group in batch.groups)
        assert exact == (count == EXACT)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix != "an empty text"])
def test_attention_and_its_gradient_are_torchs_over_the_padded_batch(mix: str, holes: bool) -> None:
    own = owned(MIXES[mix][0], holes=holes)
    padded = torch.randn(*own.shape, 3 * HEADS * WIDTH, dtype=torch.float64, requires_grad=True)
    parts = padded.view(*own.shape, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
    plain = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=own[:, None, None], scale=0.4)
    plain = plain.transpose(1, 2).flatten(2) * own[..., None]
    gradient = torch.randn_like(plain) * own[..., None]
    (to_padded,) = torch.autograd.grad(plain, padded, gradient)

    batch = Unpadded.of(padded, own)
    how = Heads(HEADS, 0.4, None)
    joined, kept = attend(batch.strip(padded).detach(), batch, how)
    to_qkv = attend_back(batch.strip(gradient), batch, how, kept)
    torch.testing.assert_close(batch.pad(joined) * own[..., None], plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(batch.pad(to_qkv), to_padded, rtol=1e-12, atol=1e-12)


def test_stripping_is_differentiated_as_a_choice_of_rows() -> None:
    own = owned([4, 30, 11])
    hidden = torch.randn(*own.shape, 3, dtype=torch.float64, requires_grad=True)
    batch = Unpadded.of(hidden, own)
    assert torch.autograd.gradcheck(batch.strip, hidden)
    assert torch.autograd.gradcheck(lambda values: batch.pad(batch.strip(values)), hidden)


@pytest.mark.parametrize("seed", range(5))
def test_no_token_is_lost_whatever_the_lengths(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, int(generator.integers(2, 130)), size=int(generator.integers(1, 40))).tolist()
    own = owned(lengths)
    batch = Unpadded.of(torch.zeros(*own.shape, 1), own)
    ends = [(group.start, group.stop) for group in batch.groups]
    assert ends[0][0] == 0
    assert ends[-1][1] == len(batch.strip(torch.zeros(*own.shape, 1)))
    assert all(one[1] == two[0] for one, two in pairwise(ends))
    if batch.rows is not None:
        assert sorted(batch.rows.tolist()) == own.reshape(-1).nonzero()[:, 0].tolist()
