"""The fast generator under any model: in every place that torch's dropout is, and in no other."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from normtune.fast.dropping import dropout_of
from normtune.fast.linear import fast_linear
from tests.conftest import VOCABULARY, ModelFactory


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, len(VOCABULARY), (3, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3  # some families read their answer off the end of the text
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_no_family_draws_from_torch(family: str, make_model: ModelFactory) -> None:
    model = make_model(family).train()
    with profile(activities=[ProfilerActivity.CPU]) as watched, dropout_of("fast"), fast_linear():
        model(**inputs()).logits.sum().backward()
    names = {event.key for event in watched.key_averages()}
    assert not names & {"aten::bernoulli_", "aten::native_dropout"}
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_the_mean_over_many_draws_is_that_of_torch(make_model: ModelFactory) -> None:
    model, given = make_model("bert").train(), inputs()
    means, spreads = [], []
    for generator in ("torch", "fast"):
        torch.manual_seed(0)
        with torch.no_grad(), dropout_of(generator):  # type: ignore[arg-type]
            drawn = torch.stack([model(**given).logits for _ in range(400)]).double()
        means.append(drawn.mean(0))
        spreads.append(drawn.std(0))
    assert bool(((means[0] - means[1]).abs() < 4.5 * (2 / 400) ** 0.5 * spreads[0]).all())
    assert torch.allclose(spreads[0], spreads[1], rtol=0.25)


def test_without_training_nothing_is_dropped(make_model: ModelFactory) -> None:
    model, given = make_model("bert"), inputs()
    expected = model(**given).logits
    with dropout_of("fast"):
        assert torch.equal(model(**given).logits, expected)


def test_what_is_computed_again_drops_the_same(make_model: ModelFactory) -> None:
    layer = make_model("bert").bert.encoder.layer[0].train()
    hidden = torch.randn(2, 5, 32)
    grads = []
    for again in (False, True):
        own = hidden.clone().requires_grad_()
        torch.manual_seed(5)
        with dropout_of("fast"), fast_linear():
            outputs = checkpoint(layer, own, use_reentrant=False) if again else layer(own)
            outputs.square().sum().backward()
        grads.append(own.grad)
    assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("inplace", [False, True])
def test_in_place_is_kept(inplace: bool) -> None:
    values = torch.ones(1000)
    with dropout_of("fast"):
        result = torch.nn.functional.dropout(values, 0.5, inplace=inplace)
    assert (result.data_ptr() == values.data_ptr()) == inplace
    assert set(result.tolist()) == {0.0, 2.0}
