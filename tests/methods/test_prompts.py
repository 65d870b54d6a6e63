"""Prompts and prefixes, each against its paper's definition, and against PEFT where that reads the same token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, relu

from normtune.config import protocol
from normtune.data.task import Split
from normtune.deltas.delta import Delta
from normtune.errors import DataError, DeltaError, ModelError, SelectionError
from normtune.fast.ways import choose
from normtune.methods.expression import specify
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from normtune.training.session import Session
from tests.conftest import BaseFactory, ModelFactory
from tests.training.test_session import data

METHODS = ("prompt-tuning@3", "residual-prompt-tuning@3", "prefix-tuning@3")
TOKENS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
MASK = (TOKENS != 0).long()


def tuned(base: Base, method: str) -> Trainable:
    """The method on a base, with random values."""
    trainable = Trainable(base, specify(base.layout, method, seed=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for leaf in trainable.leaves.values():
            leaf.copy_(torch.randn(leaf.shape, generator=generator))
    return trainable


def answers(base: Base, tokens: Tensor = TOKENS) -> Tensor:
    found: Tensor = base.model(tokens, attention_mask=(tokens != 0).long()).logits.detach()
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoder_reads_prompts_between_its_first_token_and_the_text(make_base: BaseFactory, family: str) -> None:
    """[P; X] (Lester et al. 2021, section 2), in float64, after [CLS]."""
    base = make_base(family)
    trainable = tuned(base, "prompt-tuning@3")
    found, prompts = answers(base, TOKENS[:1]), trainable.leaves["prompts"].detach().double()
    trainable.undo()
    base.model.double()
    words = base.model.get_input_embeddings()(TOKENS[:1])
    joined = torch.cat((words[:, :1], prompts[None], words[:, 1:]), 1)
    wanted = base.model(inputs_embeds=joined, attention_mask=torch.ones(1, 8, dtype=torch.long)).logits
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_the_mask_may_be_given_by_position(tiny_base: Base) -> None:
    trainable, mask = tuned(tiny_base, "prompt-tuning@3"), (TOKENS != 0).long()
    body = tiny_base.model.base_model
    assert torch.equal(body(TOKENS, mask)[0], body(TOKENS, attention_mask=mask)[0])
    trainable.undo()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["prompt-tuning@3", "prefix-tuning@3"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_answers_as_in_peft(
    make_model: ModelFactory, make_base: BaseFactory, family: str, method: str
) -> None:
    """[PREFIX; x] (Li and Liang 2021, section 4.2), [P; X]; PEFT's models answer from the last of all tokens."""
    same = {"num_key_value_heads": 4} if family == "llama" else {}
    base = make_base(family, **same)
    trainable = tuned(base, method)
    found, leaves = answers(base, TOKENS[:1]), [leaf.detach() for leaf in trainable.leaves.values()]
    kind = peft.PrefixTuningConfig if method.startswith("prefix") else peft.PromptTuningConfig
    theirs = peft.get_peft_model(make_model(family, **same), kind(task_type="SEQ_CLS", num_virtual_tokens=3)).eval()
    own: Any = theirs.prompt_encoder["default"].embedding.weight
    # PEFT keeps the keys and the values of all layers side by side in one row per token.
    own.data = leaves[0] if len(leaves) == 1 else torch.cat([leaf.transpose(0, 1).flatten(1) for leaf in leaves], 1)
    wanted = theirs(TOKENS[:1], attention_mask=MASK[:1]).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    trainable.undo()


@pytest.mark.parametrize(
    ("family", "module", "names"),
    [
        ("bert", "bert.encoder.layer.1.attention.self", ("query", "key", "value")),
        ("distilbert", "distilbert.transformer.layer.1.attention", ("q_lin", "k_lin", "v_lin", "out_lin")),
    ],
)
def test_attention_sees_a_prefix_before_the_text(
    make_base: BaseFactory, family: str, module: str, names: tuple[str, ...]
) -> None:
    """softmax(q [P_k; k]^T / sqrt(d)) [P_v; v] (Li and Liang 2021, section 4.2), by hand in float64."""
    base = make_base(family)
    trainable = tuned(base, "prefix-tuning@3")
    attention: Any = base.model.get_submodule(module)
    inputs = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    found = attention(inputs)[0].detach().double()

    def product(values: Tensor, name: str) -> Tensor:
        linear = getattr(attention, name)
        return values @ linear.weight.detach().double().T + linear.bias.detach().double()

    query, key, value = (product(inputs[0].double(), name) for name in names[:3])
    own = list(trainable.leaves.values())[1].detach().double()
    keys, values = torch.cat((own[0], key)), torch.cat((own[1], value))
    heads = []
    for part in torch.arange(32).view(4, 8):
        scores = (query[:, part] @ keys[:, part].T / 8**0.5).exp()
        heads.append(scores / scores.sum(1, keepdim=True) @ values[:, part])
    wanted = torch.cat(heads, 1)
    wanted = product(wanted, names[3]) if len(names) > 3 else wanted
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)
    trainable.undo()


def test_residual_prompts_are_saved_as_they_come_out_of_their_network(tiny_base: Base) -> None:
    """P + MLP(P) (Razdaibiedina et al. 2023, section 3): Linear, ReLU, Linear, normalised; a delta holds the sum."""
    trainable = tuned(tiny_base, "residual-prompt-tuning@3")
    seen = sum(leaf.numel() for leaf in trainable.leaves.values())
    assert seen == len(trainable.spec) + 2 * (32 * 32 + 32) + 2 * 32
    own = {name: leaf.detach().double() for name, leaf in trainable.leaves.items()}
    inner = relu(own["prompts"] @ own["network.0.weight"].T + own["network.0.bias"])
    outer = inner @ own["network.2.weight"].T + own["network.2.bias"]
    wanted = own["prompts"] + layer_norm(outer, (32,), own["network.3.weight"], own["network.3.bias"])
    delta = Delta.capture(trainable)
    torch.testing.assert_close(delta.values["prompts"].view(3, 32).double(), wanted, rtol=1e-5, atol=1e-5)
    assert (delta.values.keys(), delta.entries, len(trainable.spec)) == ({"prompts"}, 96, 96)
    found = answers(tiny_base)
    trainable.undo()
    with delta.apply(tiny_base):
        assert torch.equal(answers(tiny_base), found)
    tuned(tiny_base, "prompt-tuning@3").undo()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_every_family_trains_all_of_it_whatever_the_padding(make_base: BaseFactory, family: str, method: str) -> None:
    base = make_base(family)
    plain = answers(base)
    trainable = Trainable(base, specify(base.layout, method))
    kept = [leaf.numel() for name, leaf in trainable.leaves.items() if not name.startswith("network")]
    assert len(trainable.spec) == sum(kept)
    base.model(TOKENS, attention_mask=MASK).logits.sum().backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for leaf in trainable.leaves.values())
    # The shorter text is padded in the batch; a decoder may be padded on either side.
    alone, batch = answers(base, TOKENS[1:, :3]), answers(base)
    torch.testing.assert_close(batch[1:], alone, rtol=1e-5, atol=1e-6)
    if family in {"gpt2", "llama"}:
        torch.testing.assert_close(answers(base, TOKENS[1:].roll(2, 1)), alone, rtol=1e-5, atol=1e-6)
    trainable.undo()
    assert torch.equal(answers(base), plain)


def test_they_begin_as_random_words(tiny_base: Base) -> None:
    trainable = Trainable(tiny_base, specify(tiny_base.layout, "prompt-tuning@3", seed=1))
    table = tiny_base.model.get_input_embeddings().get_parameter("weight")
    assert all((table == row).all(1).any() for row in trainable.leaves["prompts"])
    trainable.undo()
    # A text of the same words has these keys and values in the first layer.
    trainable = Trainable(tiny_base, specify(tiny_base.layout, "prefix-tuning@3", seed=1))
    keys = trainable.leaves["0"][0]
    trainable.undo()
    torch.manual_seed(1)
    hidden = tiny_base.model.base_model.embeddings(torch.randint(len(table), (1, 3)))
    torch.testing.assert_close(keys, tiny_base.model.bert.encoder.layer[0].attention.self.key(hidden)[0])


def test_a_prefix_longer_than_the_positions_of_an_encoder_begins_as_words_read_in_parts(tiny_base: Base) -> None:
    trainable = Trainable(tiny_base, specify(tiny_base.layout, "prefix-tuning@70"))
    leaves = [leaf for name, leaf in trainable.leaves.items() if "prefix" in name or leaf.ndim == 3]
    assert tiny_base.positions == 64
    assert [tuple(leaf.shape) for leaf in leaves] == [(2, 70, 32)] * 3
    assert all(leaf.isfinite().all() for leaf in leaves)


def test_fast_ways_fit_prompts_and_step_aside_for_a_prefix(tiny_base: Base) -> None:
    found = {}
    trainable = tuned(tiny_base, "prompt-tuning@3")
    for plain in (True, False):
        ways = choose(tiny_base, plain=plain)
        with ways.context():
            found[plain] = tiny_base.model(TOKENS, attention_mask=MASK).logits
            found[plain].square().sum().backward()
        leaf = trainable.leaves["prompts"]
        found[plain] = found[plain].detach(), leaf.grad
        leaf.grad = None
    assert ways.names == ("fused layers", "no padding", "first token")
    for one, other in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    trainable.undo()
    trainable = Trainable(tiny_base, specify(tiny_base.layout, "prefix-tuning@3"))
    assert choose(tiny_base).names == ()
    trainable.undo()


def test_prompts_take_positions_from_the_text(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))  # of 64 positions
    own = data()
    long = Split.of_texts(("cat " * 80, "a dog"), labels=np.array([1, 0]))
    own = replace(own, splits={"train": long, "dev": long})
    for method, limit in (("prompt-tuning@20", 44), ("prefix-tuning@20", 64)):
        record, delta = session.run(session.prepare(own, method, 1e-2, 0, protocol("small", epochs=1)))
        assert (delta.info.max_length, record.data.truncated["train"]) == (limit, 1)
    with pytest.raises(ModelError, match="has 64 positions; 60 of them for prompts leave too few for a text"):
        session.prepare(own, "prompt-tuning@60", 1e-2, 0, protocol("small", epochs=1))
    trainable = Trainable(session.base, specify(session.base.layout, "prompt-tuning@20"))
    with pytest.raises(DataError, match="A text of 45 tokens and the 20 of prompt-tuning are more than the 64"):
        session.base.model(torch.ones(1, 45, dtype=torch.long))
    trainable.undo()


def test_what_cannot_have_prompts_is_refused(make_base: BaseFactory, tiny_base: Base) -> None:
    for method in METHODS:
        with pytest.raises(SelectionError, match="takes a number of tokens of 1 or more; got 0"):
            specify(tiny_base.layout, f"{method.partition('@')[0]}@0")
        with pytest.raises(SelectionError, match=r"-tuning is for bert, .*; this is a 't5'"):
            specify(make_base("t5").layout, method)
    with pytest.raises(SelectionError, match="finds no values of attention in a 'phi3'"):
        specify(make_base("phi3").layout, "prefix-tuning")
    tiny_base.model.config._attn_implementation = "eager"
    with pytest.raises(SelectionError, match=r"needs torch's attention \(sdpa\), not eager"):
        Trainable(tiny_base, specify(tiny_base.layout, "prefix-tuning"))


def test_in_a_lower_precision_prompts_train_in_float32(tiny_folder: Path) -> None:
    low = load_base(str(tiny_folder), dtype="bfloat16")
    for method in METHODS:
        trainable = Trainable(low, specify(low.layout, method))
        answers(low)
        assert {leaf.dtype for leaf in trainable.leaves.values()} == {torch.float32}
        delta = Delta.capture(trainable)
        found = answers(low)
        trainable.undo()
        with delta.apply(low):
            assert torch.equal(answers(low), found)
        with pytest.raises(DeltaError, match="cannot be merged"):
            delta.apply(low, merge=True)


@pytest.mark.parametrize(
    ("family", "method"), [("bert", "prompt-tuning@3"), ("gpt2", "prompt-tuning@3"), ("gpt2", "prefix-tuning@3")]
)
def test_positions_of_the_callers_own_are_refused(make_base: BaseFactory, family: str, method: str) -> None:
    base = make_base(family)
    trainable, usual = tuned(base, method), (MASK.cumsum(1) - 1).clamp(min=0)
    with pytest.raises(ModelError, match="numbers the positions itself: leave position_ids out"):
        base.model(TOKENS, attention_mask=MASK, position_ids=usual + 20)
    if family == "gpt2":
        found = base.model(TOKENS, attention_mask=MASK, position_ids=usual).logits
        assert torch.equal(found, answers(base))
    trainable.undo()
