"""Compiled layers against torch's own: outputs, gradients, dropout, whole trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from normtune.config import Products, protocol
from normtune.errors import ConfigError
from normtune.execution.compiled import CompiledLayer
from normtune.execution.first_token import FAMILIES
from normtune.execution.fused import fusable, fused
from normtune.execution.linear import fast_linear
from normtune.execution.packing import Packing
from normtune.execution.sparse import Tuning
from normtune.models.base import Base
from normtune.selection.expression import select
from normtune.training.session import Session
from tests.conftest import BaseFactory, needs_compiler
from tests.execution.test_fused import assert_near, inputs
from tests.training.test_session import comparable, data

pytestmark = needs_compiler


def both_ways(
    base: Base, trained: list[Tensor], batch: dict[str, Tensor], products: Products = "float32"
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients as torch's and as compiled layers give them; as fused ones where products are bfloat16."""

    def run() -> list[Tensor]:
        outputs = base.model(**batch).logits
        return [outputs, *torch.autograd.grad(outputs.square().sum(), trained)]

    with fast_linear():
        if products == "float32":
            plain = run()
        else:
            with fused(base.model, products):
                plain = run()
        with fused(base.model, products, compiled=True):
            return plain, run()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("tokens", "padded"), [(5, False), (5, True), (19, True)])
def test_in_float64_outputs_and_gradients_are_torchs(
    make_base: BaseFactory, family: str, tokens: int, padded: bool
) -> None:
    base = make_base(family)
    base.model.double()
    chosen = [p for n, p in base.model.named_parameters() if ".layer." in n and "LayerNorm." in n]
    for parameter in chosen:
        parameter.requires_grad_()
    assert all(type(layer) is CompiledLayer for layer in fusable(base.model, compiled=True).values())
    assert_near(*both_ways(base, chosen, inputs(base, tokens, padded=padded)), 1e-10)


@pytest.mark.parametrize("method", ["layernorm", "attention-layernorm", "layernorm@1-", "bitfit", "output.dense@1"])
def test_in_float32_they_are_to_rounding_whatever_trains(tiny_base: Base, method: str) -> None:
    tuning = Tuning(tiny_base, select(tiny_base.layout, method))
    assert_near(*both_ways(tiny_base, list(tuning.parameters()), inputs(tiny_base, 9, padded=True)), 1e-5)


def test_products_in_bfloat16_round_what_fused_layers_round(minilm: Base) -> None:
    tuning = Tuning(minilm, select(minilm.layout, "layernorm"))
    batch = inputs(minilm, 23, padded=True)
    fused_ones, own = both_ways(minilm, list(tuning.parameters()), batch, "bfloat16")
    tuning.undo()
    assert_near(fused_ones, own, 1e-2)


def test_evaluation_is_torchs(tiny_base: Base) -> None:
    batch = inputs(tiny_base, 7, padded=True)
    with torch.inference_mode(), fast_linear():
        plain = tiny_base.model(**batch).logits
        with fused(tiny_base.model, compiled=True):
            torch.testing.assert_close(tiny_base.model(**batch).logits, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [5, 17])
def test_gradients_with_dropout_are_the_differences_of_outputs(make_base: BaseFactory, tokens: int) -> None:
    base = make_base("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4)
    module = base.model.double().train().bert.encoder.layer[0]
    norms = (module.attention.output.LayerNorm, module.output.LayerNorm)
    layer, hidden = CompiledLayer.of(module), torch.randn(2, tokens, 32, dtype=torch.float64, requires_grad=True)
    values = [hidden, *(p.requires_grad_() for norm in norms for p in norm.parameters())]
    own = torch.ones(2, tokens, dtype=torch.bool)
    own[1, 3:] = False
    packing = Packing.of(hidden, own, waste=0.0)

    def run(*_: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same masks every time
        return packing.pad(layer(packing.pack(hidden), packing))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


def test_dropout_has_torchs_statistics(make_base: BaseFactory) -> None:
    base = make_base("bert", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    module = base.model.train().bert.encoder.layer[0]
    count = 8000
    hidden = torch.randn(1, 6, 32).expand(count, 6, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = module(hidden)[:, 0]
        packing = Packing.of(hidden, None)
        other = packing.pad(CompiledLayer.of(module)(packing.pack(hidden), packing))[:, 0]
    deviation = plain.std(0)
    assert float(((plain.mean(0) - other.mean(0)).abs() / deviation).max()) < 5 * (2 / count) ** 0.5
    assert float((other.std(0) / deviation - 1).abs().max()) < 0.05
    assert not torch.equal(other[0], other[1])


@pytest.mark.parametrize(("prefix", "method"), [(True, "layernorm"), (True, "layernorm@1-"), (False, "layernorm")])
def test_a_whole_training_is_torchs(tiny_folder: Path, prefix: bool, method: str) -> None:
    session, runs = Session(str(tiny_folder)), []
    for layers in ("torch", "compiled"):
        chosen = protocol("small", epochs=2, batch_size=8, prefix=prefix, layers=layers)
        runs.append(session.run(session.config("animals", method, 1e-2, 0, chosen), data()))
    (plain, values), (fast, others) = runs
    assert plain.id != fast.id
    assert [p.loss for p in fast.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-5)
    assert fast.score == plain.score
    for name, value in values.values.items():
        assert (value - others.values[name]).norm() <= 2e-5 * value.norm()


def test_a_training_with_dropout_repeats_to_the_bit(tiny_folder: Path) -> None:
    chosen = protocol("small", epochs=2, batch_size=8, dropout=True, dropout_generator="fast", layers="compiled")
    records = []
    for _ in range(2):
        session = Session(str(tiny_folder))
        records.append(session.run(session.config("animals", "layernorm", 1e-2, 0, chosen), data())[0])
    assert comparable(records[0]) == comparable(records[1])


def test_what_cannot_be_compiled_is_refused(make_base: BaseFactory) -> None:
    with pytest.raises(ConfigError, match="fast generator"):
        protocol("paper", layers="compiled")
    gpt = make_base("gpt2")
    with pytest.raises(ConfigError, match="not for 'gpt2'"), fused(gpt.model, compiled=True):
        pass
