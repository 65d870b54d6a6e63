"""Many runs: the search, the store, and continuing after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from normtune.config import RunConfig, protocol
from normtune.errors import ConfigError, SelectionError, TrainingError
from normtune.importance.masks import Mask
from normtune.importance.scores import random_scores
from normtune.methods.expression import select
from normtune.models.base import Base
from normtune.records.store import Store
from normtune.studies.runs import Cell, Finished, Runner, cells, mask_cells
from normtune.training.session import Session
from tests.training.test_session import TASK, data

SMALL = protocol("small", epochs=2, batch_size=8)


@pytest.fixture
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


def test_the_best_rate_of_the_first_seed_is_used_for_the_others(session: Session, tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = Cell(data(), "full", (0, 1, 2), (1e-9, 1e-3))
    found = Runner(session, protocol("small", epochs=10, batch_size=8), store=store).cell(cell)
    tried = {(r.config.seed, r.config.rate): r.score for r in store}
    best = max((1e-9, 1e-3), key=lambda rate: tried[0, rate] or 0.0)
    assert [(run.record.config.seed, run.record.config.rate) for run in found] == [(0, best), (1, best), (2, best)]
    assert len(tried) == cell.runs == 4


def test_what_is_in_the_store_is_not_run_again(session: Session, tmp_path: Path) -> None:
    cell = Cell(data(), "head", (0, 1), (1e-2, 1e-1))
    Runner(session, SMALL, store=Store(tmp_path)).cell(cell)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    seen: list[Finished] = []
    Runner(session, SMALL, store=Store(tmp_path), end=seen.append).cell(cell)
    assert [run.cached for run in seen] == [True, True, True]
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_deltas_wanted_but_not_kept_are_trained_again(session: Session, tmp_path: Path) -> None:
    cell = Cell(data(), "head", (0,), (1e-2,))
    Runner(session, SMALL, store=Store(tmp_path / "store")).cell(cell)
    for cached in (False, True):
        [run] = Runner(session, SMALL, store=Store(tmp_path / "store"), aside=tmp_path / "aside").cell(cell)
        assert run.delta is not None
        assert run.cached is cached


def test_one_rate_that_diverges_is_told_and_the_search_goes_on(session: Session) -> None:
    told: list[tuple[RunConfig, str]] = []
    runner = Runner(session, SMALL, fail=lambda config, message: told.append((config, message)))
    [run] = runner.cell(Cell(data(), "full", (0,), (1e-3, 1e18)))
    assert run.record.config.rate == 1e-3
    assert [config.rate for config, _ in told] == [1e18]
    with pytest.raises(TrainingError, match=r"at step \d+ of 10"):
        runner.cell(Cell(data(), "full", (0,), (1e18,)))


def test_every_method_gets_as_many_rates(session: Session) -> None:
    methods = ["head", "full", "bitfit", "layernorm", "random", "last-layers@1", "pooler.dense"]
    plan = cells(session, [data()], methods, [0], protocol=SMALL, rates=None, search=True)
    assert {len(cell.rates) for cell in plan} == {3}
    single = cells(session, [data()], methods, [0], protocol=SMALL, rates=None, search=False)
    assert all(len(one.rates) == 1 and one.rates[0] in many.rates for one, many in zip(single, plan, strict=True))


def mask(base: Base, seed: int = 0, fraction: float = 0.1, **info: object) -> Mask:
    scores = random_scores(select(base.layout, "layernorm"), seed)
    return Mask.make(base, scores, **{"fraction": fraction, "importance": "fisher", **info})


def planned(session: Session, masks: list[Mask], rates: list[float] | None = None) -> list[Cell]:
    tasks = [data(replace(TASK, name=name)) for name in ("one", "two")]
    return mask_cells(session, tasks, masks, [0, 1], protocol=SMALL, rates=rates, search=True)


def test_masks_of_one_name_are_one_row_where_each_task_takes_its_own(session: Session) -> None:
    own = {t: mask(session.base, i, scope="individual", target=t) for i, t in enumerate(("one", "two", "three"))}
    every = mask(session.base, 3, scope="global")
    plan = planned(session, [own["three"], every, own["two"], own["one"]])
    assert [(cell.data.task.name, cell.method, cell.selection) for cell in plan] == [
        ("one", "fisher-individual@0.1", own["one"].selection),
        ("one", "fisher-global@0.1", every.selection),
        ("two", "fisher-individual@0.1", own["two"].selection),
        ("two", "fisher-global@0.1", every.selection),
    ]
    alone = planned(session, [own["one"]])
    assert [cell.method for cell in alone] == ["fisher-individual@0.1", "fisher-individual@0.1 for one"]


def test_masks_take_the_rates_given_or_the_grid_of_their_size(session: Session) -> None:
    found = {mask(session.base, fraction=f).name: mask(session.base, fraction=f) for f in (0.0, 0.1, 1.0)}
    plan = planned(session, list(found.values()))[:3]
    like = cells(session, [data()], ["head", "layernorm@0", "layernorm"], [0], protocol=SMALL, rates=None, search=True)
    assert plan[0].rates == like[0].rates
    assert plan[1].rates == like[2].rates != like[0].rates
    assert {cell.rates for cell in planned(session, list(found.values()), [0.2, 0.1])} == {(0.1, 0.2)}
    whole = select(session.base.layout, "full")
    assert session.grid("random@1.0 of full", whole) == session.grid("full") != session.grid("layernorm")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("one", "one"), "Two masks are called 'fisher@0.1' and cannot be told apart"),
        (("one", None), "Two masks are called 'fisher@0.1' and cannot be told apart"),
        (("one", "three"), "masks called 'fisher@0.1' are for one, three; none is for two"),
    ],
)
def test_masks_that_leave_a_choice_open_are_refused(
    session: Session, targets: tuple[str | None, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(session, [mask(session.base, i, target=target) for i, target in enumerate(targets)])


def test_a_mask_of_another_model_is_refused(session: Session, make_base: Callable[..., Base]) -> None:
    with pytest.raises(SelectionError, match="This mask belongs to the base model"):
        planned(session, [mask(make_base("bert", seed=4))])
