from __future__ import annotations

import numpy as np
import pytest
import torch

from normtune.deltas.delta import Delta
from normtune.errors import DeltaError, SelectionError
from normtune.importance.masks import top
from normtune.importance.scores import IMPORTANCES, Inputs, Scores, change, magnitude, random_scores
from normtune.methods.expression import select
from normtune.methods.selection import nothing
from normtune.methods.trainable import Trainable
from normtune.models.base import Base

WITHIN = ["layernorm", "full", "random", "bitfit & layernorm", "head"]


def by_entry(scores: Scores) -> dict[tuple[str, int], float]:
    return {
        (p.parameter, int(i)): float(value)
        for p in scores.within
        for i, value in zip(scores.within.indices(p.parameter), scores.values[p.parameter], strict=True)
    }


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("family", ["bert", "albert", "gpt2"])
def test_magnitude_is_the_pretrained_values(make_base, family: str, within: str) -> None:
    base = make_base(family)
    candidates = select(base.layout, within)
    scores = magnitude(Inputs(base, candidates))
    assert scores.within == candidates
    state = base.model.state_dict()
    assert by_entry(scores) == {
        (p.parameter, int(i)): abs(state[p.parameter].flatten()[i].item())
        for p in candidates
        for i in candidates.indices(p.parameter)
    }


def test_magnitude_of_a_lower_precision_leaves_the_model_alone(make_model, tiny_base: Base) -> None:
    tiny_base.model.to(torch.bfloat16)
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    before = tiny_base.model.state_dict()[name].clone()
    scores = magnitude(Inputs(tiny_base, select(tiny_base.layout, "layernorm")))
    np.testing.assert_array_equal(scores.values[name], before.double().abs().numpy())
    assert torch.equal(tiny_base.model.state_dict()[name], before)


def test_random_scores_are_uniform_and_seeded(tiny_base: Base) -> None:
    candidates = select(tiny_base.layout, "full")
    one, same, other = (by_entry(random_scores(candidates, seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    values = np.array(list(one.values()))
    histogram = np.histogram(values, bins=10, range=(0, 1))[0]
    assert histogram.sum() == values.size
    # Ten standard deviations of a binomial count.
    assert abs(histogram - values.size / 10).max() < 10 * np.sqrt(values.size * 0.09)


def moved(base: Base, method: str) -> tuple[Delta, dict[str, torch.Tensor]]:
    """A delta whose values moved by random steps, and all parameters with it applied."""
    tuning = Trainable(base, select(base.layout, method))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    delta = Delta.capture(tuning, method=method)
    tuning.undo()
    with delta.apply(base):
        after = {name: value.detach().clone() for name, value in base.model.named_parameters()}
    return delta, after


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("method", ["full", "random + layernorm", "random + layernorm + bitfit"])
def test_change_is_how_far_each_candidate_moved(tiny_base: Base, tmp_path, method, within, saved) -> None:
    delta, after = moved(tiny_base, method)
    if saved:
        delta.save(tmp_path)
        delta = Delta.load(tmp_path)
    candidates = select(tiny_base.layout, within)
    missing = len(candidates - select(tiny_base.layout, method))
    if missing:
        with pytest.raises(SelectionError, match=f"did not train {missing:,} of the {len(candidates):,} candidates"):
            change(Inputs(tiny_base, candidates, runs=(delta,)))
        return
    before = dict(tiny_base.model.named_parameters())
    scores = change(Inputs(tiny_base, candidates, runs=(delta,)))
    assert scores.within == candidates
    assert by_entry(scores) == {
        (p.parameter, int(i)): abs(
            after[p.parameter].flatten()[i].item() - before[p.parameter].detach().flatten()[i].item()
        )
        for p in candidates
        for i in candidates.indices(p.parameter)
    }
    assert all(value > 0 for value in by_entry(scores).values())


def test_the_change_of_another_model_is_refused(tiny_base: Base, make_base) -> None:
    delta, _ = moved(tiny_base, "full")
    other = make_base("bert", seed=4)
    with pytest.raises(DeltaError, match="belongs to the base model"):
        change(Inputs(other, select(other.layout, "layernorm"), runs=(delta,)))


def test_a_random_mask_is_a_draw_without_replacement(tiny_base: Base) -> None:
    candidates = select(tiny_base.layout, "full")
    mask = top(random_scores(candidates, 0), fraction=0.01)
    assert len(mask) == round(0.01 * len(candidates))
    # Large parameters get their share, small ones too.
    words = "bert.embeddings.word_embeddings.weight"
    assert mask.count(words) == pytest.approx(0.01 * candidates.count(words), rel=0.6)


def test_no_candidates_have_no_scores(tiny_base: Base) -> None:
    none = nothing(tiny_base.layout)
    assert len(magnitude(Inputs(tiny_base, none))) == len(random_scores(none)) == 0


def test_every_importance_says_what_it_is() -> None:
    assert [*IMPORTANCES] == ["fisher", "least-fisher", "change", "magnitude", "wanda", "obd", "obs", "random"]
    assert all(importance.about for importance in IMPORTANCES.values())
