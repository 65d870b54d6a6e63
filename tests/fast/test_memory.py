"""Keeping less for the backward pass: the same results to the bit, and as little as a count by hand says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from normtune.config import Memory
from normtune.fast.ways import choose
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import wrap
from tests.conftest import VOCABULARY, ModelFactory


def inputs(texts: int = 3, tokens: int = 9) -> dict[str, Tensor]:
    ids = torch.randint(4, len(VOCABULARY), (texts, tokens), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3  # some families read their answer there
    mask = torch.ones_like(ids)
    mask[0, tokens // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def step(model: PreTrainedModel, memory: Memory, method: str, *, plain: bool) -> list[Tensor]:
    """The outputs of a forward pass and all gradients."""
    base = wrap(model)
    tuning = Trainable(base, select(base.layout, method))
    torch.manual_seed(5)
    with choose(base, dropout=True, memory=memory, plain=plain).context():
        outputs = model(**inputs()).logits
        outputs.square().sum().backward()
    found = [outputs.detach(), *(torch.zeros(0) if p.grad is None else p.grad.clone() for p in tuning.parameters())]
    tuning.undo()
    return found


def compare(model: PreTrainedModel, method: str, *, plain: bool) -> None:
    wanted = step(model, "plain", method, plain=plain)
    assert any(bool(gradient.any()) for gradient in wanted[1:])
    for one, other in zip(step(model, "low", method, plain=plain), wanted, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_any_family_are_the_same_to_the_bit(family: str, make_model: ModelFactory) -> None:
    compare(make_model(family).train(), "layernorm", plain=False)


@pytest.mark.parametrize("method", ["full", "random"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_gradients_of_any_method_are_the_same_to_the_bit(
    method: str, training: bool, plain: bool, make_model: ModelFactory
) -> None:
    compare(make_model("bert").train(training), method, plain=plain)


def kept(layers: int, memory: Memory, *, plain: bool) -> float:
    """What a forward pass keeps, in vectors of the hidden size per token."""
    width, texts, tokens = 128, 8, 64
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * width, vocab_size=100
    )
    model = BertForSequenceClassification(config).train()
    base = wrap(model)
    Trainable(base, select(base.layout, "layernorm"))
    with choose(base, dropout=True, memory=memory, plain=plain).context():
        model(**inputs())  # weights are laid out once
        watched = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        with watched:
            outputs = model(**inputs(texts, tokens)).logits
    assert outputs.requires_grad
    return sum(event.self_cpu_memory_usage for event in watched.events()) / (4 * width * texts * tokens)


@pytest.mark.parametrize("plain", [True, False])
def test_a_layer_keeps_its_input_alone(plain: bool) -> None:
    assert 0.9 < kept(4, "low", plain=plain) - kept(3, "low", plain=plain) < 1.15  # a little padding is left out


@pytest.mark.parametrize(("plain", "vectors"), [(True, 15), (False, 9)])
def test_by_default_it_keeps_more(plain: bool, vectors: int) -> None:
    assert kept(4, "plain", plain=plain) - kept(3, "plain", plain=plain) > vectors


def test_the_model_is_left_as_it_was(make_model: ModelFactory) -> None:
    model = make_model("bert").eval()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    ways = choose(wrap(model), memory="low")
    with torch.no_grad(), ways.context():
        model(**inputs())
    with pytest.raises(KeyError), ways.context():
        raise KeyError
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == before
