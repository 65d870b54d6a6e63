from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DeltaError, SelectionError, UnknownNameError
from normtune.importance.combined import SCOPES, change_scores, combined, magnitude, random_scores
from normtune.importance.masks import top
from normtune.importance.scores import Scores
from normtune.methods.expression import select
from normtune.methods.selection import Selection, at, nothing
from normtune.methods.sparse import Tuning
from normtune.models.base import Base
from tests.methods.test_selection import LAYOUT

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
    scores = magnitude(base, candidates)
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
    scores = magnitude(tiny_base, select(tiny_base.layout, "layernorm"))
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
    """A delta whose values moved by random steps, and the fine-tuned parameters, whole."""
    tuning = Tuning(base, select(base.layout, method))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    delta = Delta.capture(tuning, method=method)
    tuning.undo()
    base.refresh()
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
            change_scores(tiny_base, candidates, delta)
        return
    before = dict(tiny_base.model.named_parameters())
    scores = change_scores(tiny_base, candidates, delta)
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
        change_scores(other, select(other.layout, "layernorm"), delta)


CANDIDATES = at(LAYOUT, [0, 2, 7, 9])


def four(*values: float) -> Scores:
    split = np.array(values, dtype=float)
    counts = [CANDIDATES.count(name) for name in CANDIDATES.chosen]
    parts = np.split(split, np.cumsum(counts)[:-1])
    return Scores(CANDIDATES, dict(zip(CANDIDATES.chosen, parts, strict=True)))


RTE, COLA, MNLI = (1.0, 2.0, 3.0, 4.0), (100.0, 0.0, 0.0, 0.0), (7.0, 1.0, 1.0, 1.0)
TASKS = {"rte": RTE, "cola": COLA, "mnli": MNLI}


def forbidden() -> Scores:
    raise AssertionError("the target was read")


def lazy(**replaced):
    return {task: lambda values=values: four(*values) for task, values in TASKS.items()} | replaced


def flat(scores: Scores) -> list[float]:
    return list(by_entry(scores).values())


def test_individual_is_the_targets_own_and_reads_no_other() -> None:
    assert flat(combined(lazy(cola=forbidden, mnli=forbidden), "individual", "rte")) == list(RTE)


def test_global_adds_every_tasks_share() -> None:
    expected = [sum(task[i] / sum(task) for task in TASKS.values()) for i in range(4)]
    assert flat(combined(lazy(), "global")) == pytest.approx(expected, rel=1e-14)
    # Raw sums would be ruled by CoLA alone, and would rank the first entry's share otherwise.
    assert flat(combined(lazy(), "global", "rte")) == flat(combined(lazy(), "global"))


def test_a_tasks_scale_does_not_matter_to_the_sum() -> None:
    scaled = lazy(cola=lambda: four(*(1e-6 * value for value in COLA)))
    assert flat(combined(scaled, "global")) == pytest.approx(flat(combined(lazy(), "global")), rel=1e-12)


def test_the_order_of_the_tasks_does_not_matter_to_the_bit() -> None:
    tasks = lazy()
    turned = {task: tasks[task] for task in reversed(tasks)}
    assert flat(combined(tasks, "global")) == flat(combined(turned, "global"))


@pytest.mark.parametrize("target", TASKS)
def test_leave_one_out_is_global_without_the_target_which_is_never_read(target: str) -> None:
    others = {task: score for task, score in lazy().items() if task != target}
    left = combined(lazy(**{target: forbidden}), "leave-one-out", target)
    assert flat(left) == flat(combined(others, "global"))
    with pytest.raises(AssertionError, match="the target was read"):
        combined(lazy(**{target: forbidden}), "global")


def test_shares_are_of_the_candidates_only() -> None:
    fewer = CANDIDATES & at(LAYOUT, [2, 7, 9])
    part = {task: lambda values=values: four(*values).restrict(fewer) for task, values in TASKS.items()}
    part["cola"] = lambda: four(100.0, 1.0, 0.0, 0.0).restrict(fewer)
    expected = [2 / 9 + 1 + 1 / 3, 3 / 9 + 1 / 3, 4 / 9 + 1 / 3]
    assert flat(combined(part, "global")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tasks", "scope", "target", "error", "said"),
    [
        (lazy(), "globl", "rte", UnknownNameError, "Unknown scope 'globl'. Did you mean 'global'?"),
        (lazy(), "individual", None, ConfigError, "A mask of the scope 'individual' is for one task"),
        (lazy(), "leave-one-out", None, ConfigError, "A mask of the scope 'leave-one-out' is for one task"),
        (lazy(), "individual", "rtee", UnknownNameError, "Unknown target task 'rtee'. Did you mean 'rte'?"),
        (lazy(), "leave-one-out", "rtee", UnknownNameError, "Unknown target task 'rtee'. Did you mean 'rte'?"),
        ({"rte": forbidden}, "leave-one-out", "rte", ConfigError, "no task left"),
        ({}, "global", None, ConfigError, "no task left"),
        (lazy(mnli=lambda: four(0, 0, 0, 0)), "global", None, SelectionError, "mnli: Scores that add up to 0"),
        (
            lazy(mnli=lambda: Scores(at(LAYOUT, [0]), {"a.weight": np.ones(1)})),
            "global",
            None,
            SelectionError,
            "different candidates",
        ),
    ],
)
def test_what_cannot_be_put_together_is_refused(tasks, scope, target, error, said) -> None:
    with pytest.raises(error, match=re.escape(said)):
        combined(tasks, scope, target)


def test_a_random_mask_is_a_draw_without_replacement(tiny_base: Base) -> None:
    candidates = select(tiny_base.layout, "full")
    mask = top(random_scores(candidates, 0), fraction=0.01)
    assert len(mask) == round(0.01 * len(candidates))
    # Large parameters get their share, small ones too.
    words = "bert.embeddings.word_embeddings.weight"
    assert mask.count(words) == pytest.approx(0.01 * candidates.count(words), rel=0.6)


def test_no_candidates_have_no_scores(tiny_base: Base) -> None:
    none = nothing(tiny_base.layout)
    assert len(magnitude(tiny_base, none)) == len(random_scores(none)) == 0
    assert isinstance(magnitude(tiny_base, none).within, Selection)
    assert set(SCOPES) == {"individual", "global", "leave-one-out"}
