from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from normtune.errors import ConfigError, SelectionError, UnknownNameError
from normtune.importance.masks import top
from normtune.importance.measurement import MeasuredFisher
from normtune.importance.recipe import MaskRecipe, Sources, combined, make_mask
from normtune.importance.scores import Scores, random_scores
from normtune.methods.expression import select
from normtune.methods.selection import at
from normtune.models.base import Base
from normtune.records.fisher import FisherConfig
from tests.methods.test_selection import LAYOUT

CANDIDATES = at(LAYOUT, [0, 2, 7, 9])


def four(*values: float) -> Scores:
    split = np.array(values, dtype=float)
    counts = [CANDIDATES.count(name) for name in CANDIDATES.chosen]
    parts = np.split(split, np.cumsum(counts)[:-1])
    return Scores(CANDIDATES, dict(zip(CANDIDATES.chosen, parts, strict=True)))


RTE, COLA, MNLI = (1.0, 2.0, 3.0, 4.0), (100.0, 0.0, 0.0, 0.0), (7.0, 1.0, 1.0, 1.0)
TASKS = {"rte": RTE, "cola": COLA, "mnli": MNLI}


def by_entry(scores: Scores) -> dict[tuple[str, int], float]:
    return {
        (p.parameter, int(i)): float(value)
        for p in scores.within
        for i, value in zip(scores.within.indices(p.parameter), scores.values[p.parameter], strict=True)
    }


def flat(scores: Scores) -> list[float]:
    return list(by_entry(scores).values())


def own(**replaced: Scores) -> list[tuple[str, Scores]]:
    return [*({task: four(*values) for task, values in TASKS.items()} | replaced).items()]


def test_every_tasks_share_is_added() -> None:
    expected = [sum(task[i] / sum(task) for task in TASKS.values()) for i in range(4)]
    assert flat(combined(own())) == pytest.approx(expected, rel=1e-14)
    assert flat(combined(own())) != flat(four(*np.sum([*TASKS.values()], axis=0)))  # CoLA alone would dominate raw sums


def test_a_tasks_scale_does_not_matter_to_the_sum() -> None:
    scaled = own(cola=four(*(1e-6 * value for value in COLA)))
    assert flat(combined(scaled)) == pytest.approx(flat(combined(own())), rel=1e-12)


def test_shares_are_of_the_candidates_only() -> None:
    fewer, scores = CANDIDATES & at(LAYOUT, [2, 7, 9]), own(cola=four(100.0, 1.0, 0.0, 0.0))
    at_fewer = {name: np.isin(CANDIDATES.indices(name), fewer.indices(name)) for name in fewer.chosen}
    part = [(task, Scores(fewer, {n: each.values[n][kept] for n, kept in at_fewer.items()})) for task, each in scores]
    expected = [2 / 9 + 1 + 1 / 3, 3 / 9 + 1 / 3, 4 / 9 + 1 / 3]
    assert flat(combined(part)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (four(0, 0, 0, 0), "mnli: Scores that add up to 0"),
        (Scores(at(LAYOUT, [0]), {"a.weight": np.ones(1)}), "different candidates"),
    ],
)
def test_what_cannot_be_put_together_is_refused(scores, said) -> None:
    with pytest.raises(SelectionError, match=said):
        combined(own(mnli=scores))


@pytest.mark.parametrize(
    ("fields", "sources", "target"),
    [
        ({"target": "rte"}, ["rte"], "rte"),
        ({"tasks": ("rte",)}, ["rte"], "rte"),
        ({"scope": "global"}, ["cola", "mnli", "rte"], None),
        ({"scope": "global", "target": "rte"}, ["cola", "mnli", "rte"], None),
        ({"scope": "leave-one-out", "target": "rte"}, ["cola", "mnli"], "rte"),
        ({"importance": "random", "tasks": ()}, [], None),
    ],
)
def test_a_scope_says_whose_importance_goes_in(fields, sources, target) -> None:
    recipe = MaskRecipe(fraction=0.5, **{"tasks": ("rte", "cola", "mnli")} | fields)
    assert recipe.target_and_sources == (target, tuple(sources))


ONE = {"fraction": 0.1, "tasks": ("rte", "cola")}


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({**ONE, "scope": "globl"}, UnknownNameError, "Unknown scope 'globl'. Did you mean 'global'?"),
        ({**ONE, "per": "rows"}, UnknownNameError, "Unknown comparison 'rows'. Did you mean 'row'?"),
        ({**ONE, "importance": "wander"}, UnknownNameError, "Did you mean 'wanda'?"),
        ({**ONE}, ConfigError, "A mask of the scope 'individual' is for one task"),
        ({**ONE, "scope": "leave-one-out"}, ConfigError, "A mask of the scope 'leave-one-out' is for one task"),
        ({**ONE, "target": "rtee"}, UnknownNameError, "Unknown target task 'rtee'. Did you mean 'rte'?"),
        ({"fraction": 0.1, "tasks": ("rte",), "scope": "leave-one-out"}, ConfigError, "no task left"),
        ({"fraction": 0.1}, ConfigError, "is measured on tasks"),
        ({**ONE, "importance": "random"}, ConfigError, "is the same for every task"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(fields, error, said) -> None:
    with pytest.raises(error, match=re.escape(said)):
        _ = MaskRecipe(**fields).target_and_sources


@pytest.mark.parametrize(
    ("kind", "importance", "scope"),
    [
        ("individual", "fisher", "individual"),
        ("leave-one-out", "fisher", "leave-one-out"),
        ("fisher-global", "fisher", "global"),
        ("least-fisher", "least-fisher", "individual"),
        ("wanda-leave-one-out", "wanda", "leave-one-out"),
        ("wanda", "wanda", "individual"),
        ("random", "random", "individual"),
    ],
)
def test_a_kind_of_mask_names_importance_and_scope(kind, importance, scope) -> None:
    recipe = MaskRecipe.of(kind, fraction=0.1, tasks=() if kind == "random" else ("rte", "cola"))
    assert (recipe.importance, recipe.scope) == (importance, scope)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Unknown kind of mask 'wanda-globl'"):
        MaskRecipe.of("wanda-globl", fraction=0.1, tasks=("rte",))


def measured(scores: Scores, examples: int) -> MeasuredFisher:
    record = SimpleNamespace(config=FisherConfig(model="m", task="t", head_seeds=(0, 3)), examples=examples)
    return MeasuredFisher(cast(Any, record), scores, cached=True)


def test_a_mask_is_made_of_its_recipe_and_reads_no_other_task(tiny_base: Base) -> None:
    candidates = select(tiny_base.layout, "layernorm")
    by_task = {task: random_scores(candidates, seed) for seed, task in enumerate(("rte", "cola", "mnli"))}
    asked = []

    def fisher(task: str) -> MeasuredFisher:
        asked.append(task)
        return measured(by_task[task], 7)

    recipe = MaskRecipe(tasks=(*by_task,), scope="leave-one-out", target="rte", fraction=0.1)
    mask = make_mask(tiny_base, recipe, Sources(fisher=fisher))
    assert asked == ["cola", "mnli"]
    shares = by_task["cola"].normalised() + by_task["mnli"].normalised()
    assert mask.selection == top(shares, fraction=0.1)
    assert mask.name == "fisher-leave-one-out@0.1"
    info = mask.info
    assert (info.tasks, info.target, info.examples) == (("cola", "mnli"), "rte", {"cola": 7, "mnli": 7})
    assert (info.estimator, info.head_seeds, info.seed, info.per) == ("empirical", (0, 3), None, "set")
    least = make_mask(
        tiny_base, MaskRecipe(importance="least-fisher", tasks=("rte",), entries=9), Sources(fisher=fisher)
    )
    assert least.selection == top(-by_task["rte"], entries=9)


def test_by_row_every_row_gives_the_same_share(tiny_base: Base) -> None:
    recipe = MaskRecipe(importance="magnitude", fraction=0.25, within="output.dense", per="row")
    mask = make_mask(tiny_base, recipe)
    assert mask.name == "magnitude@0.25 by row of output.dense"
    for place in mask.selection:
        values = tiny_base.model.get_parameter(place.parameter).detach().abs()
        chosen = torch.zeros(place.size, dtype=torch.bool)
        chosen[mask.selection.indices(place.parameter)] = True
        rows = values.reshape(-1, values.shape[-1])  # a bias is one row
        for row, own_mask in zip(rows, chosen.view_as(rows), strict=True):
            assert {*torch.nonzero(own_mask)[:, 0].tolist()} == {*row.topk(len(row) // 4).indices.tolist()}


def test_an_importance_without_its_source_is_refused(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="The importance 'wanda' needs texts, and nothing gives it"):
        make_mask(tiny_base, MaskRecipe(importance="wanda", tasks=("rte",), fraction=0.1))
    with pytest.raises(SelectionError, match="There are no candidates: 'head' selects nothing"):
        make_mask(tiny_base, MaskRecipe(importance="random", fraction=0.1, within="head"))
    for size in ({}, {"fraction": 0.1, "entries": 3}):
        with pytest.raises(ConfigError, match="either a fraction"):
            make_mask(tiny_base, MaskRecipe(importance="random", **size))
    with pytest.raises(ConfigError, match=r"between 0 and 1; got 1\.01"):
        make_mask(tiny_base, MaskRecipe(importance="random", fraction=1.01))
    with pytest.raises(ConfigError, match="between 0 and all 192 candidates; got 193"):
        make_mask(tiny_base, MaskRecipe(importance="random", entries=193))
