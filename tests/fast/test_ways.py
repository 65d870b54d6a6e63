"""The choice of fast ways: which are taken for which model, and that whole trainings by them match torch's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.models.bert.modeling_bert import BertEncoder

from normtune.config import protocol
from normtune.data.encode import encode
from normtune.data.task import Split
from normtune.evaluation import _WORTH, logits
from normtune.fast.prefix import StateCache
from normtune.fast.ways import choose
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, wrap
from normtune.training.session import Session
from tests.conftest import BaseFactory, ModelFactory
from tests.training.test_session import comparable, data, split

FUSED = ("fused layers", "no padding", "first token")

#: The ways by family, method and whether dropout is on.
WAYS = {
    ("bert", "layernorm", True): (*FUSED, "fast dropout"),
    ("bert", "layernorm", False): (*FUSED, "prefix below the closing norm of layer 0"),
    ("bert", "layernorm@1-", False): (*FUSED, "prefix below the closing norm of layer 1"),
    ("roberta", "attention-layernorm@2", False): (*FUSED, "prefix below layer 2"),
    ("bert", "bitfit", False): ("first token",),
    ("bert", "bitfit@2", True): (*FUSED, "fast dropout"),
    ("bert", "full", True): ("first token", "fast dropout"),
    ("gpt2", "layernorm", True): ("fast dropout",),
    ("gpt2", "layernorm", False): (),
}


@pytest.mark.parametrize(("family", "method", "dropout"), WAYS)
def test_the_ways_are_those_that_fit(make_base: BaseFactory, family: str, method: str, dropout: bool) -> None:
    base = make_base(family)
    tuning = Trainable(base, select(base.layout, method))
    assert choose(base, dropout=dropout, kept=StateCache()).names == WAYS[family, method, dropout]
    assert choose(base, dropout=dropout, kept=StateCache(), plain=True).names == ()
    tuning.undo()


@pytest.mark.parametrize(
    ("method", "taken"), [("layernorm", False), ("layernorm@1-", False), ("layernorm@2", True), ("head", True)]
)
def test_a_prefix_of_few_layers_is_not_worth_its_copies_to_a_gpu(
    make_base: BaseFactory, method: str, taken: bool
) -> None:
    base = make_base("bert")
    Trainable(base, select(base.layout, method))
    base.model.to("meta")  # like a GPU, not the CPU
    assert any("prefix" in name for name in choose(base, kept=StateCache()).names) is taken


def test_lower_precision_is_torchs(make_base: BaseFactory) -> None:
    base = make_base("bert")
    assert choose(base, mixed=True).names == ()
    base.model.bfloat16()
    assert choose(base).names == ()


def test_a_model_that_recomputes_its_own_layers_is_left_to_it(make_base: BaseFactory) -> None:
    base = make_base("bert")
    base.model.bert.encoder.layer[0].gradient_checkpointing = True
    assert choose(base, dropout=True, kept=StateCache()).names == ()


class Added(nn.Module):
    """A frozen linear layer with a trained low-rank product added, as in LoRA."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(2, frozen.in_features) / 8)
        self.up = nn.Parameter(torch.randn(frozen.out_features, 2) / 8)

    def forward(self, inputs: Tensor) -> Tensor:
        added: Tensor = self.frozen(inputs) + inputs @ self.down.t() @ self.up.t()
        return added


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("place", ["attention.self.query", "attention.output.dense", "output.dense"])
def test_a_foreign_module_that_trains_in_a_layer_is_computed_as_by_torch(
    tiny_base: Base, layer: int, place: str
) -> None:
    tiny_base.model.double().requires_grad_(False)
    parent, _, name = f"bert.encoder.layer.{layer}.{place}".rpartition(".")
    module = tiny_base.model.get_submodule(parent)
    setattr(module, name, Added(getattr(module, name)).double())
    tiny_base.model.classifier.requires_grad_()
    encoded = encode(split(12, 1), tiny_base.need_tokenizer(), 64)
    trained, found = [p for p in tiny_base.model.parameters() if p.requires_grad], []
    for plain in (True, False):
        ways = choose(tiny_base, plain=plain, kept=StateCache())
        (states,) = ways.states(encoded)
        rows = encoded.lengths.argsort()
        with ways.context():
            model, device = tiny_base.model, tiny_base.device
            batch = encoded.batch(rows, device)
            outputs = model(**batch).logits if states is None else states.logits(model, rows, device)
            found.append([outputs, *torch.autograd.grad(outputs.square().sum(), trained)])
    assert ways.names == (*FUSED, f"prefix below layer {layer}")
    assert len(ways.layers or ()) == 2
    assert states is not None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["layernorm", "layernorm@1- + pooler.dense", "bitfit", "full", "random"])
def test_a_whole_training_is_torchs(tiny_folder: Path, method: str) -> None:
    runs = []
    for plain in (True, False):
        session = Session(str(tiny_folder), plain=plain)
        chosen = protocol("small", epochs=2, batch_size=8)
        runs.append(session.run(session.prepare(data(), method, 1e-3, 0, chosen)))
    (torchs, values), (fast, others) = runs
    assert torchs.id != fast.id
    assert (torchs.ways, bool(fast.ways)) == ((), True)
    assert [p.loss for p in fast.curve] == pytest.approx([p.loss for p in torchs.curve], rel=1e-5)
    assert fast.score == torchs.score
    for place, value in values.values.items():
        if "key.bias" in place:  # affects no output: its gradient is rounding, which Adam turns into whole steps
            continue
        assert (value - others.values[place]).norm() <= 1e-4 * value.norm()


def test_rates_and_seeds_share_a_prefix_and_scores_go_through_it(tiny_folder: Path) -> None:
    session, scores = Session(str(tiny_folder)), []
    chosen = protocol("held-out", epochs=1, batch_size=8, held_out=0.25, dropout=False)
    for rate, seed in ((1e-2, 0), (3e-2, 1)):
        session.run(session.prepare(data(), "layernorm", rate, seed, chosen))
    assert session._kept.computed == 40 + 24
    for plain in (True, False):
        session = Session(str(tiny_folder), plain=plain)
        scores.append(session.run(session.prepare(data(), "layernorm", 1e-2, 0, chosen))[0].scores)
    assert scores[0] == scores[1]


@pytest.mark.parametrize("memory", ["plain", "low"])
def test_a_training_with_dropout_repeats_to_the_bit(tiny_folder: Path, memory: Any) -> None:
    chosen = protocol("small", epochs=2, batch_size=8, dropout=True)
    sessions = Session(str(tiny_folder)), Session(str(tiny_folder), memory=memory)
    records = [s.run(s.prepare(data(), "layernorm", 1e-2, 0, chosen))[0] for s in sessions]
    assert comparable(records[0]) == comparable(records[1])


class Doubled(BertEncoder):
    """An encoder of the user's own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = BertEncoder.forward(self, *args, **kwargs)
        found.last_hidden_state = 2 * found.last_hidden_state
        return found


def _second(module: nn.Module, inputs: Any, output: Any) -> Any:
    output.pooler_output = output.last_hidden_state[:, 1]
    return output


def _change(body: Any, what: str) -> None:
    """Change a model's body as a user may."""
    encoder = body.encoder
    if what == "hook on the body":
        body.register_forward_hook(_second)
    elif what == "hook on an activation":
        encoder.layer[1].intermediate.intermediate_act_fn.register_forward_hook(lambda *given: 2 * given[2])
    elif what == "another forward pass":
        encoder.forward = partial(Doubled.forward, encoder)
    elif what == "another class":
        encoder.__class__ = Doubled
    elif what == "one layer three times":
        encoder.layer = nn.ModuleList([encoder.layer[0]] * 3)


@pytest.mark.parametrize(
    "change",
    [
        *("hook on the body", "hook on an activation", "another forward pass"),
        *("another class", "one layer three times", "autocast"),
    ],
)
def test_many_texts_are_answered_as_few_whatever_the_user_changed(
    make_model: ModelFactory, tiny_tokenizer: PreTrainedTokenizerBase, change: str
) -> None:
    """From `_WORTH` tokens on the fast ways are chosen, which may not pass by what the user put there."""
    model = make_model("bert", initializer_range=0.3).requires_grad_(False)  # so that changes show, and layers fuse
    _change(model.base_model, change)
    base = wrap(model, tiny_tokenizer)
    few = base.encode(Split.of_texts([f"the cat {'sees a dog ' * (n % 19)}" for n in range(8)]), 64)
    many = base.encode(Split.of_texts([f"the cat {'sees a dog ' * (n % 19)}" for n in range(200)]), 64)
    assert int(few.lengths.sum()) < _WORTH < int(many.lengths.sum())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=change == "autocast"):
        one, other = logits(base, few), logits(base, many)
    np.testing.assert_allclose(other[:8], one, atol=2e-2 if change == "autocast" else 1e-5)


def test_modules_stay_in_their_own_mode_also_after_an_interrupt(
    make_model: ModelFactory, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    base = wrap(make_model("bert"), tiny_tokenizer)
    base.model.train()
    base.model.bert.embeddings.eval()
    before = [module.training for module in base.model.modules()]
    encoded = base.encode(Split.of_texts(["the cat"]), 64)
    logits(base, encoded)
    assert [module.training for module in base.model.modules()] == before
    stopped = base.model.classifier.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        logits(base, encoded)
    stopped.remove()
    assert [module.training for module in base.model.modules()] == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_scored(make_model: ModelFactory, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    base = wrap(make_model("bert"), tiny_tokenizer)
    encoded = base.encode(Split.of_texts(["the cat sees a dog", "the dog"]), 64)
    plain = logits(base, encoded)
    base.model.compile(backend="eager")
    np.testing.assert_allclose(logits(base, encoded), plain, atol=1e-5)
