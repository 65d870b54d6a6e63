"""The last layer for the first token, against the whole layer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

from normtune.fast.first_token import BERTS, can_shorten, reads_first_token, shortened

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50}


@pytest.mark.parametrize("family", BERTS)
def test_the_outputs_are_the_whole_models(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE, num_labels=3, pad_token_id=0, max_position_embeddings=40)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").double().eval()
    assert reads_first_token(model.config)
    ids = torch.randint(3, 50, (4, 9))
    masks = [torch.ones_like(ids), (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()]
    for mask in masks:
        inputs = {"input_ids": ids * mask, "attention_mask": mask}
        with torch.no_grad():
            whole = model(**inputs).logits
            with shortened(model):
                torch.testing.assert_close(model(**inputs).logits, whole, rtol=1e-12, atol=1e-12)
            assert torch.equal(model(**inputs).logits, whole)


def test_others_are_left_whole():
    for family in ("distilbert", "electra"):
        config = AutoConfig.for_model(family)
        config._attn_implementation = "sdpa"
        assert not reads_first_token(config)
    decoder = AutoConfig.for_model("bert", is_decoder=True)
    decoder._attn_implementation = "sdpa"
    assert not reads_first_token(decoder)
    eager = AutoConfig.for_model("bert")
    eager._attn_implementation = "eager"
    assert not reads_first_token(eager)


@pytest.mark.parametrize("where", ["layer", "attention", "self"])
def test_a_last_layer_that_somebody_changed_is_left_whole(where):
    config = AutoConfig.for_model("bert", **SHAPE)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    first, last = model.base_model.encoder.layer
    names = {"layer": "", "attention": "attention", "self": "attention.self"}
    assert can_shorten(model)
    first.get_submodule(names[where]).register_forward_hook(lambda *_: None)
    assert can_shorten(model)
    module = last.get_submodule(names[where])
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        handle = register(lambda *_: None)
        assert not can_shorten(model)
        handle.remove()
    module.forward = module.forward
    assert not can_shorten(model)
    del module.forward
    assert can_shorten(model)
    kind = type(module)
    module.__class__ = type("Mine", (kind,), {"__module__": "mine"})
    assert not can_shorten(model)


class Mean(BertForSequenceClassification):
    """A classifier of the user's own, which reads all tokens."""


def test_a_head_from_outside_the_libraries_may_read_more():
    config = AutoConfig.for_model("bert", **SHAPE)
    for kind, shortens in ((BertForSequenceClassification, True), (Mean, False)):
        model = kind._from_config(config, attn_implementation="sdpa")
        assert can_shorten(model) is shortens
    model = BertForSequenceClassification._from_config(config, attn_implementation="sdpa")
    model.bert.pooler = type("Pooler", (type(model.bert.pooler),), {"__module__": "mine"})(config)
    assert not can_shorten(model)
