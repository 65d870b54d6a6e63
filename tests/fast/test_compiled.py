"""What compiled layers have of their own; that they are torch's is tested with fused ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from normtune.fast import layer
from normtune.fast.compiled import CompiledLayer
from normtune.fast.dropping import dropout_of
from normtune.fast.fused import fusable, fused
from normtune.fast.linear import fast_linear
from normtune.fast.unpadded import Packing
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import Base
from tests.conftest import needs_compiler
from tests.fast.test_fused import assert_near, inputs

pytestmark = needs_compiler


@pytest.mark.parametrize("padded", [False, True])
def test_the_kernels_compute_it(tiny_base: Base, monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    def unused(*_: object) -> Any:
        raise AssertionError

    for name in ("attend", "attend_back", "normalised", "normalised_back", "dropped", "draw_bits"):
        monkeypatch.setattr(layer, name, unused)
    tuning = Tuning(tiny_base, select(tiny_base.layout, "layernorm"))
    tiny_base.model.train()
    assert {type(each) for each in fusable(tiny_base.model, compiled=True).values()} == {CompiledLayer}
    # One token of 400 is padding: less than fused layers would leave out.
    batch = {name: values[:, :50].repeat(2, 1) for name, values in inputs(tiny_base, 50, padded=False).items()}
    if padded:
        batch["attention_mask"][3, -1] = 0
    with fast_linear(), dropout_of("fast"), fused(tiny_base.model, compiled=True):
        tiny_base.model(**batch).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in tuning.parameters())


def test_rows_of_padding_are_left_to_fused_layers(tiny_base: Base) -> None:
    module = tiny_base.model.eval().bert.encoder.layer[0]
    hidden, own = torch.randn(2, 30, 32), torch.ones(2, 30, dtype=torch.bool)
    own[1, -1] = False
    packing = Packing.of(hidden, own)
    assert packing.padding == 1
    found = packing.pad(CompiledLayer.of(module)(packing.pack(hidden), packing))
    plain = module(hidden, own[:, None, None])
    torch.testing.assert_close(found[own], plain[own], rtol=1e-5, atol=1e-5)


def test_products_in_bfloat16_round_what_fused_layers_round(minilm: Base) -> None:
    tuning = Tuning(minilm, select(minilm.layout, "layernorm"))
    trained, batch, found = list(tuning.parameters()), inputs(minilm, 23, padded=True), {}

    def run(*, compiled: bool, products: Any = "bfloat16") -> list[Tensor]:
        with fast_linear(), fused(minilm.model, products, compiled=compiled):
            outputs = minilm.model(**batch).logits
            return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), trained)]

    exact = run(compiled=True, products="float32")
    found = {compiled: run(compiled=compiled) for compiled in (False, True)}
    tuning.undo()
    assert_near(found[False], found[True], 1e-2)
    off = {c: torch.stack([(a - b).norm() / a.norm() for a, b in zip(exact, f, strict=True)]) for c, f in found.items()}
    assert 1e-4 < float(off[True].max()) < 1.5 * float(off[False].max())
