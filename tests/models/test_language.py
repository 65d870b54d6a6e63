"""The log-likelihood of a text against transformers' own loss, token by token, in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from normtune.errors import ModelError
from normtune.models import language
from normtune.models.language import Likelihood, language_model_of
from normtune.models.sources import quiet
from tests.conftest import _IDS, FAMILIES, VOCABULARY

TOKENIZER: Any = SimpleNamespace(
    mask_token_id=4, bos_token_id=2, cls_token_id=2, sep_token_id=3, eos_token_id=3, pad_token_id=0
)
#: Models that call their body in different ways or read more of its outputs, and whose heads differ: several layers,
#: capped logits.
CAUSAL, MASKED = ("llama", "opt", "gemma2", "mixtral"), ("bert", "deberta-v2")
LENGTHS = (9, 6, 3)


def model_of(family: str) -> PreTrainedModel:
    """A tiny language model with random values, float64."""
    config = AutoConfig.for_model(family, **{**_IDS, **FAMILIES[family], "vocab_size": len(VOCABULARY)})
    config._experts_implementation = "eager"  # torch's grouped matrix product takes no float64
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = language_model_of(config).from_config(config).double().eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def texts() -> tuple[Tensor, Tensor]:
    """Three texts of `LENGTHS`, padded on the right."""
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(5, len(VOCABULARY), mask.shape, generator=torch.Generator().manual_seed(1)) * mask, mask


def one_by_one(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The log-likelihood of one text by plain transformers: for a masked model, one pass per token."""
    if language_model_of(model.config) is AutoModelForCausalLM:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        return logits.log_softmax(1).gather(1, ids[1:, None]).sum()
    total = torch.zeros((), dtype=torch.float64)
    for place, token in enumerate(ids):
        masked = ids.clone()
        masked[place] = TOKENIZER.mask_token_id
        total = total + model(input_ids=masked[None]).logits[0, place].log_softmax(0)[token]
    return total


@pytest.mark.parametrize("family", CAUSAL + MASKED)
def test_sums_and_gradients_are_those_of_each_text_alone(family, monkeypatch):
    model, (ids, mask) = model_of(family), texts()
    rows = [row[:size] for row, size in zip(ids, LENGTHS, strict=True)]
    expected = torch.stack([one_by_one(model, row) for row in rows])
    losses = [model(input_ids=row[None], labels=row[None]).loss.item() for row in rows] if family in CAUSAL else []
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), [*model.parameters()], allow_unused=True)
    Likelihood.put(family, model, TOKENIZER)
    monkeypatch.setattr(language, "_PIECE", 4 * len(VOCABULARY))  # a text has several pieces, a piece several texts
    outputs = model(input_ids=ids, attention_mask=mask).logits
    assert outputs[:, 1].tolist() == [size - (family in CAUSAL) for size in LENGTHS]
    coarse = family.startswith("gemma")  # its norms compute in float32
    torch.testing.assert_close(outputs[:, 0], expected, rtol=1e-12, atol=1e-6 if coarse else 1e-10)
    for (total, tokens), loss in zip(outputs.tolist(), losses, strict=bool(losses)):
        assert -total / tokens == pytest.approx(loss, rel=1e-5)  # transformers computes its loss in float32
    found = torch.autograd.grad((outputs[:, 0] * weights).sum(), [*model.parameters()], allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5 if coarse else 1e-10)


def test_outputs_over_the_vocabulary_are_never_kept(monkeypatch):
    model, (ids, mask), seen = model_of("llama"), texts(), list[int]()
    Likelihood.put("tiny", model, TOKENIZER)
    monkeypatch.setattr(language, "_PIECE", 4 * len(VOCABULARY))
    model.lm_head.register_forward_hook(lambda _, __, outputs: seen.append(outputs.shape[-2]))
    outputs = model(input_ids=ids, attention_mask=mask).logits
    assert seen == [4, 4, 4, 3]
    kept = list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        model(input_ids=ids, attention_mask=mask)
    assert not [saved for saved in kept if saved.shape[-1:] == (len(VOCABULARY),)]
    outputs[:, 0].sum().backward()
    assert len(seen) == 12  # once more in the backward pass


def test_special_tokens_are_not_scored_by_a_masked_model():
    model, ids = model_of("bert"), torch.tensor([[2, 10, 11, 3, 0]])
    Likelihood.put("tiny", model, TOKENIZER)
    assert model(input_ids=ids, attention_mask=(ids > 0).long()).logits[0, 1] == 2


def test_what_gives_no_likelihood_is_refused():
    with pytest.raises(ModelError, match="reads texts in both directions"):
        Likelihood.put("tiny", model_of("xlnet"), TOKENIZER)
    with pytest.raises(ModelError, match="no mask token"):
        Likelihood.put("tiny", model_of("bert"), SimpleNamespace(mask_token_id=None))
    assert language_model_of(AutoConfig.for_model("bart")) is None
