"""What the loops and trainers of others do to a tuned model, and what is refused before it goes wrong silently."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

import normtune as nt
from normtune.data.task import Split
from normtune.deltas.delta import Delta
from normtune.errors import DeltaError, ModelError, NormtuneError, SelectionError
from normtune.methods.method import METHODS
from normtune.models.base import Base, load_base, wrap
from tests.conftest import _IDS, FAMILIES, BaseFactory, ModelFactory

TOKENS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 7, 3]])


def answers(model: Any) -> Tensor:
    found: Tensor = model(TOKENS).logits.detach()
    return found


def moved(tuning: nt.Trainable, by: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter.add_(by * torch.rand_like(parameter))


@pytest.mark.parametrize("method", ["layernorm", "random@500", "bitfit", "prompt-tuning@3", "prefix-tuning@3", "red"])
def test_a_copy_of_a_tuned_model_stands_on_its_own(make_base: BaseFactory, method: str) -> None:
    """A copy as `copy.deepcopy` (for the best epoch) or `AveragedModel` makes it."""
    base = make_base("bert")
    tuning = nt.tune(base, method)
    moved(tuning)
    expected, best = answers(base.model), copy.deepcopy(base.model)
    moved(tuning)
    assert not torch.equal(answers(base.model), expected)
    assert torch.equal(answers(best), expected)
    tuning.undo()
    assert torch.equal(answers(best), expected)
    for parameter in best.parameters():
        parameter.data.add_(0.1)
    assert not torch.allclose(answers(best), expected)


@pytest.mark.parametrize("method", ["prompt-tuning@3", "prefix-tuning@3"])
def test_functional_call_uses_what_it_is_given(make_base: BaseFactory, method: str) -> None:
    base = make_base("bert")
    tuning = nt.tune(base, method)
    own = {
        name: value for name, value in base.model.named_parameters() if any(value is v for v in tuning.leaves.values())
    }
    changed = {name: value.detach() + 1 for name, value in own.items()}
    found = functional_call(base.model, changed, TOKENS).logits
    before = answers(base.model)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(changed[name])
    assert torch.equal(found, answers(base.model))
    assert not torch.equal(found, before)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("method", ["layernorm", "lora", "head"])
def test_a_lower_precision_answers_as_it_was_tuned(make_model: ModelFactory, family: str, method: str) -> None:
    base = wrap(make_model(family).to(torch.bfloat16))
    before = answers(base.model)
    tuning = nt.tune(base, method)
    moved(tuning)
    expected, delta = answers(base.model), Delta.capture(tuning)
    tuning.undo()
    with delta.apply(base):
        found = answers(base.model)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(answers(base.model), before)


@pytest.mark.parametrize("method", ["hyper-adapter", "residual-prompt-tuning@3"])
def test_what_makes_a_deltas_values_makes_them_under_autocast_too(make_base: BaseFactory, method: str) -> None:
    base = make_base("bert")
    tuning = nt.tune(base, method)
    moved(tuning)
    with torch.autocast("cpu", torch.bfloat16):
        expected = answers(base.model)
    delta = Delta.capture(tuning)
    tuning.undo()
    with delta.apply(base), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(answers(base.model), expected)


def test_a_wrapped_heads_answers_come_back_to_the_bit_however_it_lay(make_model: ModelFactory) -> None:
    model = make_model("bert", num_labels=1, hidden_size=384)
    buffer = torch.empty(400)
    for place in range(16):  # of 4 bytes, so that most are not aligned to 64
        model.classifier.weight.data = buffer[place : place + 384].view(1, 384).normal_()
        base = wrap(model)
        expected = answers(model)
        tuning = nt.tune(base, "layernorm")
        delta = Delta.capture(tuning)
        tuning.undo()
        with delta.apply(base):
            assert torch.equal(answers(model), expected)


def test_what_is_undone_takes_no_values_and_what_trains_is_not_copied(make_base: BaseFactory) -> None:
    base = make_base("bert")
    before, tuning = answers(base.model), nt.tune(base, "layernorm")
    with pytest.raises(ModelError, match="cannot be copied"):
        copy.deepcopy(tuning)
    moved(tuning)
    values, head = tuning.values(), tuning.head_values()
    tuning.undo()
    with pytest.raises(ModelError, match="load values before undo"):
        tuning.load(values, head)
    assert torch.equal(answers(base.model), before)


def test_a_model_is_wrapped_as_it_is_alone(make_base: BaseFactory, make_model: ModelFactory) -> None:
    base = make_base("bert")
    tuning = nt.tune(base, "layernorm")
    with pytest.raises(ModelError, match="is being tuned or carries a delta"):
        wrap(base.model)
    delta = Delta.capture(tuning)
    tuning.undo()
    with delta.apply(base), pytest.raises(ModelError, match="is being tuned or carries a delta"):
        wrap(base.model)
    with pytest.raises(ModelError, match="load it whole, without a device_map"):
        wrap(make_model("bert").to("meta"))


def test_a_weight_norm_of_the_models_own_is_told(make_base: BaseFactory) -> None:
    base = make_base("bert")
    dense = base.model.bert.encoder.layer[0].output.dense
    torch.nn.utils.parametrizations.weight_norm(dense)
    with pytest.raises(ModelError, match=r"'bert\.encoder\.layer\.0\.output\.dense' computes a parameter of its own"):
        nt.tune(wrap(base.model), "layernorm")
    torch.nn.utils.parametrize.remove_parametrizations(dense, "weight")
    nt.tune(wrap(base.model), "layernorm").undo()


def test_a_model_that_carries_a_delta_is_not_tuned(make_base: BaseFactory) -> None:
    base = make_base("bert")
    tuning = nt.tune(base, "layernorm")
    delta = Delta.capture(tuning)
    with pytest.raises(ModelError, match="being tuned, and its head with it"):
        base.put_head(nt.HeadSpec.numbered(3))
    tuning.undo()
    with delta.apply(base), pytest.raises(ModelError, match="carries a delta; remove that first"):
        nt.tune(base, "value-bias")
    nt.tune(base, "value-bias").undo()


def test_capture_says_what_the_model_was_tuned_by_and_reads(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder))
    tuning = nt.tune(base, "layernorm")
    assert (Delta.capture(tuning).info.method, Delta.capture(tuning).info.max_length) == ("layernorm", 64)
    assert Delta.capture(tuning, method="mine", max_length=9).info.method == "mine"
    assert Delta.capture(tuning, method="mine", max_length=9).info.max_length == 9


def test_a_model_without_a_limit_gives_a_delta_that_cuts_no_text(make_model: ModelFactory, tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 10**30
    base = wrap(make_model("t5"), tokenizer)
    delta = Delta.capture(nt.tune(base, "layernorm"))
    assert base.encode(Split.of_texts(("the cat " * 1000,)), delta.info.max_length).cut == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tuning: next(tuning.parameters()).data.fill_(float("nan")), "is not finite, so no delta is made"),
        (lambda tuning: tuning.base.model.to(torch.bfloat16), "converted to a lower precision while it was tuned"),
    ],
)
def test_what_could_not_be_applied_is_not_captured(make_base: BaseFactory, change: Any, message: str) -> None:
    tuning = nt.tune(make_base("bert"), "layernorm")
    change(tuning)
    with pytest.raises(NormtuneError, match=message):
        Delta.capture(tuning)


def test_what_a_delta_says_of_itself_is_checked(make_base: BaseFactory) -> None:
    tuning = nt.tune(make_base("bert"), "layernorm")
    with pytest.raises(DeltaError, match=r"the shape \(2, 32\) instead of \(3, 32\)"):
        Delta.capture(tuning, labels=("a", "b", "c"))
    with pytest.raises(DeltaError, match="A delta cannot have this metadata at taks: there is no such key"):
        Delta.capture(tuning, taks="films")


@pytest.mark.parametrize(("outputs", "problem"), [(3, "regression"), (1, "multi_label_classification")])
def test_heads_of_no_kind_are_refused(make_model: ModelFactory, outputs: int, problem: str) -> None:
    base = wrap(make_model("bert", num_labels=outputs, problem_type=problem))
    with pytest.raises(ModelError, match=f"A head of {outputs} outputs for {problem}"):
        nt.tune(base, "layernorm")


def test_what_is_no_base_is_told_how_to_become_one(make_model: ModelFactory, make_base: BaseFactory) -> None:
    model: Any = make_model("bert")
    with pytest.raises(ModelError, match="tune takes a base, not BertForSequenceClassification: make one with"):
        nt.tune(model, "layernorm")
    base, several = make_base("bert"), cast("Any", ["layernorm"])
    with pytest.raises(SelectionError, match="not list"):
        nt.tune(base, several)
    tuning = nt.tune(base, "layernorm")
    delta = Delta.capture(tuning)
    tuning.undo()
    with pytest.raises(ModelError, match="apply takes a base, not BertForSequenceClassification"):
        delta.apply(model)


@pytest.mark.parametrize("method", ["prompt-tuning@3", "prefix-tuning@3"])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_generating_with_a_cache_is_refused_with_prompts(family: str, method: str) -> None:
    config = AutoConfig.for_model(family, **{**_IDS, **FAMILIES[family], "vocab_size": 40})
    base: Base = wrap(AutoModelForCausalLM.from_config(config).eval())
    before = answers(base.model)
    nt.tune(base, method)
    assert not torch.allclose(answers(base.model), before)
    words, more = TOKENS[:1], {"attention_mask": torch.ones(1, 5).long(), "do_sample": False, "max_new_tokens": 4}
    more |= {"eos_token_id": None, "pad_token_id": 0}
    with pytest.raises(ModelError, match="use_cache=False"):
        base.model.generate(words, **more)
    found = base.model.generate(words, use_cache=False, **more)
    for _ in range(4):
        words = torch.cat((words, base.model(words).logits[:, -1:].argmax(-1)), 1)
    assert torch.equal(found, words)
    with pytest.raises(ModelError, match="takes texts as input_ids"):
        base.model(inputs_embeds=torch.zeros(1, 5, 32))


def test_a_head_of_tokens_sees_those_of_the_text_alone() -> None:
    config = AutoConfig.for_model("bert", **{**_IDS, **FAMILIES["bert"], "vocab_size": 40})
    base = wrap(AutoModelForTokenClassification.from_config(config).eval())
    nt.tune(base, "prompt-tuning@3")
    body = base.model.get_submodule("bert")
    hidden = body(TOKENS).last_hidden_state
    assert torch.equal(body(TOKENS, return_dict=False)[0], hidden)
    assert answers(base.model).shape == (2, 5, 2)
    # [CLS], three prompts, then the text, as the body itself gives them.
    prompts = body.get_submodule("normtune_tokens")()
    words = base.model.get_input_embeddings()(TOKENS)
    joined = torch.cat((words[:, :1], prompts.expand(2, -1, -1), words[:, 1:]), 1)
    body._forward_pre_hooks.clear()
    body._forward_hooks.clear()
    whole = body(inputs_embeds=joined).last_hidden_state
    torch.testing.assert_close(hidden, torch.cat((whole[:, :1], whole[:, 4:]), 1))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"batchnorm", "fish-mask", "child-tuning-d"}))
def test_every_method_trains_in_float64(make_base: BaseFactory, method: str) -> None:
    """Converting a tuned model upwards rounds nothing."""
    base = make_base("bert")
    tuning = nt.tune(base, method)
    base.model.double()
    base.model(TOKENS, labels=torch.tensor([0, 1])).loss.backward()
    assert {leaf.dtype for leaf in tuning.parameters()} == {torch.float64}
