"""Keeping less for the backward pass: the same to the bit, and as much less as a count by hand says."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from normtune.config import Generator
from normtune.fast.dropping import dropout_of
from normtune.fast.linear import fast_linear
from normtune.fast.memory import Memory, memory_of
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import wrap
from tests.conftest import VOCABULARY, ModelFactory

LESS = tuple(name for name in get_args(Memory) if name != "plain")


def inputs(texts: int = 3, tokens: int = 9) -> dict[str, Tensor]:
    ids = torch.randint(4, len(VOCABULARY), (texts, tokens), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3  # some families read their answer there
    mask = torch.ones_like(ids)
    mask[0, tokens // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def step(model: PreTrainedModel, memory: Memory, method: str, generator: Generator) -> list[Tensor]:
    """The outputs of a forward pass and all gradients."""
    base = wrap(model)
    tuning = Tuning(base, select(base.layout, method))
    torch.manual_seed(5)
    with dropout_of(generator), fast_linear(), memory_of(model, memory):
        outputs = model(**inputs()).logits
        outputs.square().sum().backward()
    found = [outputs.detach(), *(torch.zeros(0) if p.grad is None else p.grad.clone() for p in tuning.parameters())]
    tuning.undo()
    return found


def test_gradients_of_any_family_are_the_same_to_the_bit(family: str, make_model: ModelFactory) -> None:
    compare(make_model(family).train(), "layernorm", "fast")


@pytest.mark.parametrize("method", ["full", "random"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_any_method_are_the_same_to_the_bit(method: str, training: bool, make_model: ModelFactory) -> None:
    compare(make_model("bert").train(training), method, "torch")


def compare(model: PreTrainedModel, method: str, generator: Generator) -> None:
    plain = step(model, "plain", method, generator)
    assert any(bool(gradient.any()) for gradient in plain[1:])
    for memory in LESS:
        for found, wanted in zip(step(model, memory, method, generator), plain, strict=True):
            assert torch.equal(found, wanted), memory


def kept(layers: int, memory: Memory, method: str = "layernorm") -> float:
    """What a forward pass leaves behind, in vectors of the hidden size a token."""
    width, texts, tokens = 128, 8, 64
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * width, vocab_size=100
    )
    model = BertForSequenceClassification(config).train()
    base = wrap(model)
    Tuning(base, select(base.layout, method))
    with ExitStack() as stack:
        stack.enter_context(dropout_of("torch"))
        stack.enter_context(fast_linear())
        stack.enter_context(memory_of(model, memory))
        watched = stack.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
        outputs = model(**inputs(texts, tokens)).logits
    assert outputs.requires_grad
    return sum(event.self_cpu_memory_usage for event in watched.events()) / (4 * width * texts * tokens)


# Lean: queries, keys and values, the input of either normalisation, and of the activation four times the width.
# Light: the inputs of the normalisations. Layers: a layer's input. The rest, under a tenth, is statistics of these.
@pytest.mark.parametrize(("memory", "vectors"), [("lean", 3 + 2 + 4), ("light", 2), ("layers", 1)])
def test_a_layer_keeps_what_was_counted(memory: Memory, vectors: int) -> None:
    assert vectors <= kept(4, memory) - kept(3, memory) < vectors + 0.15


@pytest.mark.parametrize("memory", ["lean", "light"])
def test_the_token_that_the_head_reads_does_not_keep_all_others(memory: Memory) -> None:
    # A single layer needs its output.LayerNorm's input; the tokens that the head reads are a sixty-fourth of all.
    assert kept(1, memory) < 1.2


def test_torch_keeps_more() -> None:
    assert kept(4, "plain") - kept(3, "plain") > 15


@pytest.mark.parametrize("memory", LESS)
def test_the_model_is_left_as_it_was(memory: Memory, make_model: ModelFactory) -> None:
    model = make_model("bert").eval()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    with torch.no_grad():
        wanted = model(**inputs()).logits
        with memory_of(model, memory):
            assert torch.equal(model(**inputs()).logits, wanted)
    with pytest.raises(KeyError), memory_of(model, memory):
        raise KeyError
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("memory", ["lean", "light"])
def test_what_hangs_on_a_block_still_runs(memory: Memory, make_model: ModelFactory) -> None:
    model, seen = make_model("bert").train(), []
    wanted = step(model, memory, "layernorm", "fast")
    blocks = [model.bert.encoder.layer[0].output, model.bert.encoder.layer[1].output.dense]
    for block in blocks:
        block.register_forward_hook(lambda module, *_: seen.append(module))
    for found, other in zip(step(model, memory, "layernorm", "fast"), wanted, strict=True):
        assert torch.equal(found, other)
    assert seen == blocks


@pytest.mark.parametrize(("memory", "let_go"), [("plain", False), ("lean", True), ("light", True)])
def test_a_block_lets_go_of_its_activation(memory: Memory, let_go: bool, make_model: ModelFactory) -> None:
    model, made, gone = make_model("bert").train(), [], []
    layer = model.bert.encoder.layer[0]
    layer.intermediate.register_forward_hook(lambda *args: made.append(weakref.ref(args[2])))
    layer.output.LayerNorm.register_forward_pre_hook(lambda *_: gone.append(made[-1]() is None))
    step(model, memory, "layernorm", "fast")
    assert gone == [let_go]


@pytest.mark.parametrize("memory", ["lean", "light"])
def test_a_change_in_place_is_refused(memory: Memory, make_model: ModelFactory) -> None:
    values = torch.ones(2, 3, requires_grad=True)
    with memory_of(make_model("bert"), memory):
        doubled = values * 2
        squared = doubled.square()
        doubled.add_(1)
        with pytest.raises(RuntimeError, match="changed in place"):
            squared.sum().backward()


def test_memory_used_anew_is_not_taken_for_what_was_there(make_model: ModelFactory) -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    with memory_of(make_model("bert"), "light"):
        first = torch.nn.functional.layer_norm(torch.randn(5, 4), (4,), weight)
        plain = first.detach().clone()
        view = first.view(4, 5).t()  # the same memory in another shape
        (view * weight.new_ones(5, 4, requires_grad=True)).sum().backward()
        made = torch.nn.functional.layer_norm(torch.randn(5, 4), (4,), weight)
        factor = torch.ones(5, 4, requires_grad=True)
        product = made * factor
        wanted = made.detach().clone()
        del made, first, view
        product.sum().backward()
    assert factor.grad is not None
    assert torch.equal(factor.grad, wanted)
    assert not torch.equal(wanted, plain)
